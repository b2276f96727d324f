-- What an ingest scope names its organizations in: sixteen settings, each with a comma separated list of the UUIDs that end on
-- its digit. The policies look for each row's organization in the one list that it can be in: of 64 organizations a
-- sixteenth, and that search was the most of what a policy took. A sub-select would be evaluated once and no search
-- needed, but Citus takes none in policies.
--
-- A replica of the version before, which has one list, is let into nothing by these.
CREATE OR REPLACE PROCEDURE tenancy.open_to_ingest(target regclass) LANGUAGE plpgsql AS $$
DECLARE
    -- Each id in a list is the canonical text of a UUID, so to be a part of the list is to be in it.
    named constant text :=
        'strpos(current_setting(''tenancy.ingest_organizations_'' || right(organization_id::text, 1), true),
             organization_id::text) > 0';
BEGIN
    EXECUTE format('CREATE POLICY ingest_select ON %s FOR SELECT TO tenancy_ingest USING (%s)', target, named);
    EXECUTE format('CREATE POLICY ingest_insert ON %s FOR INSERT TO tenancy_ingest WITH CHECK (%s)', target, named);
    EXECUTE format('CREATE POLICY ingest_update ON %s FOR UPDATE TO tenancy_ingest USING (%s) WITH CHECK (%s)',
        target, named, named);
END
$$;

DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN
        SELECT p.polrelid FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
        WHERE p.polname = 'ingest_select' AND c.relnamespace = 'tenancy'::regnamespace ORDER BY c.relname
    LOOP
        EXECUTE format('DROP POLICY ingest_select ON %s', target);
        EXECUTE format('DROP POLICY ingest_insert ON %s', target);
        EXECUTE format('DROP POLICY ingest_update ON %s', target);
        CALL tenancy.open_to_ingest(target);
    END LOOP;
END
$$;
