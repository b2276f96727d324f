-- Invitations: an address, and what whoever has it becomes in the organization. Of the token only a hash is kept.
CREATE TABLE tenancy.invitations (
    organization_id uuid NOT NULL,
    invitation_id uuid NOT NULL,
    -- The one thing here that tells of a person; a tombstone once they are erased.
    email text NOT NULL,
    -- As in users.
    email_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (lower(email COLLATE "C")) STORED,
    role text NOT NULL,
    -- One past its expire_time stays 'pending': whoever reads it compares.
    status text NOT NULL DEFAULT 'pending',
    -- As in members, while the invitation can be accepted: a role that somebody may get with it stays.
    custom_role text COLLATE "C" GENERATED ALWAYS AS (CASE
        WHEN status = 'pending' AND role NOT IN ('owner', 'admin', 'member', 'viewer') THEN role END) STORED,
    -- BLAKE3 of the token. Its secret has 160 random bits, so nothing slower is needed.
    token_hash bytea NOT NULL,
    expire_time timestamptz NOT NULL,
    -- Who invited, as in the audit.
    actor_type text NOT NULL,
    actor_id text NOT NULL,
    acting_user_id uuid,
    -- Who accepted.
    accept_user_id uuid,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT invitations_pkey PRIMARY KEY (organization_id, invitation_id),
    CONSTRAINT invitations_status CHECK (status IN ('pending', 'accepted', 'declined', 'revoked', 'replaced')),
    CONSTRAINT invitations_acceptance CHECK ((status = 'accepted') = (accept_user_id IS NOT NULL)),
    CONSTRAINT invitations_actor_type CHECK (actor_type IN ('api_key', 'service', 'operator', 'system', 'workload', 'user')),
    CONSTRAINT invitations_token_hash CHECK (octet_length(token_hash) = 32),
    CONSTRAINT invitations_organization_fkey FOREIGN KEY (organization_id)
        REFERENCES tenancy.organizations (organization_id),
    CONSTRAINT invitations_role_fkey FOREIGN KEY (organization_id, custom_role)
        REFERENCES tenancy.roles (organization_id, key)
);
-- One address is invited once at a time.
CREATE UNIQUE INDEX invitations_pending ON tenancy.invitations (organization_id, email_key) WHERE status = 'pending';
-- For lists, newest first.
CREATE INDEX invitations_create_time ON tenancy.invitations (organization_id, create_time, invitation_id);
-- For the check whether a role can go.
CREATE INDEX invitations_custom_role ON tenancy.invitations (organization_id, custom_role) WHERE custom_role IS NOT NULL;
-- For the erasure of a person.
CREATE INDEX invitations_email_key ON tenancy.invitations (email_key);
CREATE INDEX invitations_accept_user ON tenancy.invitations (accept_user_id) WHERE accept_user_id IS NOT NULL;
CALL tenancy.isolate('tenancy.invitations');
GRANT SELECT, INSERT ON tenancy.invitations TO tenancy_app;
GRANT UPDATE (status, token_hash, expire_time, accept_user_id, revision, update_time) ON tenancy.invitations TO tenancy_app;
-- Who is erased is erased from invitations as well: all that the platform can make of one is a tombstone that nobody accepts.
CREATE POLICY platform_select ON tenancy.invitations FOR SELECT TO tenancy_platform USING (true);
CREATE POLICY platform_update ON tenancy.invitations FOR UPDATE TO tenancy_platform
    USING (true) WITH CHECK (email LIKE '%@erased.invalid' AND status <> 'pending');
GRANT SELECT (organization_id, invitation_id, email, email_key, status, accept_user_id, revision)
    ON tenancy.invitations TO tenancy_platform;
GRANT UPDATE (email, status, revision, update_time) ON tenancy.invitations TO tenancy_platform;

-- The teams that somebody is invited to. Gone with the team: whoever accepts afterwards is simply not in it.
CREATE TABLE tenancy.invitation_teams (
    organization_id uuid NOT NULL,
    invitation_id uuid NOT NULL,
    team_id uuid NOT NULL,
    role text NOT NULL,
    CONSTRAINT invitation_teams_pkey PRIMARY KEY (organization_id, invitation_id, team_id),
    CONSTRAINT invitation_teams_role CHECK (role IN ('member', 'lead')),
    CONSTRAINT invitation_teams_invitation_fkey FOREIGN KEY (organization_id, invitation_id)
        REFERENCES tenancy.invitations (organization_id, invitation_id) ON DELETE CASCADE,
    CONSTRAINT invitation_teams_team_fkey FOREIGN KEY (organization_id, team_id)
        REFERENCES tenancy.teams (organization_id, team_id) ON DELETE CASCADE
);
CREATE INDEX invitation_teams_team ON tenancy.invitation_teams (organization_id, team_id);
CALL tenancy.isolate('tenancy.invitation_teams');
GRANT SELECT, INSERT ON tenancy.invitation_teams TO tenancy_app;

-- Whoever accepts and is not known yet becomes a user in the same transaction: a tenant's scope makes users of those whom
-- its organization invited, and of nobody else. It cannot give them a state of their account.
CREATE POLICY tenant_insert ON tenancy.users FOR INSERT TO tenancy_app WITH CHECK (
    EXISTS (
        SELECT FROM tenancy.invitations
        WHERE invitations.organization_id = NULLIF(current_setting('tenancy.organization_id', true), '')::uuid
          AND invitations.status = 'pending' AND invitations.email_key = users.email_key
    )
);
GRANT INSERT (user_id, email, display_name, avatar_uri, locale, identity_provider, external_id, settings,
    default_organization_id, create_time, update_time) ON tenancy.users TO tenancy_app;
