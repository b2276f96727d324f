-- What the export of an organization and its restore need beside what is there.

-- The export reads every tenant table in the scope of its organization.
GRANT SELECT ON tenancy.quota_operations TO tenancy_app;

-- A restore is the owner's work: `tenancy import` as TENANCY_MIGRATION_URL. The policies of the tenant tables bind the owner
-- to the one organization that is restored; users belong to none. It adds those who are missing, and changes nobody.
DO $$
BEGIN
    EXECUTE format('CREATE POLICY owner_select ON tenancy.users FOR SELECT TO %I USING (true)', current_user);
    EXECUTE format('CREATE POLICY owner_insert ON tenancy.users FOR INSERT TO %I WITH CHECK (true)', current_user);
END
$$;
