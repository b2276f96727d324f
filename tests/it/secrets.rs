//! I10: no secret is stored or logged in clear, whatever is done with keys.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::{AssertSqlSafe, PgPool, Row as _};
use tenancy::auth::tokens::sealing::SealingKeys;
use tenancy::proto::v1;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::harness::keys::{create, knock, operate, publishable_key, revoke, rotate, secret_key, update, verify};
use crate::harness::{TOKEN_ENCRYPTION_KEY, Tenant, World, refused};
use crate::sidecar::support::{sidecar, waiting, with_key};
use crate::token;

static LISTENING: AtomicBool = AtomicBool::new(false);
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Writes to [`LOG`].
#[derive(Clone, Copy, Debug)]
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        log().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> MutexGuard<'static, Vec<u8>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps all that this process logs while [`LISTENING`]: more than any configuration of the service would write.
fn listen() {
    let kept = fmt::layer()
        .with_ansi(false)
        .with_writer(|| Log)
        .with_filter(dynamic_filter_fn(|_, _| LISTENING.load(Ordering::Relaxed)))
        .with_filter(LevelFilter::TRACE);
    tracing_subscriber::registry().with(kept).init();
    LISTENING.store(true, Ordering::Relaxed);
}

/// Every table of the database as text, by its name.
async fn dump(superuser: &PgPool) -> Vec<(String, String)> {
    let tables = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(superuser).await.unwrap();
    let mut dumped = Vec::new();
    for table in tables {
        let rows = AssertSqlSafe(format!("SELECT to_jsonb(t)::text || t::text FROM {table} t"));
        let rows = sqlx::query(rows).fetch_all(superuser).await.unwrap();
        let text: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        dumped.push((table, text.join("\n")));
    }
    dumped
}

/// Every form in which `bytea` columns could show a text: as hex.
fn hex(text: impl AsRef<[u8]>) -> String {
    text.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The tokens of invitations: one that is answered, one before and after it was sent again, and one that nobody knows.
async fn invited(world: &World, tenant: &Tenant) -> Vec<String> {
    let invite = async |email: &str, request_id: &str| {
        let invitation = v1::NewInvitation { email: email.into(), role: "viewer".into(), ..Default::default() };
        let request = v1::CreateInvitationRequest {
            invitation: Some(invitation),
            request_id: request_id.into(),
            ..Default::default()
        };
        let created = tenant.client.invitations().create_invitation(request).await.unwrap().into_inner();
        (created.invitation.unwrap().invitation_id, created.delivery.unwrap().token)
    };
    let (_, answered) = invite("a@example.com", "018f6d2e-0000-7000-8000-000000000003").await;
    let user = v1::User { email: "a@example.com".into(), display_name: "A".into(), ..v1::User::default() };
    let request = v1::AcceptInvitationRequest { token: answered.clone(), user: Some(user), ..Default::default() };
    world.operator().invitations().accept_invitation(request.clone()).await.unwrap();
    let _ = refused(world.operator().invitations().accept_invitation(request).await);
    let (id, first) = invite("b@example.com", "").await;
    let request = v1::ResendInvitationRequest {
        invitation_id: id,
        request_id: "018f6d2e-0000-7000-8000-000000000004".into(),
        ..Default::default()
    };
    let resent = tenant.client.invitations().resend_invitation(request).await.unwrap().into_inner();
    let second = resent.delivery.unwrap().token;
    for token in [&first, &second, &first[1..].to_owned()] {
        let request = v1::GetInvitationByTokenRequest { token: token.clone() };
        let _ = world.operator().invitations().get_invitation_by_token(request).await;
        let request = v1::DeclineInvitationRequest { token: token.clone() };
        let _ = world.operator().invitations().decline_invitation(request).await;
    }
    vec![answered, first, second]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_stored_or_logged() {
    listen();
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut keys = vec![tenant.key.clone()];
    for arguments in [&["create", "--name", "op"][..], &["create", "--name", "svc", "--scope", "keys.verify"]] {
        keys.push(operate(&world, arguments).await.unwrap().trim().to_owned());
    }
    // With request ids, whose replies are kept.
    let request = v1::CreateApiKeyRequest {
        api_key: Some(secret_key(&["organizations.read"])),
        request_id: "018f6d2e-0000-7000-8000-000000000001".into(),
    };
    let created = tenant.client.api_keys().create_api_key(request.clone()).await.unwrap().into_inner();
    let replayed = tenant.client.api_keys().create_api_key(request).await.unwrap().into_inner();
    assert_eq!(replayed.secret, "");
    let key = created.api_key.unwrap();
    keys.push(created.secret);
    let request = v1::RotateApiKeyRequest {
        api_key_id: key.api_key_id.clone(),
        request_id: "018f6d2e-0000-7000-8000-000000000002".into(),
        ..Default::default()
    };
    keys.push(tenant.client.api_keys().rotate_api_key(request).await.unwrap().into_inner().secret);
    keys.push(rotate(&tenant.client, &key.api_key_id, None).await.unwrap().1);
    let (public, text) = create(&tenant.client, publishable_key(&["https://a.example"])).await.unwrap();
    keys.push(text);
    update(&tenant.client, v1::ApiKey { disabled: true, ..public }, &["disabled"]).await.unwrap();
    let envoy = sidecar(&world).await;
    for key in &keys {
        verify(&tenant.client, key).await.unwrap();
        let _ = knock(&world.client(key)).await;
        let _ = knock(&world.anonymous().header("authorization", &format!("Bearer {key}"))).await;
        let _ = refused(knock(&world.anonymous().header("authorization", &format!("Basic {key}"))).await);
        // Cut short, or with something at its end: a text that was meant as a key is treated as one.
        let _ = refused(knock(&world.client(&key[..key.len() - 1])).await);
        let _ = refused(knock(&world.client(&format!("{key}x"))).await);
        // Through an Envoy; on a route that is logged, too.
        let bearer = format!("Bearer {key}");
        let _ = waiting().header("authorization", &bearer).ask(&envoy).await;
        let _ = with_key(key).route("metre", "calls").denied(&envoy).await;
    }
    // Tokens: of a user, and of a key that is exchanged; good ones and spoilt ones, at the door and through an Envoy.
    let user = tenant.member(&world, "ida", "admin").await;
    let tokens = [
        token::issue(&tenant.client, &user).await.unwrap(),
        token::exchange(&tenant.client, &tenant.key).await.unwrap(),
    ];
    for token in &tokens {
        let bearer = format!("Bearer {token}");
        knock(&world.anonymous().token(token)).await.unwrap();
        let _ = refused(token::issue(&world.anonymous().token(token), &user).await);
        let _ = refused(knock(&world.client(&format!("{token}x"))).await);
        let _ = waiting().header("authorization", &bearer).ask(&envoy).await;
        let _ = waiting().header("authorization", &bearer).route("metre", "calls").denied(&envoy).await;
    }
    let _ = refused(token::exchange(&tenant.client, &format!("{}x", tenant.key)).await);
    token::revoke(&tenant.client, "", &user).await.unwrap();
    keys.extend(invited(&world, &tenant).await);
    revoke(&tenant.client, &key.api_key_id).await.unwrap();
    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    assert!(keys.iter().all(|key| key.len() > 49), "all have secrets");

    LISTENING.store(false, Ordering::Relaxed);
    let mut places = dump(&world.database.superuser).await;
    let stored = |name: &str| places.iter().find(|(table, _)| table == name).map(|(_, text)| text.as_str()).unwrap();
    assert!(stored("tenancy.api_keys").contains("$argon2id$"), "the dump is one");
    assert!(stored("tenancy.idempotent_requests").contains(&hex("SECRET_ALREADY_SHOWN")), "replies are looked into");
    assert!(stored("tenancy.api_keys").contains(&keys[3][8..24]), "lookup ids are stored");
    for (table, text) in &places {
        let may = matches!(table.as_str(), "tenancy.api_keys" | "tenancy.platform_keys");
        assert!(may || !(text.contains("argon2") || text.contains(&hex("argon2"))), "a hash in {table}");
    }
    places.push(("the log".into(), String::from_utf8(std::mem::take(&mut *log())).unwrap()));
    assert!(places.last().unwrap().1.contains("tenancy"), "something was logged");
    let sealing = SealingKeys::parse(TOKEN_ENCRYPTION_KEY).unwrap();
    let rows = "SELECT token_key_id, sealed_private_key FROM tenancy.token_keys";
    let rows: Vec<(uuid::Uuid, Vec<u8>)> = sqlx::query_as(rows).fetch_all(&world.database.superuser).await.unwrap();
    assert_eq!(rows.len(), 1);
    for (id, sealed) in rows {
        let seed = sealing.open(id.into(), &sealed).unwrap().seed;
        let clear = hex(seed.as_slice());
        for (place, text) in &places {
            assert!(!text.contains(&clear) && !text.contains(TOKEN_ENCRYPTION_KEY), "a private key in {place}");
        }
    }
    let of_keys = keys.iter().map(|key| &key[key.len() - 33..key.len() - 6]);
    // Of a token its signature: what it says is no secret without.
    for secret in of_keys.chain(tokens.iter().map(|token| &token[token.len() - 40..])) {
        for (place, text) in &places {
            for needle in [secret.to_owned(), hex(secret)] {
                let at = text.find(&needle);
                let around = at.map(|at| text[at.saturating_sub(300)..at].to_owned());
                assert!(at.is_none(), "a secret in {place}: …{}", around.unwrap());
            }
        }
    }
}
