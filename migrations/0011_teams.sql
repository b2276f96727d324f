-- Teams: a tree inside each organization. A team has the path from its root down to itself, and its parent's path is what
-- comes before itself in it: so says the foreign key, and a path has an end. Whatever the service forgets, there is no
-- cycle and nothing deeper than ten. Moving a team rewrites the paths of all below it, in one statement; reading any part
-- of the tree takes no recursion, and its order is that of the paths.
CREATE TABLE tenancy.teams (
    organization_id uuid NOT NULL,
    team_id uuid NOT NULL,
    -- The ids from the root down to the team itself.
    path uuid[] NOT NULL,
    -- NULL for a root. Not GENERATED: as it is checked, it may as well be written.
    parent_path uuid[],
    display_name text NOT NULL,
    -- The name without regard to case, as model/team.rs makes it: lower() knows the letters of a locale only.
    name_key text COLLATE "C" NOT NULL,
    description text NOT NULL DEFAULT '',
    labels jsonb NOT NULL DEFAULT '{}',
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT teams_pkey PRIMARY KEY (organization_id, team_id),
    CONSTRAINT teams_path CHECK (array_ndims(path) = 1 AND array_lower(path, 1) = 1 AND path[cardinality(path)] = team_id),
    CONSTRAINT teams_parent CHECK (parent_path IS NOT DISTINCT FROM NULLIF(path[:cardinality(path) - 1], '{}')),
    CONSTRAINT teams_depth CHECK (cardinality(path) BETWEEN 1 AND 10),
    CONSTRAINT teams_path_key UNIQUE (organization_id, path),
    -- Also what the foreign key looks for children with.
    CONSTRAINT teams_name_key UNIQUE NULLS NOT DISTINCT (organization_id, parent_path, name_key),
    CONSTRAINT teams_organization_fkey FOREIGN KEY (organization_id) REFERENCES tenancy.organizations (organization_id),
    CONSTRAINT teams_parent_fkey FOREIGN KEY (organization_id, parent_path) REFERENCES tenancy.teams (organization_id, path)
);
CALL tenancy.isolate('tenancy.teams');
GRANT SELECT, INSERT, UPDATE, DELETE ON tenancy.teams TO tenancy_app;

-- Who is in a team. No ON DELETE CASCADE: who removes a member or a team removes these first, and writes down which.
CREATE TABLE tenancy.team_members (
    organization_id uuid NOT NULL,
    team_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT team_members_pkey PRIMARY KEY (organization_id, team_id, user_id),
    CONSTRAINT team_members_role CHECK (role IN ('member', 'lead')),
    CONSTRAINT team_members_team_fkey FOREIGN KEY (organization_id, team_id)
        REFERENCES tenancy.teams (organization_id, team_id),
    CONSTRAINT team_members_member_fkey FOREIGN KEY (organization_id, user_id)
        REFERENCES tenancy.members (organization_id, user_id)
);
CREATE INDEX team_members_user ON tenancy.team_members (organization_id, user_id);
CALL tenancy.isolate('tenancy.team_members');
GRANT SELECT, INSERT, UPDATE, DELETE ON tenancy.team_members TO tenancy_app;
