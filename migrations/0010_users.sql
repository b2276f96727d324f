-- What more is known of people, when they were last active, and what is left of who was erased.
ALTER TABLE tenancy.users
    ADD COLUMN avatar_uri text NOT NULL DEFAULT '',
    ADD COLUMN locale text NOT NULL DEFAULT 'en',
    -- From here on what a tenant does not see: it would learn where else the user is.
    -- The name of the person at an identity provider; both or none.
    ADD COLUMN identity_provider text NOT NULL DEFAULT '',
    ADD COLUMN external_id text NOT NULL DEFAULT '',
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}',
    -- No foreign key: on Citus a reference table has none to a distributed one. It may have been left or purged since.
    ADD COLUMN default_organization_id uuid,
    ADD COLUMN erase_time timestamptz,
    DROP CONSTRAINT users_status,
    ADD CONSTRAINT users_status CHECK (status IN ('active', 'deactivated', 'erased')),
    ADD CONSTRAINT users_identity CHECK ((identity_provider = '') = (external_id = '')),
    ADD CONSTRAINT users_erasure CHECK ((status = 'erased') = (erase_time IS NOT NULL));
CREATE UNIQUE INDEX users_identity_key ON tenancy.users (identity_provider, external_id) WHERE external_id <> '';
REVOKE SELECT ON tenancy.users FROM tenancy_app;
GRANT SELECT (user_id, email, email_key, display_name, avatar_uri, locale, status, revision, create_time, update_time)
    ON tenancy.users TO tenancy_app;
GRANT UPDATE (avatar_uri, locale) ON tenancy.users TO tenancy_app;

-- When somebody last acted for a member: a table of its own, so that it changes no etag and announces nothing. Written in
-- batches over many tenants, hence by the ingest scope.
CREATE TABLE tenancy.member_activity (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    last_activity_time timestamptz NOT NULL,
    CONSTRAINT member_activity_pkey PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX member_activity_user ON tenancy.member_activity (user_id);
CALL tenancy.isolate('tenancy.member_activity');
CALL tenancy.open_to_ingest('tenancy.member_activity');
GRANT SELECT ON tenancy.member_activity TO tenancy_app;
GRANT SELECT, INSERT, UPDATE ON tenancy.member_activity TO tenancy_ingest;
CREATE POLICY platform_select ON tenancy.member_activity FOR SELECT TO tenancy_platform USING (true);
GRANT SELECT ON tenancy.member_activity TO tenancy_platform;

-- The platform says in which organizations a user is, and makes a new user's own organization with them as its owner.
CREATE POLICY platform_select ON tenancy.members FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_insert ON tenancy.members FOR INSERT TO tenancy_platform WITH CHECK (role = 'owner');
GRANT SELECT, INSERT ON tenancy.members TO tenancy_platform;

-- Who is erased is erased from the records of what was done to them as well: that it was done stays. As the owner: nobody else
-- may change the audit.
CREATE FUNCTION tenancy.erase_user_records(erased uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tombstone constant jsonb := jsonb_build_object('user_id', erased, 'erased', true);
BEGIN
    UPDATE tenancy.platform_audit_events e
    SET before = CASE WHEN e.before IS NOT NULL THEN tombstone END, after = CASE WHEN e.after IS NOT NULL THEN tombstone END
    WHERE e.resource_type = 'user' AND e.resource_id = erased::text;
END
$$;
REVOKE ALL ON FUNCTION tenancy.erase_user_records(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.erase_user_records(uuid) TO tenancy_platform;
CREATE INDEX platform_audit_events_resource ON tenancy.platform_audit_events (resource_type, resource_id);
