-- Plans, limits, and the ledger that quotas are granted from.

-- What organizations pay for (a reference table on Citus), as it is now, and in each of its versions.
CREATE TABLE tenancy.plans (
    key text NOT NULL,
    display_name text NOT NULL,
    description text NOT NULL DEFAULT '',
    -- An array of {limit_id, rule}; an object of scalars.
    limits jsonb NOT NULL DEFAULT '[]',
    features jsonb NOT NULL DEFAULT '{}',
    -- Counts the changes of limits and features.
    version bigint NOT NULL DEFAULT 1,
    -- Counts all changes; the etag is made of it.
    revision bigint NOT NULL DEFAULT 1,
    archive_time timestamptz,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT plans_pkey PRIMARY KEY (key),
    CONSTRAINT plans_limits CHECK (jsonb_typeof(limits) = 'array'),
    CONSTRAINT plans_features CHECK (jsonb_typeof(features) = 'object')
);
GRANT SELECT ON tenancy.plans TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.plans TO tenancy_platform;
GRANT UPDATE (display_name, description, limits, features, version, revision, archive_time, update_time)
    ON tenancy.plans TO tenancy_platform;

CREATE TABLE tenancy.plan_versions (
    key text NOT NULL,
    version bigint NOT NULL,
    limits jsonb NOT NULL,
    features jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT plan_versions_pkey PRIMARY KEY (key, version),
    CONSTRAINT plan_versions_plan_fkey FOREIGN KEY (key) REFERENCES tenancy.plans (key)
);
GRANT SELECT, INSERT ON tenancy.plan_versions TO tenancy_platform;

-- The plans that organizations could be on before plans were rows. They limit nothing until an operator says so.
INSERT INTO tenancy.plans (key, display_name, create_time, update_time)
SELECT key, display_name, now(), now()
FROM (VALUES ('free', 'Free'), ('starter', 'Starter'), ('pro', 'Pro'), ('enterprise', 'Enterprise')) AS plan (key, display_name);
INSERT INTO tenancy.plan_versions (key, version, limits, features, create_time)
SELECT key, version, limits, features, create_time FROM tenancy.plans;

ALTER TABLE tenancy.organizations
    DROP CONSTRAINT organizations_plan,
    ADD CONSTRAINT organizations_plan_fkey FOREIGN KEY (plan) REFERENCES tenancy.plans (key),
    -- On which day of the month its months of limits turn; the last one in a shorter month.
    ADD COLUMN billing_anchor_day smallint NOT NULL DEFAULT 1,
    ADD CONSTRAINT organizations_billing_anchor_day CHECK (billing_anchor_day BETWEEN 1 AND 31);

-- The limits made for one organization, beside those of its plan.
CREATE TABLE tenancy.limits (
    organization_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    -- 'platform' replaces the plan's; 'organization' holds in addition.
    maker text NOT NULL,
    -- NULL: each subject of the kind.
    subject_id uuid,
    -- No foreign key: the meter may be a platform-wide one.
    meter_id uuid NOT NULL,
    subject_kind text NOT NULL,
    -- 'calendar_second' to 'rolling_month', 'lifetime'.
    window_kind text NOT NULL,
    -- The part of the rule that can be changed: what is counted stays the same.
    rule jsonb NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT limits_pkey PRIMARY KEY (organization_id, limit_id),
    CONSTRAINT limits_maker CHECK (maker IN ('platform', 'organization')),
    CONSTRAINT limits_subject_kind CHECK (subject_kind IN ('organization', 'team', 'user', 'api_key')),
    CONSTRAINT limits_rule CHECK (jsonb_typeof(rule) = 'object'),
    CONSTRAINT limits_organization_fkey FOREIGN KEY (organization_id)
        REFERENCES tenancy.organizations (organization_id)
);
-- One of each maker for a subject, a meter and a window. Not a constraint with NULLS NOT DISTINCT, which takes Postgres 15.
CREATE UNIQUE INDEX limits_taken ON tenancy.limits
    (organization_id, maker, subject_kind, COALESCE(subject_id, '00000000-0000-0000-0000-000000000000'), meter_id, window_kind);
CALL tenancy.isolate('tenancy.limits');
GRANT SELECT, INSERT, DELETE ON tenancy.limits TO tenancy_app;
GRANT UPDATE (rule, revision, update_time) ON tenancy.limits TO tenancy_app;

-- The ledger: what of a limit was granted to the replicas, by organization, subject, meter and window, and not by limit, so
-- that replacing a limit opens no fresh window. One row is read, changed and written under its lock; what is in the state is
-- the business of src/quota/account.rs. The constraint is the last line of defence: no more is granted than there is.
CREATE TABLE tenancy.quota_accounts (
    organization_id uuid NOT NULL,
    subject_kind text NOT NULL,
    -- Of an organization its own id.
    subject_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    window_kind text NOT NULL,
    -- How much may be granted in the window: the limit, or what was granted already when the limit was lowered below it.
    -- NULL: a soft limit, which counts and does not end.
    ceiling bigint,
    granted bigint NOT NULL,
    state jsonb NOT NULL,
    -- From then on the row says nothing any more.
    expire_time timestamptz NOT NULL,
    CONSTRAINT quota_accounts_pkey PRIMARY KEY (organization_id, subject_kind, subject_id, meter_id, window_kind),
    CONSTRAINT quota_accounts_granted CHECK (granted >= 0 AND granted <= ceiling)
    -- Room for the next versions of a row on its page: its state changes with every exchange, and nothing that is indexed.
) WITH (fillfactor = 60);
CREATE INDEX quota_accounts_expire_time ON tenancy.quota_accounts (expire_time);
CALL tenancy.isolate('tenancy.quota_accounts');
CALL tenancy.open_to_ingest('tenancy.quota_accounts');
GRANT SELECT ON tenancy.quota_accounts TO tenancy_app;
GRANT SELECT, INSERT, UPDATE ON tenancy.quota_accounts TO tenancy_ingest;
CREATE POLICY platform_select ON tenancy.quota_accounts FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_delete ON tenancy.quota_accounts FOR DELETE TO tenancy_platform USING (true);
GRANT SELECT (expire_time), DELETE ON tenancy.quota_accounts TO tenancy_platform;

-- What must happen once: operations with a durable id, settled reservations, refunds.
CREATE TABLE tenancy.quota_operations (
    organization_id uuid NOT NULL,
    -- A reservation's id, or a UUIDv8 of the SHA-256 of the caller's operation id.
    operation_id uuid NOT NULL,
    -- SHA-256 of the request; empty where another request gets the same reply.
    request_hash bytea NOT NULL,
    reply bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT quota_operations_pkey PRIMARY KEY (organization_id, operation_id)
);
CREATE INDEX quota_operations_create_time ON tenancy.quota_operations (create_time);
CALL tenancy.isolate('tenancy.quota_operations');
CALL tenancy.open_to_ingest('tenancy.quota_operations');
GRANT SELECT, INSERT ON tenancy.quota_operations TO tenancy_ingest;
CREATE POLICY platform_select ON tenancy.quota_operations FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_delete ON tenancy.quota_operations FOR DELETE TO tenancy_platform USING (true);
GRANT SELECT (create_time), DELETE ON tenancy.quota_operations TO tenancy_platform;

-- What all replicas sign with, by what it is for: a reservation that one of them made is settled on any.
CREATE TABLE tenancy.signing_keys (
    purpose text NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT signing_keys_pkey PRIMARY KEY (purpose),
    CONSTRAINT signing_keys_length CHECK (octet_length(key) = 32)
);
GRANT SELECT ON tenancy.signing_keys TO tenancy_platform;
-- Two random UUIDs: 244 bits from the server's strong generator, without an extension.
INSERT INTO tenancy.signing_keys (purpose, key)
VALUES ('quota_reservation', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
