//! I1, read from `pg_catalog`: every table is either under forced isolation, or on the list below with its reason.

use std::collections::BTreeMap;

use sqlx::{PgPool, Row as _};

use crate::harness::World;

/// What a tenant table's policies for `PUBLIC` must say, once a verb.
const OWN: &str =
    "(organization_id = (NULLIF(current_setting('tenancy.organization_id'::text, true), ''::text))::uuid)";

/// Roles, each with the verbs it is granted, comma separated and sorted.
type Grants = &'static [(&'static str, &'static str)];

/// Tables that belong to no tenant, each with its reason and the whole of its grants (role, verbs).
const PLATFORM_TABLES: &[(&str, &str, Grants)] = &[
    ("public._sqlx_migrations", "which migrations were applied; the owner's alone", &[]),
    ("tenancy.allowances", "how often users and keys did something lately; functions of the owner count them", &[]),
    (
        "tenancy.api_key_directory",
        "finds a key before its tenant is known; its policies show a tenant its own rows only",
        &[("tenancy_app", "INSERT,SELECT"), ("tenancy_platform", "INSERT,SELECT")],
    ),
    (
        "tenancy.changes",
        "what changed, for the caches; names ids only, and a tenant can add to it but not read it",
        &[("tenancy_app", "INSERT"), ("tenancy_platform", "DELETE,INSERT,SELECT")],
    ),
    (
        "tenancy.organization_slugs",
        "slugs are unique over the platform; its policies show a tenant its own rows only",
        &[("tenancy_app", "DELETE,INSERT,SELECT"), ("tenancy_platform", "INSERT,SELECT")],
    ),
    (
        "tenancy.platform_audit_events",
        "changes that belong to no organization; a tenant's user who changes their own address adds to it",
        &[("tenancy_app", "INSERT"), ("tenancy_platform", "INSERT,SELECT")],
    ),
    (
        "tenancy.platform_idempotent_requests",
        "requests of platform keys that may be repeated",
        &[("tenancy_platform", "DELETE,INSERT,SELECT,UPDATE")],
    ),
    ("tenancy.platform_keys", "keys that belong to no organization", &[("tenancy_platform", "INSERT,SELECT,UPDATE")]),
    (
        "tenancy.platform_meters",
        "meters that count for every organization",
        &[("tenancy_app", "SELECT"), ("tenancy_platform", "INSERT,SELECT,UPDATE")],
    ),
    ("tenancy.plan_versions", "what plans were, for operators", &[("tenancy_platform", "INSERT,SELECT")]),
    (
        "tenancy.plans",
        "what organizations pay for; every organization reads its own, and there is nothing secret in another",
        &[("tenancy_app", "SELECT"), ("tenancy_platform", "INSERT,SELECT,UPDATE")],
    ),
    (
        "tenancy.rate_limit_domains",
        "the rules of the rate limit service, an operator's; they name no organization's rows",
        &[("tenancy_platform", "DELETE,INSERT,SELECT,UPDATE")],
    ),
    (
        "tenancy.signing_keys",
        "what the replicas sign with; read once, at the start, by the platform's role alone",
        &[("tenancy_platform", "SELECT")],
    ),
    (
        "tenancy.token_keys",
        "what all replicas sign tokens with, sealed; the platform's role alone",
        &[("tenancy_platform", "DELETE,INSERT,SELECT,UPDATE")],
    ),
    (
        "tenancy.users",
        "shared by all organizations; its policies show a tenant its members, let it change the acting user only, and add \
         whom it invited",
        &[("tenancy_app", "INSERT,SELECT,UPDATE"), ("tenancy_platform", "INSERT,SELECT,UPDATE")],
    ),
];

/// Policies beside the tenant's own: (table, name, verb, role). All that anybody can do across tenants.
const FURTHER_POLICIES: &[(&str, &str, &str, &str)] = &[
    ("api_key_directory", "owner_select", "SELECT", "tenancy_owner"),
    ("api_key_directory", "platform_insert", "INSERT", "tenancy_platform"),
    ("api_key_directory", "platform_select", "SELECT", "tenancy_platform"),
    ("api_key_uses", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("api_key_uses", "ingest_select", "SELECT", "tenancy_ingest"),
    ("api_key_uses", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("audit_events", "platform_insert", "INSERT", "tenancy_platform"),
    ("idempotent_requests", "platform_delete", "DELETE", "tenancy_platform"),
    ("idempotent_requests", "platform_select", "SELECT", "tenancy_platform"),
    ("invitations", "platform_select", "SELECT", "tenancy_platform"),
    ("invitations", "platform_update", "UPDATE", "tenancy_platform"),
    ("member_activity", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("member_activity", "ingest_select", "SELECT", "tenancy_ingest"),
    ("member_activity", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("member_activity", "platform_select", "SELECT", "tenancy_platform"),
    ("members", "platform_insert", "INSERT", "tenancy_platform"),
    ("members", "platform_select", "SELECT", "tenancy_platform"),
    ("organization_slugs", "platform_insert", "INSERT", "tenancy_platform"),
    ("organization_slugs", "platform_select", "SELECT", "tenancy_platform"),
    ("organizations", "platform_insert", "INSERT", "tenancy_platform"),
    ("organizations", "platform_select", "SELECT", "tenancy_platform"),
    ("quota_accounts", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("quota_accounts", "ingest_select", "SELECT", "tenancy_ingest"),
    ("quota_accounts", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("quota_accounts", "platform_delete", "DELETE", "tenancy_platform"),
    ("quota_accounts", "platform_select", "SELECT", "tenancy_platform"),
    ("quota_operations", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("quota_operations", "ingest_select", "SELECT", "tenancy_ingest"),
    ("quota_operations", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("quota_operations", "platform_delete", "DELETE", "tenancy_platform"),
    ("quota_operations", "platform_select", "SELECT", "tenancy_platform"),
    ("usage_aggregates", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("usage_aggregates", "ingest_select", "SELECT", "tenancy_ingest"),
    ("usage_aggregates", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("usage_events", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("usage_events", "ingest_select", "SELECT", "tenancy_ingest"),
    ("usage_events", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("usage_hours", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("usage_hours", "ingest_select", "SELECT", "tenancy_ingest"),
    ("usage_hours", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("usage_series", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("usage_series", "ingest_select", "SELECT", "tenancy_ingest"),
    ("usage_series", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("usage_unique_values", "ingest_insert", "INSERT", "tenancy_ingest"),
    ("usage_unique_values", "ingest_select", "SELECT", "tenancy_ingest"),
    ("usage_unique_values", "ingest_update", "UPDATE", "tenancy_ingest"),
    ("users", "owner_insert", "INSERT", "tenancy_owner"),
    ("users", "owner_select", "SELECT", "tenancy_owner"),
    ("users", "platform_insert", "INSERT", "tenancy_platform"),
    ("users", "platform_select", "SELECT", "tenancy_platform"),
    ("users", "platform_update", "UPDATE", "tenancy_platform"),
    ("users", "tenant_insert", "INSERT", "tenancy_app"),
    ("users", "tenant_select", "SELECT", "tenancy_app"),
    ("users", "tenant_update", "UPDATE", "tenancy_app"),
];

const ROLES: &[&str] = &["tenancy_app", "tenancy_ingest", "tenancy_platform", "public"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_is_isolated_or_on_the_list() {
    // A running service has had its partition worker run.
    let world = World::start().await;
    let faults = faults(&world.database.superuser).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_finds_what_is_wrong() {
    let world = World::start().await;
    let superuser = &world.database.superuser;
    for (breakage, expected) in [
        ("CREATE TABLE tenancy.forgotten (organization_id uuid PRIMARY KEY)", "forgotten"),
        ("CREATE TABLE tenancy.listed_nowhere (id uuid PRIMARY KEY)", "listed_nowhere"),
        ("ALTER TABLE tenancy.members NO FORCE ROW LEVEL SECURITY", "members"),
        ("DROP POLICY tenant_delete ON tenancy.members", "members"),
        ("CREATE POLICY open ON tenancy.members FOR SELECT USING (true)", "members"),
        ("GRANT SELECT ON tenancy.platform_keys TO tenancy_app", "platform_keys"),
        ("GRANT SELECT (secret_hash) ON tenancy.platform_keys TO tenancy_app", "platform_keys"),
        (
            "ALTER TABLE tenancy.members DROP CONSTRAINT members_organization_fkey; \
          ALTER TABLE tenancy.meters ADD UNIQUE (meter_id); \
          ALTER TABLE tenancy.members ADD CONSTRAINT wild FOREIGN KEY (user_id) REFERENCES tenancy.meters (meter_id)",
            "wild",
        ),
        (
            "DO $$ DECLARE p text; BEGIN SELECT inhrelid::regclass::text INTO p FROM pg_inherits \
          WHERE inhparent = 'tenancy.usage_events'::regclass LIMIT 1; EXECUTE 'GRANT SELECT ON ' || p || ' TO tenancy_app'; \
          END $$",
            "usage_events_",
        ),
        ("CREATE FUNCTION tenancy.loose() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "loose"),
    ] {
        let database = crate::harness::clone_template().await;
        tenancy_with_partitions(&database.superuser).await;
        sqlx::raw_sql(breakage).execute(&database.superuser).await.unwrap();
        let faults = faults(&database.superuser).await;
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{breakage}: {faults:?}");
    }
    assert!(faults(superuser).await.is_empty());
}

async fn tenancy_with_partitions(superuser: &PgPool) {
    sqlx::raw_sql("SELECT tenancy.create_usage_partitions(now(), now())").execute(superuser).await.unwrap();
}

async fn faults(superuser: &PgPool) -> Vec<String> {
    let mut faults = Vec::new();
    let tables = sqlx::query(
        "SELECT n.nspname || '.' || c.relname AS name, c.relname::text AS bare, c.oid::int8 AS oid,
             c.relrowsecurity AND c.relforcerowsecurity AS forced, c.relispartition AS partition,
             coalesce((SELECT a.attname = 'organization_id' FROM pg_index i
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = c.oid AND i.indisprimary), false) AS keyed
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
         ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    for table in tables {
        let (name, bare): (String, String) = (table.get("name"), table.get("bare"));
        let (oid, forced): (i64, bool) = (table.get("oid"), table.get("forced"));
        let grants = grants(superuser, oid).await;
        let policies = policies(superuser, oid).await;
        if table.get("partition") {
            if !grants.is_empty() || !forced || !policies.is_empty() {
                faults.push(format!("{name}: a partition has grants or policies, or is not forced: {grants:?}"));
            }
        } else if let Some((_, reason, allowed)) = PLATFORM_TABLES.iter().find(|(listed, ..)| *listed == name) {
            assert!(!reason.is_empty());
            let allowed: BTreeMap<_, _> =
                allowed.iter().map(|(role, verbs)| ((*role).to_owned(), (*verbs).to_owned())).collect();
            if grants != allowed {
                faults.push(format!("{name}: grants are {grants:?}, listed {allowed:?}"));
            }
            faults.extend(further(&name, &bare, &policies));
        } else {
            if !table.get::<bool, _>("keyed") {
                faults.push(format!("{name}: is on no list, and organization_id is not first in its primary key"));
            }
            if !forced {
                faults.push(format!("{name}: row level security is not enabled and forced"));
            }
            for verb in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
                let own = policies.iter().any(|policy| {
                    policy.verb == verb && policy.roles == "public" && policy.permissive && policy.is_own()
                });
                if !own {
                    faults.push(format!("{name}: no policy of the tenant's own rows for {verb}"));
                }
            }
            faults.extend(further(&name, &bare, &policies));
        }
    }
    faults.extend(foreign_keys(superuser).await);
    faults.extend(functions(superuser).await);
    faults
}

/// Policies that are neither the tenant's own nor listed.
fn further(name: &str, bare: &str, policies: &[Policy]) -> Vec<String> {
    let listed = |policy: &Policy| {
        FURTHER_POLICIES.contains(&(bare, policy.name.as_str(), policy.verb.as_str(), policy.roles.as_str()))
    };
    let own = |policy: &Policy| policy.roles == "public" && policy.is_own();
    policies
        .iter()
        .filter(|policy| !listed(policy) && !own(policy))
        .map(|policy| format!("{name}: the policy {policy:?} is not listed"))
        .collect()
}

#[derive(Debug)]
struct Policy {
    name: String,
    verb: String,
    roles: String,
    permissive: bool,
    using: Option<String>,
    check: Option<String>,
}

impl Policy {
    fn is_own(&self) -> bool {
        let (using, check) = (self.using.as_deref(), self.check.as_deref());
        match self.verb.as_str() {
            "INSERT" => check == Some(OWN),
            "UPDATE" => using == Some(OWN) && check == Some(OWN),
            _ => using == Some(OWN),
        }
    }
}

async fn policies(superuser: &PgPool, oid: i64) -> Vec<Policy> {
    let rows = sqlx::query(
        "SELECT p.polname::text AS name, p.polpermissive AS permissive,
             CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                 ELSE 'ALL' END AS verb,
             CASE WHEN p.polroles = '{0}' THEN 'public' ELSE
                 (SELECT string_agg(r.rolname, ',' ORDER BY r.rolname) FROM pg_roles r WHERE r.oid = ANY (p.polroles))
                 END AS roles,
             pg_get_expr(p.polqual, p.polrelid) AS qual, pg_get_expr(p.polwithcheck, p.polrelid) AS withcheck
         FROM pg_policy p WHERE p.polrelid::int8 = $1",
    )
    .bind(oid)
    .fetch_all(superuser)
    .await
    .unwrap();
    rows.iter()
        .map(|row| Policy {
            name: row.get("name"),
            verb: row.get("verb"),
            roles: row.get("roles"),
            permissive: row.get("permissive"),
            using: row.get("qual"),
            check: row.get("withcheck"),
        })
        .collect()
}

/// What each role may do with the table or any column of it, by whatever way it came to that.
async fn grants(superuser: &PgPool, oid: i64) -> BTreeMap<String, String> {
    let mut grants = BTreeMap::new();
    for role in ROLES {
        let verbs: Option<String> = sqlx::query_scalar(
            "SELECT string_agg(verb, ',' ORDER BY verb)
             FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) verb
             WHERE CASE WHEN verb IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                 THEN has_any_column_privilege($1, $2::int8::oid, verb)
                 ELSE has_table_privilege($1, $2::int8::oid, verb) END",
        )
        .bind(role)
        .bind(oid)
        .fetch_one(superuser)
        .await
        .unwrap();
        if let Some(verbs) = verbs {
            grants.insert((*role).to_owned(), verbs);
        }
    }
    grants
}

/// Checks of foreign keys bypass row level security: between tenant tables they must name the organization on both sides.
async fn foreign_keys(superuser: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "WITH tenant AS (
             SELECT a.attrelid AS oid, a.attnum FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'tenancy' AND a.attname = 'organization_id' AND c.relkind IN ('r', 'p')
               AND c.relname NOT IN ('organization_slugs', 'api_key_directory'))
         SELECT f.conname || ': a foreign key between tenant tables without organization_id'
         FROM pg_constraint f JOIN tenant child ON child.oid = f.conrelid JOIN tenant parent ON parent.oid = f.confrelid
         WHERE f.contype = 'f' AND NOT EXISTS (
             SELECT FROM generate_subscripts(f.conkey, 1) i
             WHERE f.conkey[i] = child.attnum AND f.confkey[i] = parent.attnum)",
    )
    .fetch_all(superuser)
    .await
    .unwrap()
}

/// Functions that run as their owner have a pinned `search_path` and are not for everybody.
async fn functions(superuser: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT p.proname || ': SECURITY DEFINER without a pinned search_path, or executable by PUBLIC'
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname IN ('tenancy', 'public') AND p.prosecdef AND (
             NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
             OR has_function_privilege('public', p.oid, 'EXECUTE'))",
    )
    .fetch_all(superuser)
    .await
    .unwrap()
}
