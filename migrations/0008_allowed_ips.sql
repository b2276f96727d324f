-- The addresses that a key may be used from, as CIDRs in their canonical form; none means any. Texts: the service reads
-- them once per key and compares in memory.
ALTER TABLE tenancy.api_keys ADD COLUMN allowed_ip_ranges text[] NOT NULL DEFAULT '{}';

-- As in 0004, with the column. A function's columns cannot be changed in place.
DROP FUNCTION tenancy.find_api_key(text);
CREATE FUNCTION tenancy.find_api_key(wanted_lookup_id text)
RETURNS TABLE (
    kind text,
    api_key_id uuid,
    secret_hash text,
    previous_secret_hash text,
    previous_secret_expire_time timestamptz,
    scopes text[],
    allowed_origins text[],
    allowed_ip_ranges text[],
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
        SELECT k.kind, k.platform_key_id, k.secret_hash, NULL::text, NULL::timestamptz, k.scopes, '{}'::text[], '{}'::text[],
            false, k.expire_time, k.revoke_time, '{}'::jsonb, NULL::uuid, k.organization_ids
        FROM tenancy.platform_keys k WHERE k.platform_key_id = found.api_key_id;
        RETURN;
    END IF;
    EXECUTE format('SET LOCAL tenancy.organization_id = %L', found.organization_id);
    RETURN QUERY
    SELECT k.kind, k.api_key_id, k.secret_hash, k.previous_secret_hash, k.previous_secret_expire_time, k.scopes,
        k.allowed_origins, k.allowed_ip_ranges, k.disabled, k.expire_time, k.revoke_time, k.labels, k.organization_id, NULL::uuid[]
    FROM tenancy.api_keys k
    WHERE k.organization_id = found.organization_id AND k.api_key_id = found.api_key_id;
    EXECUTE format('SET LOCAL tenancy.organization_id = %L', caller_organization);
END
$$;
REVOKE ALL ON FUNCTION tenancy.find_api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.find_api_key(text) TO tenancy_app;
