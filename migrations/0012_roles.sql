-- Roles that organizations make for themselves, and what single members have more, less, or not for the time being.

-- The built-in ones are in the code (src/auth/permission.rs), not here.
CREATE TABLE tenancy.roles (
    organization_id uuid NOT NULL,
    key text COLLATE "C" NOT NULL,
    display_name text NOT NULL,
    description text NOT NULL DEFAULT '',
    -- Checked when written; a name that a later version dropped grants nothing.
    permissions text[] NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT roles_pkey PRIMARY KEY (organization_id, key),
    CONSTRAINT roles_key CHECK (key NOT IN ('owner', 'admin', 'member', 'viewer')),
    CONSTRAINT roles_organization_fkey FOREIGN KEY (organization_id)
        REFERENCES tenancy.organizations (organization_id)
);
CALL tenancy.isolate('tenancy.roles');
GRANT SELECT, INSERT, DELETE ON tenancy.roles TO tenancy_app;
GRANT UPDATE (display_name, description, permissions, revision, update_time) ON tenancy.roles TO tenancy_app;

ALTER TABLE tenancy.members
    DROP CONSTRAINT members_role,
    -- The role where it is none of the built-in ones. Generated, so that no statement can forget it; a role that somebody
    -- has stays, and nobody gets one that is not there.
    ADD COLUMN custom_role text COLLATE "C" GENERATED ALWAYS AS
        (CASE WHEN role IN ('owner', 'admin', 'member', 'viewer') THEN NULL ELSE role END) STORED,
    ADD CONSTRAINT members_role_fkey FOREIGN KEY (organization_id, custom_role)
        REFERENCES tenancy.roles (organization_id, key),
    ADD COLUMN status text NOT NULL DEFAULT 'active',
    ADD COLUMN suspend_time timestamptz,
    ADD COLUMN suspend_reason text NOT NULL DEFAULT '',
    ADD COLUMN extra_permissions text[] NOT NULL DEFAULT '{}',
    ADD COLUMN denied_permissions text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT members_status CHECK (status IN ('active', 'suspended')),
    ADD CONSTRAINT members_suspension CHECK ((status = 'suspended') = (suspend_time IS NOT NULL)),
    -- An owner has everything, and nothing can be taken from one.
    ADD CONSTRAINT members_owner CHECK
        (role <> 'owner' OR (extra_permissions = '{}' AND denied_permissions = '{}'));
-- For the check whether a role can go, and the list of who has it.
CREATE INDEX members_custom_role ON tenancy.members (organization_id, custom_role) WHERE custom_role IS NOT NULL;
