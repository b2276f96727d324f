-- The organizations and, apart from them, the directory of their slugs: on Citus a unique constraint must contain the
-- distribution column, so what is unique over the platform lives in a table of its own (a reference table there).
CREATE TABLE tenancy.organization_slugs (
    slug text NOT NULL,
    organization_id uuid NOT NULL,
    CONSTRAINT organization_slugs_pkey PRIMARY KEY (slug)
);
CREATE INDEX organization_slugs_organization ON tenancy.organization_slugs (organization_id);

CREATE TABLE tenancy.organizations (
    organization_id uuid NOT NULL,
    -- Kept equal to the directory by the repository, which writes both in one transaction.
    slug text NOT NULL,
    display_name text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    suspend_time timestamptz,
    suspend_reason text NOT NULL DEFAULT '',
    plan text NOT NULL,
    contact_email text NOT NULL DEFAULT '',
    billing_email text NOT NULL DEFAULT '',
    time_zone text NOT NULL,
    currency text NOT NULL,
    locale text NOT NULL,
    date_format text NOT NULL,
    logo_uri text NOT NULL DEFAULT '',
    primary_color text NOT NULL DEFAULT '',
    labels jsonb NOT NULL DEFAULT '{}',
    -- NULL: no limit.
    member_limit integer,
    settings jsonb NOT NULL DEFAULT '{}',
    -- Counts the changes; the etag is made of it.
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- Set together: a deleted organization waits for its purge.
    delete_time timestamptz,
    purge_time timestamptz,
    CONSTRAINT organizations_pkey PRIMARY KEY (organization_id),
    CONSTRAINT organizations_status CHECK (status IN ('active', 'suspended')),
    CONSTRAINT organizations_suspension CHECK ((status = 'suspended') = (suspend_time IS NOT NULL)),
    CONSTRAINT organizations_plan CHECK (plan IN ('free', 'starter', 'pro', 'enterprise')),
    CONSTRAINT organizations_member_limit CHECK (member_limit > 0),
    CONSTRAINT organizations_deletion CHECK ((delete_time IS NULL) = (purge_time IS NULL)),
    CONSTRAINT organizations_slug_fkey FOREIGN KEY (slug) REFERENCES tenancy.organization_slugs (slug)
);
-- For the purge, which looks for the few that are due.
CREATE INDEX organizations_purge ON tenancy.organizations (purge_time) WHERE purge_time IS NOT NULL;
CALL tenancy.isolate('tenancy.organizations');
GRANT SELECT, UPDATE ON tenancy.organizations TO tenancy_app;

-- Slugs are readable as rows of the own organization only; that a slug is taken elsewhere shows when it is claimed.
CALL tenancy.isolate('tenancy.organization_slugs');
GRANT SELECT, INSERT, DELETE ON tenancy.organization_slugs TO tenancy_app;

-- Creating and listing organizations, and finding one by its slug, is the platform's.
CREATE POLICY platform_select ON tenancy.organizations FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_insert ON tenancy.organizations FOR INSERT TO tenancy_platform WITH CHECK (true);
GRANT SELECT, INSERT ON tenancy.organizations TO tenancy_platform;
CREATE POLICY platform_select ON tenancy.organization_slugs FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_insert ON tenancy.organization_slugs FOR INSERT TO tenancy_platform WITH CHECK (true);
GRANT SELECT, INSERT ON tenancy.organization_slugs TO tenancy_platform;
