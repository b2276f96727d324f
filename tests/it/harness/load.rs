//! Writers that remember what was acknowledged to them, and the comparison of that with what is really there.
//!
//! They behave as producers should: every write has an identity, and one that was not acknowledged is sent again, as it
//! was, until it is.

mod verify;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use prost_types::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tenancy::proto::v1;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::harness::{Client, Wire, eventually};

pub use self::verify::verify;

/// The deadline of each call.
pub const DEADLINE: &str = "2S";

/// When a call that has a deadline has no answer, for whatever reason, the service broke its promise. Far longer than the
/// deadline: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a writer waits before it repeats a write.
const PAUSE: Duration = Duration::from_millis(25);

/// Where writers write.
#[derive(Clone, Debug)]
pub struct Target {
    /// The service.
    pub grpc: SocketAddr,
    /// An operator's key.
    pub key: String,
    /// The organization of the members and of the usage.
    pub organization_id: String,
}

/// What may go wrong while they do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Expect {
    /// The database goes away: calls are answered, UNAVAILABLE with a `RetryInfo` and within the deadline.
    Outage,
    /// The service goes away: connections break, too.
    Death,
}

/// What one writer was acknowledged.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Organizations: slug and id.
    pub organizations: Vec<(String, String)>,
    /// Members: the ids of their users.
    pub members: Vec<String>,
    /// Events: id, quantity and subject.
    pub events: Vec<(Uuid, u32, String)>,
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    writers: JoinSet<Ledger>,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    expect: Expect,
    acknowledged: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Target {
    /// Makes the organization and its meter.
    pub async fn new(grpc: SocketAddr, key: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{grpc}")).unwrap();
        let client = Client::new(endpoint.connect_lazy()).key(key);
        let organization =
            v1::Organization { slug: "load".into(), display_name: "Load".into(), ..v1::Organization::default() };
        let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        let created = client.organizations().create_organization(request).await.unwrap().into_inner();
        let organization_id = created.organization.unwrap().organization_id;
        let meter = v1::Meter {
            organization_id: organization_id.clone(),
            key: "load.units".into(),
            display_name: "Units".into(),
            aggregation: v1::MeterAggregation::Sum.into(),
            ..v1::Meter::default()
        };
        let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
        client.meters().create_meter(request).await.unwrap();
        Self { grpc, key: key.to_owned(), organization_id }
    }

    /// One of each sort of call, for who wants to see what is answered.
    pub async fn probe(&self) -> Vec<(&'static str, Result<(), Status>)> {
        let wire = Wire::connect(self.grpc).await;
        let id = || self.organization_id.clone();
        let event = v1::UsageEvent { meter: "load.units".into(), ..v1::UsageEvent::default() };
        let calls: [(&str, Vec<u8>); 4] = [
            (
                "/tenancy.v1.OrganizationService/GetOrganization",
                v1::GetOrganizationRequest { organization_id: id() }.encode_to_vec(),
            ),
            (
                "/tenancy.v1.MemberService/ListMembers",
                v1::ListMembersRequest { organization_id: id(), ..Default::default() }.encode_to_vec(),
            ),
            (
                "/tenancy.v1.OrganizationService/UpdateOrganization",
                v1::UpdateOrganizationRequest {
                    organization: Some(v1::Organization {
                        organization_id: id(),
                        display_name: "Probed".into(),
                        ..v1::Organization::default()
                    }),
                    update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
                    validate_only: true,
                }
                .encode_to_vec(),
            ),
            (
                "/tenancy.v1.UsageService/RecordUsage",
                // Of a meter that does not exist: looked up, and never recorded.
                v1::RecordUsageRequest {
                    organization_id: id(),
                    events: vec![v1::UsageEvent { meter: "load.nothing".into(), ..event }],
                }
                .encode_to_vec(),
            ),
        ];
        let mut answers = Vec::new();
        for (path, bytes) in calls {
            let headers = self.headers();
            let call = wire.try_call(path, &headers, &bytes);
            let reply = tokio::time::timeout(PATIENCE, call).await.expect("an answer within the deadline").unwrap();
            answers.push((path, reply.outcome.map(|_| ())));
        }
        answers
    }

    fn headers(&self) -> [(&str, &str); 2] {
        [("x-api-key", &self.key), ("grpc-timeout", DEADLINE)]
    }
}

impl Load {
    /// Starts writers of each sort.
    pub fn start(target: Target, expect: Expect, seed: u64) -> Self {
        let shared = Arc::new(Shared { target, expect, acknowledged: AtomicU64::new(0), faults: Mutex::default() });
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        for number in 0..6 {
            let writer = Writer {
                number,
                shared: Arc::clone(&shared),
                stop: stop.clone(),
                random: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number)),
                wire: None,
                ledger: Ledger::default(),
            };
            writers.spawn(writer.run());
        }
        Self { writers, stop, shared }
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for so many acknowledgements more.
    pub async fn progress(&self, more: u64) {
        let goal = self.acknowledged() + more;
        eventually("writes are acknowledged", || async { self.acknowledged() >= goal }).await;
    }

    /// Lets every writer end the write that it is at; fails for answers that were not as they should be.
    pub async fn finish(mut self) -> Ledger {
        self.stop.cancel();
        let mut all = Ledger::default();
        let ended = async {
            while let Some(ledger) = self.writers.join_next().await {
                let ledger = ledger.unwrap();
                all.organizations.extend(ledger.organizations);
                all.members.extend(ledger.members);
                all.events.extend(ledger.events);
            }
        };
        tokio::time::timeout(Duration::from_mins(1), ended).await.expect("everything is acknowledged in the end");
        let faults = std::mem::take(&mut *self.shared.faults.lock().unwrap());
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
        all
    }
}

struct Writer {
    number: u64,
    shared: Arc<Shared>,
    stop: CancellationToken,
    random: StdRng,
    wire: Option<Wire>,
    ledger: Ledger,
}

impl Writer {
    async fn run(mut self) -> Ledger {
        for turn in 0_u64.. {
            if self.stop.is_cancelled() {
                break;
            }
            match self.number % 3 {
                0 => self.organization(turn).await,
                1 => self.member(turn).await,
                _ => self.usage().await,
            }
        }
        self.ledger
    }

    async fn organization(&mut self, turn: u64) {
        let slug = format!("load-{}-{turn}", self.number);
        let organization =
            v1::Organization { slug: slug.clone(), display_name: slug.clone(), ..v1::Organization::default() };
        let request = v1::CreateOrganizationRequest {
            organization: Some(organization),
            request_id: self.uuid().to_string(),
            ..Default::default()
        };
        let path = "/tenancy.v1.OrganizationService/CreateOrganization";
        let created: v1::CreateOrganizationResponse = self.persist(path, request).await;
        self.ledger.organizations.push((slug, created.organization.unwrap().organization_id));
    }

    async fn member(&mut self, turn: u64) {
        let email = format!("load-{}-{turn}@example.com", self.number);
        let user = v1::User { email, display_name: "Load".into(), ..v1::User::default() };
        let request =
            v1::CreateUserRequest { user: Some(user), request_id: self.uuid().to_string(), ..Default::default() };
        let created: v1::CreateUserResponse = self.persist("/tenancy.v1.UserService/CreateUser", request).await;
        let user_id = created.user.unwrap().user_id;
        let request = v1::AddMemberRequest {
            organization_id: self.shared.target.organization_id.clone(),
            user_id: user_id.clone(),
            role: "member".into(),
            request_id: self.uuid().to_string(),
        };
        let _: v1::AddMemberResponse = self.persist("/tenancy.v1.MemberService/AddMember", request).await;
        self.ledger.members.push(user_id);
    }

    async fn usage(&mut self) {
        let mut events = Vec::new();
        for _ in 0..self.random.random_range(1..=8) {
            // Of the last day, so that several aggregates grow.
            let seconds = chrono::Utc::now().timestamp() - self.random.random_range(0..86_400);
            let (id, quantity) = (self.uuid(), self.random.random_range(1..1000_u32));
            let subject = if self.random.random_bool(0.5) { "ida" } else { "" };
            events.push(v1::UsageEvent {
                event_id: id.to_string(),
                meter: "load.units".into(),
                quantity: quantity.to_string(),
                occurred_at: Some(Timestamp { seconds, nanos: 0 }),
                subject: subject.into(),
                ..v1::UsageEvent::default()
            });
            self.ledger.events.push((id, quantity, subject.into()));
        }
        let request = v1::RecordUsageRequest { organization_id: self.shared.target.organization_id.clone(), events };
        let recorded: v1::RecordUsageResponse = self.persist("/tenancy.v1.UsageService/RecordUsage", request).await;
        for result in recorded.results {
            let good = matches!(result.status(), v1::UsageEventStatus::Recorded | v1::UsageEventStatus::Duplicate);
            if !good {
                self.fault(format!("{result:?}"));
            }
        }
    }

    fn uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.random.random()).into_uuid()
    }

    /// Repeats a call until it is acknowledged.
    async fn persist<R: Message + Default>(&mut self, path: &str, request: impl Message) -> R {
        let request = request.encode_to_vec();
        loop {
            if let Some(bytes) = self.attempt(path, &request).await {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                return R::decode(bytes).unwrap();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&mut self, path: &str, request: &[u8]) -> Option<bytes::Bytes> {
        let shared = Arc::clone(&self.shared);
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => match Wire::try_connect(shared.target.grpc).await {
                Ok(wire) => wire,
                Err(error) => return self.broken(&error.to_string()),
            },
        };
        let headers = shared.target.headers();
        let reply = tokio::time::timeout(PATIENCE, wire.try_call(path, &headers, request)).await;
        match reply {
            Err(_) => self.fault(format!("{path}: no answer within the deadline")),
            Ok(Err(error)) => return self.broken(&error.to_string()),
            Ok(Ok(reply)) => {
                self.wire = Some(wire);
                match reply.outcome {
                    Ok(bytes) => return Some(bytes),
                    Err(status) if unavailable(&status) => {}
                    Err(status) => self.fault(format!("{path}: {status:?}")),
                }
            }
        }
        None
    }

    fn broken(&self, error: &str) -> Option<bytes::Bytes> {
        if self.shared.expect == Expect::Outage {
            self.fault(format!("the connection broke: {error}"));
        }
        None
    }

    fn fault(&self, what: String) {
        self.shared.faults.lock().unwrap().push(what);
    }
}

/// Whether an answer says that the database is away, and when to come back.
pub fn unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable
        && status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some())
        && status.get_details_error_info().is_some()
}
