-- The roles and the one procedure that puts a table under tenant isolation.
--
-- tenancy_app       serves one tenant at a time; what it sees is decided by row level security.
-- tenancy_ingest    records usage for several tenants in one transaction; sees and writes usage tables only.
-- tenancy_platform  works across tenants: a short, reviewed list of purposes (src/repository/scope.rs).
--
-- None of them can log in here: the service's login is granted them (`tenancy migrate --grant-to LOGIN`) and switches
-- with SET LOCAL ROLE. On Citus they need LOGIN on the workers (ALTER ROLE … LOGIN). Roles belong to the whole cluster,
-- so another database may have made them already.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tenancy_app', 'tenancy_ingest', 'tenancy_platform'] LOOP
        -- An owner who may not create roles can still migrate where somebody else has created them.
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = role_name);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS tenancy;
REVOKE ALL ON SCHEMA tenancy FROM PUBLIC;
GRANT USAGE ON SCHEMA tenancy TO tenancy_app, tenancy_ingest, tenancy_platform;
-- A function is executable by everybody unless said otherwise.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Puts a table with an organization_id under isolation: no setting, no rows; another tenant's setting, no rows.
-- The policies name no role, so they bind the owner too (SECURITY DEFINER functions included): the table is forced.
CREATE PROCEDURE tenancy.isolate(target regclass) LANGUAGE plpgsql AS $$
DECLARE
    own constant text := 'organization_id = NULLIF(current_setting(''tenancy.organization_id'', true), '''')::uuid';
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant_select ON %s FOR SELECT USING (%s)', target, own);
    EXECUTE format('CREATE POLICY tenant_insert ON %s FOR INSERT WITH CHECK (%s)', target, own);
    EXECUTE format('CREATE POLICY tenant_update ON %s FOR UPDATE USING (%s) WITH CHECK (%s)', target, own, own);
    EXECUTE format('CREATE POLICY tenant_delete ON %s FOR DELETE USING (%s)', target, own);
END
$$;
REVOKE ALL ON PROCEDURE tenancy.isolate(regclass) FROM PUBLIC;

-- Lets the ingest scope read and write the rows of the organizations it names, a comma separated list of UUIDs.
CREATE PROCEDURE tenancy.open_to_ingest(target regclass) LANGUAGE plpgsql AS $$
DECLARE
    -- Each id in the list is the canonical text of a UUID, so to be a part of the list is to be in it. Measured for 2,000
    -- rows and 64 organizations: 5 ms; as organization_id = ANY (string_to_array(…)::uuid[]), which parses the list for
    -- every row, 91 ms. A sub-select would be evaluated once, but Citus takes none in policies.
    named constant text :=
        'strpos(current_setting(''tenancy.ingest_organizations'', true), organization_id::text) > 0';
BEGIN
    EXECUTE format('CREATE POLICY ingest_select ON %s FOR SELECT TO tenancy_ingest USING (%s)', target, named);
    EXECUTE format('CREATE POLICY ingest_insert ON %s FOR INSERT TO tenancy_ingest WITH CHECK (%s)', target, named);
    EXECUTE format('CREATE POLICY ingest_update ON %s FOR UPDATE TO tenancy_ingest USING (%s) WITH CHECK (%s)',
        target, named, named);
END
$$;
REVOKE ALL ON PROCEDURE tenancy.open_to_ingest(regclass) FROM PUBLIC;
