-- Tokens: the keys that they are signed with, and from where on those of a user count.

-- Shared by all replicas. The private halves are sealed with a key of the replicas' configuration: who reads this table, or a
-- backup of it, signs nothing. Public halves are for everybody.
CREATE TABLE tenancy.token_keys (
    token_key_id uuid NOT NULL,
    public_key bytea NOT NULL,
    sealed_private_key bytea NOT NULL,
    create_time timestamptz NOT NULL,
    -- From then on it signs. It is published before, as those who verify keep the set for a while.
    activate_time timestamptz NOT NULL,
    -- From then on its successor signs; NULL while there is none.
    retire_time timestamptz,
    -- From then on no token of it counts any more, and it is gone.
    expire_time timestamptz,
    CONSTRAINT token_keys_pkey PRIMARY KEY (token_key_id),
    CONSTRAINT token_keys_public CHECK (octet_length(public_key) = 32),
    CONSTRAINT token_keys_end CHECK ((retire_time IS NULL) = (expire_time IS NULL)),
    CONSTRAINT token_keys_order CHECK (activate_time <= retire_time AND retire_time <= expire_time)
);
GRANT SELECT, INSERT, DELETE, UPDATE (sealed_private_key, retire_time, expire_time)
    ON tenancy.token_keys TO tenancy_platform;

-- A token carries the sum of both, and counts while it is what it was. Neither is ever a smaller one, and that of a membership
-- begins with the milliseconds of its creation: who is removed and added again does not get their old tokens back.
ALTER TABLE tenancy.users ADD COLUMN token_generation bigint NOT NULL DEFAULT 0;
GRANT SELECT (token_generation) ON tenancy.users TO tenancy_app;
ALTER TABLE tenancy.members
    ADD COLUMN token_generation bigint NOT NULL DEFAULT (extract(epoch FROM now()) * 1000)::bigint;

-- Users do something by tokens of their own. Workloads may do nothing that is audited, and are named like the others.
ALTER TABLE tenancy.audit_events
    DROP CONSTRAINT audit_events_actor_type,
    ADD CONSTRAINT audit_events_actor_type
        CHECK (actor_type IN ('api_key', 'service', 'operator', 'system', 'workload', 'user'));
ALTER TABLE tenancy.platform_audit_events
    DROP CONSTRAINT platform_audit_events_actor_type,
    ADD CONSTRAINT platform_audit_events_actor_type
        CHECK (actor_type IN ('api_key', 'service', 'operator', 'system', 'workload', 'user'));
