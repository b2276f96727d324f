//! `cargo bench --bench import`: a file of 100,000 people and their memberships in one organization by `tenancy import`, beside
//! the single calls that would do the same: `AddMember` one after the other, and 8 at a time. In one run, with the same service.

/// The parts of what the benchmarks share that this one needs.
mod support {
    pub mod report;
    pub mod server;

    /// Why a benchmark did not come to its end.
    pub type Failure = Box<dyn std::error::Error + Send + Sync>;
}

use std::fmt::Write as _;

use clap::Parser as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tenancy::cli::client::Input;
use tenancy::cli::{Cli, Command, import};
use tenancy::proto::v1;
use tenancy::proto::v1::member_service_client::MemberServiceClient;
use tenancy::proto::v1::user_service_client::UserServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::support::server::{Server, keyed};
use crate::support::{Failure, report};

const PEOPLE: u32 = 100_000;
/// Of single calls one after the other, and at a time.
const SINGLE: [(u32, usize); 2] = [(2_000, 1), (4_000, 8)];

fn main() -> Result<(), Failure> {
    let (server, _) = Server::start(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let rates = runtime.block_on(measure(&server))?;
    drop(runtime);
    server.stop()?;
    tell(&rates)
}

/// What was measured, and how many a second.
type Rates = Vec<(String, f64)>;

async fn measure(server: &Server) -> Result<Rates, Failure> {
    for slug in ["acme", "single"] {
        server.tenant(slug, &["members.read"]).await?;
    }
    let mut rates = Vec::new();
    let mut users = "email,display_name\n".to_owned();
    let mut members = "email,role\n".to_owned();
    for number in 0..PEOPLE {
        writeln!(users, "u{number}@example.com,User {number}")?;
        writeln!(members, "u{number}@example.com,member")?;
    }
    rates.push(("tenancy import, users".into(), imported(server, users, &["--type", "user"]).await?));
    let arguments = ["--type", "member", "--organization", "acme"];
    rates.push(("tenancy import, members".into(), imported(server, members.clone(), &arguments).await?));
    rates.push(("the same file again".into(), imported(server, members, &arguments).await?));

    let channel = server.connect().await?;
    let ids = ids(server, &channel).await?;
    let mut ids = ids.into_iter();
    for (count, at_once) in SINGLE {
        let began = server.clock.instant();
        let calls = ids.by_ref().take(count as usize).map(|user_id| add(server, &channel, user_id));
        stream::iter(calls).buffer_unordered(at_once).try_collect::<Vec<()>>().await?;
        let rate = f64::from(count) / (server.clock.instant() - began).as_secs_f64();
        rates.push((format!("AddMember, {at_once} at a time"), rate));
    }
    Ok(rates)
}

/// Imports the rows; how many of them a second.
async fn imported(server: &Server, rows: String, arguments: &[&str]) -> Result<f64, Failure> {
    let url = format!("http://{}", server.running.grpc);
    let cli = Cli::try_parse_from(["tenancy", "import", "--url", &url].iter().chain(arguments))?;
    let Some(Command::Import(command)) = cli.command else { return Err("another command".into()) };
    let input = Input { bytes: Some(rows.len() as u64), reader: Box::new(std::io::Cursor::new(rows)) };
    let began = server.clock.instant();
    import::import(&command, &server.operator, input, &mut std::io::stdout(), CancellationToken::new()).await?;
    Ok(f64::from(PEOPLE) / (server.clock.instant() - began).as_secs_f64())
}

/// The ids of as many users as single calls need.
async fn ids(server: &Server, channel: &Channel) -> Result<Vec<String>, Failure> {
    let mut users = UserServiceClient::new(channel.clone());
    let mut request = v1::ListUsersRequest { page_size: 1000, ..Default::default() };
    let mut ids = Vec::new();
    while ids.len() < SINGLE.iter().map(|(count, _)| *count as usize).sum() {
        let reply = users.list_users(keyed(request.clone(), &server.operator)?).await?.into_inner();
        ids.extend(reply.users.into_iter().map(|user| user.user_id));
        request.page_token = reply.next_page_token;
    }
    Ok(ids)
}

async fn add(server: &Server, channel: &Channel, user_id: String) -> Result<(), Failure> {
    let request = v1::AddMemberRequest {
        organization_id: "single".into(),
        user_id,
        role: "member".into(),
        ..v1::AddMemberRequest::default()
    };
    MemberServiceClient::new(channel.clone()).add_member(keyed(request, &server.operator)?).await?;
    Ok(())
}

fn tell(rates: &Rates) -> Result<(), Failure> {
    let single = rates.last().map_or(1.0, |(_, rate)| *rate);
    let row = |(name, rate): &(String, f64)| {
        vec![
            name.clone(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / single),
            format!("{:.1}", f64::from(PEOPLE) / rate),
        ]
    };
    println!();
    let rows: Vec<_> = rates.iter().map(row).collect();
    report::table(&["", "rows/s", "of AddMember, 8 at a time", "s for 100,000"], &rows);
    let cases: Vec<_> = rates.iter().map(|(name, rate)| json!({"case": name, "rows_per_second": rate})).collect();
    report::json("import", &json!({"cores": report::cores(), "people": PEOPLE, "cases": cases}))
}
