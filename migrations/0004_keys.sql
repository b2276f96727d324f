-- The keys of tenants, the keys of the platform, and the directory that finds either by lookup id before the tenant is
-- known. Of a secret only its argon2id PHC string is kept.
CREATE TABLE tenancy.api_keys (
    organization_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    -- As in the prefix: 'sk_live', 'sk_test', 'pk_live', 'pk_test', 'pk_widget'.
    kind text NOT NULL,
    lookup_id text NOT NULL,
    secret_hash text NOT NULL,
    -- The secret before the last rotation, and until when it still works.
    previous_secret_hash text,
    previous_secret_expire_time timestamptz,
    display_name text NOT NULL,
    labels jsonb NOT NULL DEFAULT '{}',
    scopes text[] NOT NULL,
    allowed_origins text[] NOT NULL DEFAULT '{}',
    disabled boolean NOT NULL DEFAULT false,
    expire_time timestamptz,
    revoke_time timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT api_keys_pkey PRIMARY KEY (organization_id, api_key_id),
    CONSTRAINT api_keys_kind CHECK (kind IN ('sk_live', 'sk_test', 'pk_live', 'pk_test', 'pk_widget')),
    CONSTRAINT api_keys_previous CHECK ((previous_secret_hash IS NULL) = (previous_secret_expire_time IS NULL)),
    CONSTRAINT api_keys_organization_fkey FOREIGN KEY (organization_id)
        REFERENCES tenancy.organizations (organization_id)
);
CALL tenancy.isolate('tenancy.api_keys');
GRANT SELECT, INSERT, UPDATE ON tenancy.api_keys TO tenancy_app;

-- When a key was last used: a table of its own, so that a use changes no etag and announces nothing. Written in batches
-- over many tenants, hence by the ingest scope. No foreign key: one tenant that was purged a moment ago must not keep
-- the uses of all others from being written.
CREATE TABLE tenancy.api_key_uses (
    organization_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    last_used_time timestamptz NOT NULL,
    CONSTRAINT api_key_uses_pkey PRIMARY KEY (organization_id, api_key_id)
);
CALL tenancy.isolate('tenancy.api_key_uses');
CALL tenancy.open_to_ingest('tenancy.api_key_uses');
GRANT SELECT ON tenancy.api_key_uses TO tenancy_app;
GRANT SELECT, INSERT, UPDATE ON tenancy.api_key_uses TO tenancy_ingest;

-- Keys of the platform: 'svc' for its backends and sidecars, 'op' for its operators. They belong to no organization.
CREATE TABLE tenancy.platform_keys (
    platform_key_id uuid NOT NULL,
    kind text NOT NULL,
    lookup_id text NOT NULL,
    secret_hash text NOT NULL,
    display_name text NOT NULL,
    -- For 'svc'; an operator may do everything.
    scopes text[] NOT NULL DEFAULT '{}',
    -- For 'svc': the organizations it may name; NULL means all.
    organization_ids uuid[],
    expire_time timestamptz,
    revoke_time timestamptz,
    last_used_time timestamptz,
    create_time timestamptz NOT NULL,
    CONSTRAINT platform_keys_pkey PRIMARY KEY (platform_key_id),
    CONSTRAINT platform_keys_kind CHECK (kind IN ('svc', 'op')),
    CONSTRAINT platform_keys_operator CHECK (kind = 'svc' OR (scopes = '{}' AND organization_ids IS NULL))
);
GRANT SELECT, INSERT, UPDATE ON tenancy.platform_keys TO tenancy_platform;

CREATE TABLE tenancy.api_key_directory (
    lookup_id text NOT NULL,
    -- NULL for a key of the platform.
    organization_id uuid,
    api_key_id uuid NOT NULL,
    CONSTRAINT api_key_directory_pkey PRIMARY KEY (lookup_id)
);
CREATE INDEX api_key_directory_organization ON tenancy.api_key_directory (organization_id);
CALL tenancy.isolate('tenancy.api_key_directory');
GRANT SELECT, INSERT ON tenancy.api_key_directory TO tenancy_app;
CREATE POLICY platform_select ON tenancy.api_key_directory FOR SELECT TO tenancy_platform USING (organization_id IS NULL);
CREATE POLICY platform_insert ON tenancy.api_key_directory FOR INSERT TO tenancy_platform
    WITH CHECK (organization_id IS NULL);
GRANT SELECT, INSERT ON tenancy.api_key_directory TO tenancy_platform;
-- The lookup below runs as the owner, whom the forced policies bind as well. The directory tells only which tenant to
-- look in, so the owner may read all of it.
DO $$
BEGIN
    EXECUTE format('CREATE POLICY owner_select ON tenancy.api_key_directory FOR SELECT TO %I USING (true)', current_user);
END
$$;

-- Finds a key before its tenant is known: one row at the most. PL/pgSQL, because on Citus a SQL-language function with
-- parameters over a distributed table fails. It looks into the one organization that the directory names by putting
-- that name into the setting for the time of the query, so the policies hold in here too.
CREATE FUNCTION tenancy.find_api_key(wanted_lookup_id text)
RETURNS TABLE (
    kind text,
    api_key_id uuid,
    secret_hash text,
    previous_secret_hash text,
    previous_secret_expire_time timestamptz,
    scopes text[],
    allowed_origins text[],
    disabled boolean,
    expire_time timestamptz,
    revoke_time timestamptz,
    labels jsonb,
    organization_id uuid,
    organization_ids uuid[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found tenancy.api_key_directory%ROWTYPE;
    caller_organization constant text := coalesce(current_setting('tenancy.organization_id', true), '');
BEGIN
    SELECT d.* INTO found FROM tenancy.api_key_directory d WHERE d.lookup_id = wanted_lookup_id;
    IF found.api_key_id IS NULL THEN
        RETURN;
    END IF;
    IF found.organization_id IS NULL THEN
        RETURN QUERY
        SELECT k.kind, k.platform_key_id, k.secret_hash, NULL::text, NULL::timestamptz, k.scopes, '{}'::text[], false,
            k.expire_time, k.revoke_time, '{}'::jsonb, NULL::uuid, k.organization_ids
        FROM tenancy.platform_keys k WHERE k.platform_key_id = found.api_key_id;
        RETURN;
    END IF;
    EXECUTE format('SET LOCAL tenancy.organization_id = %L', found.organization_id);
    RETURN QUERY
    SELECT k.kind, k.api_key_id, k.secret_hash, k.previous_secret_hash, k.previous_secret_expire_time, k.scopes,
        k.allowed_origins, k.disabled, k.expire_time, k.revoke_time, k.labels, k.organization_id, NULL::uuid[]
    FROM tenancy.api_keys k
    WHERE k.organization_id = found.organization_id AND k.api_key_id = found.api_key_id;
    EXECUTE format('SET LOCAL tenancy.organization_id = %L', caller_organization);
END
$$;
REVOKE ALL ON FUNCTION tenancy.find_api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.find_api_key(text) TO tenancy_app;
