-- Users are shared by all organizations (a reference table on Citus); members tie them to one.
CREATE TABLE tenancy.users (
    user_id uuid NOT NULL,
    email text NOT NULL,
    -- What is unique of the address: its spelling in lower case. "C", because addresses are ASCII and a locale such as
    -- tr_TR lowers them otherwise. A column and not an index on lower(email): lower() is not leakproof, so under row level
    -- security no index on it would be used.
    email_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (lower(email COLLATE "C")) STORED,
    display_name text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT users_pkey PRIMARY KEY (user_id),
    CONSTRAINT users_status CHECK (status IN ('active', 'deactivated'))
);
CREATE UNIQUE INDEX users_email_key ON tenancy.users (email_key);

CREATE TABLE tenancy.members (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT members_pkey PRIMARY KEY (organization_id, user_id),
    CONSTRAINT members_role CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    CONSTRAINT members_organization_fkey FOREIGN KEY (organization_id) REFERENCES tenancy.organizations (organization_id),
    CONSTRAINT members_user_fkey FOREIGN KEY (user_id) REFERENCES tenancy.users (user_id)
);
CREATE INDEX members_user ON tenancy.members (user_id);
-- For lists, newest first.
CREATE INDEX members_create_time ON tenancy.members (organization_id, create_time, user_id);
-- For the question whether an owner is the last one.
CREATE INDEX members_owners ON tenancy.members (organization_id, user_id) WHERE role = 'owner';
CALL tenancy.isolate('tenancy.members');
GRANT SELECT, INSERT, UPDATE, DELETE ON tenancy.members TO tenancy_app;

-- A tenant sees the users who are its members. It changes at the most the one for whom it acts, while that one is active,
-- and of that one never the status.
ALTER TABLE tenancy.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.users FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_select ON tenancy.users FOR SELECT TO tenancy_app USING (
    EXISTS (
        SELECT FROM tenancy.members
        WHERE members.organization_id = NULLIF(current_setting('tenancy.organization_id', true), '')::uuid
          AND members.user_id = users.user_id
    )
);
CREATE POLICY tenant_update ON tenancy.users FOR UPDATE TO tenancy_app
    USING (user_id = NULLIF(current_setting('tenancy.acting_user_id', true), '')::uuid AND status = 'active');
GRANT SELECT, UPDATE (email, display_name, revision, update_time) ON tenancy.users TO tenancy_app;
CREATE POLICY platform_select ON tenancy.users FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_insert ON tenancy.users FOR INSERT TO tenancy_platform WITH CHECK (true);
CREATE POLICY platform_update ON tenancy.users FOR UPDATE TO tenancy_platform USING (true);
GRANT SELECT, INSERT, UPDATE ON tenancy.users TO tenancy_platform;
