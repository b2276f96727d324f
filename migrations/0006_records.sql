-- The audit, the requests that may be repeated, and the change log that keeps the caches of all replicas true.
CREATE TABLE tenancy.audit_events (
    organization_id uuid NOT NULL,
    -- UUIDv7: in the order of time.
    audit_event_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    actor_type text NOT NULL,
    actor_id text NOT NULL,
    acting_user_id uuid,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    before jsonb,
    after jsonb,
    request_id text NOT NULL DEFAULT '',
    CONSTRAINT audit_events_pkey PRIMARY KEY (organization_id, audit_event_id),
    CONSTRAINT audit_events_actor_type CHECK (actor_type IN ('api_key', 'service', 'operator', 'system'))
);
CALL tenancy.isolate('tenancy.audit_events');
GRANT SELECT, INSERT ON tenancy.audit_events TO tenancy_app;
-- The first record of an organization is written by the scope that creates it.
CREATE POLICY platform_insert ON tenancy.audit_events FOR INSERT TO tenancy_platform WITH CHECK (true);
GRANT INSERT ON tenancy.audit_events TO tenancy_platform;

-- Changes that belong to no organization: users, platform-wide meters, platform keys, purges.
CREATE TABLE tenancy.platform_audit_events (
    audit_event_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    actor_type text NOT NULL,
    actor_id text NOT NULL,
    acting_user_id uuid,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    before jsonb,
    after jsonb,
    request_id text NOT NULL DEFAULT '',
    CONSTRAINT platform_audit_events_pkey PRIMARY KEY (audit_event_id),
    CONSTRAINT platform_audit_events_actor_type CHECK (actor_type IN ('api_key', 'service', 'operator', 'system'))
);
GRANT SELECT, INSERT ON tenancy.platform_audit_events TO tenancy_platform;
-- A user who changes their own address does so in the scope of an organization.
GRANT INSERT ON tenancy.platform_audit_events TO tenancy_app;

-- Requests that carried a request_id, for 24 hours: a repeated one gets the reply of the first (AIP-155).
CREATE TABLE tenancy.idempotent_requests (
    organization_id uuid NOT NULL,
    -- Who, by which method: 'api_key:<id>', 'service:<id>', …
    principal text NOT NULL,
    method text NOT NULL,
    request_id uuid NOT NULL,
    -- SHA-256 of the request.
    request_hash bytea NOT NULL,
    -- The encoded reply, without any secret.
    reply bytea,
    create_time timestamptz NOT NULL,
    CONSTRAINT idempotent_requests_pkey PRIMARY KEY (organization_id, principal, method, request_id)
);
CREATE INDEX idempotent_requests_create_time ON tenancy.idempotent_requests (create_time);
CALL tenancy.isolate('tenancy.idempotent_requests');
GRANT SELECT, INSERT, UPDATE ON tenancy.idempotent_requests TO tenancy_app;
CREATE POLICY platform_select ON tenancy.idempotent_requests FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_delete ON tenancy.idempotent_requests FOR DELETE TO tenancy_platform USING (true);
GRANT SELECT (create_time), DELETE ON tenancy.idempotent_requests TO tenancy_platform;

CREATE TABLE tenancy.platform_idempotent_requests (
    principal text NOT NULL,
    method text NOT NULL,
    request_id uuid NOT NULL,
    request_hash bytea NOT NULL,
    reply bytea,
    create_time timestamptz NOT NULL,
    CONSTRAINT platform_idempotent_requests_pkey PRIMARY KEY (principal, method, request_id)
);
CREATE INDEX platform_idempotent_requests_create_time ON tenancy.platform_idempotent_requests (create_time);
GRANT SELECT, INSERT, UPDATE, DELETE ON tenancy.platform_idempotent_requests TO tenancy_platform;

-- What changed, for the caches. Every replica reads the rows whose transaction was not yet over when it looked last, so
-- commits out of order are not missed; pg_notify only makes it look sooner.
CREATE TABLE tenancy.changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- 'api_key:<lookup id>', 'organization:<id>', 'member:<organization id>:<user id>', 'user:<id>', 'meters:<organization id>', …
    subject text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT changes_pkey PRIMARY KEY (change_id)
);
CREATE INDEX changes_transaction ON tenancy.changes (transaction_id);
CREATE INDEX changes_create_time ON tenancy.changes (create_time);
GRANT INSERT ON tenancy.changes TO tenancy_app;
GRANT SELECT, INSERT, DELETE ON tenancy.changes TO tenancy_platform;

-- Removes everything of an organization whose purge is due, and tells whether it did. As the owner, inside the purged
-- organization's own setting: the policies bind it, so that it cannot touch another.
CREATE FUNCTION tenancy.purge_organization(purged uuid, due_at timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_organization constant text := coalesce(current_setting('tenancy.organization_id', true), '');
    tenant_table regclass;
    due boolean;
BEGIN
    EXECUTE format('SET LOCAL tenancy.organization_id = %L', purged);
    SELECT o.purge_time <= due_at INTO due FROM tenancy.organizations o WHERE o.organization_id = purged FOR UPDATE;
    IF due THEN
        DELETE FROM tenancy.api_key_directory WHERE organization_id = purged;
        -- Children before parents: whatever refers to organizations goes first, and what refers to that before it.
        FOR tenant_table IN
            WITH RECURSIVE depth (oid, level) AS (
                SELECT c.oid, 0 FROM pg_class c
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped
                WHERE c.relnamespace = 'tenancy'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                  AND c.relname NOT IN ('organizations', 'organization_slugs', 'api_key_directory')
                UNION
                SELECT f.conrelid, d.level + 1 FROM depth d JOIN pg_constraint f ON f.confrelid = d.oid AND f.contype = 'f'
                WHERE f.conrelid <> d.oid AND f.conparentid = 0
            )
            SELECT oid::regclass FROM depth GROUP BY oid ORDER BY max(level) DESC, oid
        LOOP
            EXECUTE format('DELETE FROM %s WHERE organization_id = $1', tenant_table) USING purged;
        END LOOP;
        DELETE FROM tenancy.organizations WHERE organization_id = purged;
        DELETE FROM tenancy.organization_slugs WHERE organization_id = purged;
    END IF;
    EXECUTE format('SET LOCAL tenancy.organization_id = %L', caller_organization);
    RETURN coalesce(due, false);
END
$$;
REVOKE ALL ON FUNCTION tenancy.purge_organization(uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.purge_organization(uuid, timestamptz) TO tenancy_platform;

-- The newest migration applied, so that a service can tell before serving whether the schema is its own. The table of
-- migrations belongs to the owner alone.
CREATE FUNCTION tenancy.schema_version() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT max(version) FROM public._sqlx_migrations WHERE success);
END
$$;
REVOKE ALL ON FUNCTION tenancy.schema_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.schema_version() TO tenancy_app, tenancy_ingest, tenancy_platform;
