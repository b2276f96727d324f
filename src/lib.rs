//! Tenancy: organizations, members, API keys, usage metering and quotas for a platform, over gRPC on Postgres.
//!
//! # The map
//!
//! | module | what it is for | what it may import |
//! |---|---|---|
//! | [`error`], [`clock`], [`deadline`], [`about`], [`proto`] | the error type, the time, the request's deadline and its place in the log, generated code | nothing of ours |
//! | [`ids`], [`filter`], [`page`] | identifiers, filters and pages of lists | `error` |
//! | [`model`] | validated types and their rules, one file a resource; no I/O | the above, and the values of `auth` |
//! | [`facts`] | a cache that is loaded once however many ask | nothing of ours |
//! | [`auth`] | keys, tokens, permissions, principals; the auth layer; the gate | the above, `repository`, `transport`'s layer trait |
//! | [`repository`] | the only place with SQL; one file a resource | `model`, `auth`'s values, and what those may |
//! | [`metering`] | usage on its way in, and how time is cut for figures | `model`, `repository`, `auth`'s proofs |
//! | [`quota`] | decisions about limits, and the rules of the rate limit service: what is pure (windows, ledger, counters, books, rule trees), then the engine that runs it | `model`, `repository`, `metering`, `auth`'s proofs |
//! | [`service`] | the gRPC services, one file a resource; `convert/` between protobuf and model | all above |
//! | [`sidecar`] | what Envoys ask and tell: `ext_authz`, rate limits, rate limit quotas, access logs | all above |
//! | [`transport`] | connections and tower layers; the admin port | `auth`, `status`, `repository::database` |
//! | [`worker`] | background jobs; each has a step that a test drives | `repository`, and the caches it keeps true |
//! | [`status`] | the only mapping of an error to the wire | `error` |
//! | [`app`], [`config`], [`telemetry`] | composition, options, logs and metrics | anything |
//! | [`cli`], [`demo`] | the commands, and the data they show; `cli::export` and `cli::restore` move an organization, by [`repository::portable`] | anything |
//!
//! `auth` holds both values without I/O (`permission`, `principal`, `keys`, `invitation`) and what does I/O with them
//! (`directory`, `tokens`, `authenticator`, `layer`, `gate`). The repository takes the values as proofs: a scope, the only
//! way to a connection, is opened with a [`auth::principal::Permitted`], and only the gate makes one for a caller. A tidy
//! test holds the imports to this table.
//!
//! # One request, walked through
//!
//! `MemberService/AddMember`, from the socket:
//!
//! 1. [`transport::serve`] accepted the connection on one of the serving threads, each with a runtime of its own.
//!    [`transport::requests`] works on the request where its connection is, and makes a task of it once it has to wait.
//! 2. [`transport::layers`] lists the layers in order: the request gets an id and its place in the log, an ErrorInfo on whatever
//!    refuses it, a net for panics, a deadline, a place among the requests in flight, and a caller.
//! 3. [`auth::layer`] finds the key in the headers; [`auth::authenticator`] proves it, from memory when it was seen
//!    before (a token is proven by [`auth::tokens`], and worth what is true of its bearer now); [`auth::permission`] says that
//!    this RPC takes `members.add`. [`transport::dispatch`] finds the service, which finds the caller in the extensions (what is
//!    asked with every request of a platform is a [`transport::dispatch::Direct`], read and written by [`transport::unary`]).
//! 4. `service::member` takes caller and message apart, checks the message, and asks [`auth::gate`] for the organization
//!    that the message names. The gate finds it, intersects with what the user acted for may do there (role, extra, denied:
//!    [`model::role`]), and makes the proof. Who may hand out what is decided in one place, `Permitted::require_held`.
//! 5. [`repository::database`] opens a tenant scope with that proof: BEGIN, role and organization in one round trip.
//! 6. [`repository::member`] runs the statements, writes the audit record, and announces the change to all replicas, in
//!    the same transaction. Row level security holds whatever the statements forgot.
//! 7. The handler commits and replies. [`worker::changes`] of every replica reads the announcement and forgets what it
//!    knew of that membership.
//!
//! A new RPC touches its `.proto`, `auth/permission.rs`, `service/<resource>.rs` with its `convert/`,
//! `repository/<resource>.rs`, and a case in `tests/it/isolation/cases.rs`; a test fails for whatever is forgotten.
//!
//! # One event, walked through
//!
//! An event of `UsageService/RecordUsage` or `StreamUsage`, after the same layers:
//!
//! 1. `service::usage::intake` validates the events; [`metering::parcel`] sorts them by the organizations they name, and
//!    the gate makes a proof for each. On a stream, `service::usage::pipeline` bounds what is not acknowledged.
//! 2. [`metering::recorder`] finds the meter in [`metering::catalog`], has [`model::usage`] measure the event (value,
//!    groups, filter), and judges its time.
//! 3. [`metering::writer`] takes it from a fair and bounded queue into a transaction with whatever else waits, one that no
//!    other writer of the replica shares an organization with.
//! 4. [`repository::usage::ingest`] inserts events that are new, and adds what they come to, series by series, to quarters of
//!    an hour and then to hours, in one statement. What was there before is compared, and nothing is added.
//! 5. After the commit every caller hears of each of its events.
//!
//! [`repository::usage::figures`] answers from hours, from quarters at the edges of buckets that do not begin on one, and from raw
//! events where both are too coarse ([`model::usage::query::Sources`] parts them);
//! [`repository::usage::void`] takes an event out again; [`repository::usage::recount`] checks that all of it is true.
//!
//! # One decision, walked through
//!
//! `QuotaService/ConsumeQuota`, after the same layers:
//!
//! 1. `service::quota` reads the question; [`quota::engine`] finds the limits in force in [`quota::policies`], by
//!    [`quota::policy`]: the plan's, the platform's, the organization's own.
//! 2. Under the lock of the organization's [`quota::desk`], [`quota::book`] asks the [`quota::counter`] of each limit. All have
//!    enough: all are charged, and that is the answer.
//! 3. One has not: its account goes into the queue of the [`quota::exchanger`], which asks the ledger about all that wait in
//!    one transaction. [`repository::quota`] reads the accounts under their locks, [`quota::ledger`] hears what was used and
//!    grants more, and the decision is made anew.
//! 4. A reservation that is settled, or an operation that must happen once, is written by [`repository::quota`] as well.
//!
//! A new kind of window is a matter of [`quota::slots`] or [`quota::rate`]; a new term of a limit, of [`model::limit`] and the
//! counter.
//!
//! # One request of an Envoy, walked through
//!
//! A client's request waits at an Envoy, which asks `Authorization/Check`. The sidecar is the caller of the layers; the tenant
//! is whom the request belongs to:
//!
//! 1. `sidecar::authz::request` finds the one credential, `route` what the route needs.
//! 2. [`auth::authenticator`] proves it, from memory. What the sidecar's own key does not see is like no key.
//! 3. Addresses, origin, method, permission, feature; then [`quota::decisions`] decides or reserves.
//! 4. `sidecar::authz::reply` says who it is in headers, and gives the Envoy a signed [`sidecar::admission`] in metadata.
//!    Where something is reserved, [`sidecar::pending`] waits for the log.
//! 5. The request is over: its entry comes back on `StreamAccessLogs`. `sidecar::access_log::entry` reads what was admitted,
//!    `intake` asks the gate for each organization, settles through [`quota::decisions`], and records through
//!    [`metering::recorder`], under the identity that the admission has.
//!
//! A new kind of credential belongs into `sidecar::authz::tenant`, a new need of routes into `sidecar::authz::route`, another
//! amount of a finished request into [`sidecar::admission::Source`]. What a real Envoy makes of it is tested in
//! `tests/it/envoy`, with the files of `deploy/envoy`.
//!
//! # Deliberately absent
//!
//! No trait with one implementation, no mocks: tests use a real Postgres. No global configuration or pool. No connection
//! outside a scope, the owner's migrations aside; a restore, which is the owner's too, has a scope of its own. No cache that
//! is right only if a notification arrives.

pub mod about;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod demo;
pub mod error;
pub mod facts;
pub mod filter;
pub mod ids;
pub mod metering;
pub mod model;
pub mod page;
pub mod proto;
pub mod quota;
pub mod repository;
pub mod service;
pub mod sidecar;
pub mod status;
pub mod telemetry;
pub mod transport;
pub mod worker;
