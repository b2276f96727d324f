-- How large organizations may become, by their plan or by an operator; and how often somebody may do what costs others.

-- NULL: no limit. As limits and features, part of what a version of a plan has.
ALTER TABLE tenancy.plans
    ADD COLUMN member_limit integer,
    ADD COLUMN team_limit integer,
    ADD CONSTRAINT plans_member_limit CHECK (member_limit > 0),
    ADD CONSTRAINT plans_team_limit CHECK (team_limit >= 0);
GRANT UPDATE (member_limit, team_limit) ON tenancy.plans TO tenancy_platform;
ALTER TABLE tenancy.plan_versions
    ADD COLUMN member_limit integer,
    ADD COLUMN team_limit integer;
-- NULL: the plan's.
ALTER TABLE tenancy.organizations
    ADD COLUMN team_limit integer,
    ADD CONSTRAINT organizations_team_limit CHECK (team_limit >= 0);

-- When somebody last did what nobody may do often: the window slides exactly. No role has a grant: the functions below are
-- the only way, and what is taken by a transaction that rolls back was not taken.
CREATE TABLE tenancy.allowances (
    -- What is done.
    kind text NOT NULL,
    -- Who does it: a user or a key.
    subject uuid NOT NULL,
    times timestamptz[] NOT NULL,
    -- From then on the row says nothing any more.
    expire_time timestamptz NOT NULL,
    CONSTRAINT allowances_pkey PRIMARY KEY (kind, subject)
);
CREATE INDEX allowances_expire_time ON tenancy.allowances (expire_time);

-- Takes as many of `wanted` as are left of `most` since a time, which is what the window's begin is at `taken_at`. Returns how
-- many, and where some were not left, from when on there is one more. The row stays locked until the transaction ends, so
-- that those who take at the same time wait for each other, whichever replica serves them.
CREATE FUNCTION tenancy.take_allowance(
    taken_kind text, taken_subject uuid, wanted integer, most integer, since timestamptz, taken_at timestamptz,
    OUT taken integer, OUT retry_time timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    span constant interval := taken_at - since;
    known timestamptz[];
BEGIN
    INSERT INTO tenancy.allowances AS a (kind, subject, times, expire_time)
    VALUES (taken_kind, taken_subject, '{}', taken_at + span)
    ON CONFLICT ON CONSTRAINT allowances_pkey DO UPDATE SET kind = excluded.kind
    RETURNING a.times INTO known;
    known := ARRAY(SELECT u.at FROM unnest(known) AS u (at) WHERE u.at > since ORDER BY u.at);
    taken := greatest(least(wanted, most - cardinality(known)), 0);
    known := known || array_fill(taken_at, ARRAY[taken]);
    IF taken < wanted THEN
        -- Where `most` was lowered, more than the oldest has to go.
        retry_time := known[cardinality(known) - most + 1] + span;
    END IF;
    UPDATE tenancy.allowances a
    SET times = known, expire_time = (SELECT max(u.at) FROM unnest(known) AS u (at)) + span
    WHERE a.kind = taken_kind AND a.subject = taken_subject AND taken > 0;
END
$$;
REVOKE ALL ON FUNCTION tenancy.take_allowance(text, uuid, integer, integer, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.take_allowance(text, uuid, integer, integer, timestamptz, timestamptz)
    TO tenancy_app, tenancy_platform;

-- Forgets what says nothing any more. Returns how many rows.
CREATE FUNCTION tenancy.forget_allowances(expired_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    forgotten bigint;
BEGIN
    DELETE FROM tenancy.allowances a WHERE a.expire_time <= expired_at;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
REVOKE ALL ON FUNCTION tenancy.forget_allowances(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.forget_allowances(timestamptz) TO tenancy_platform;
