//! `tenancy ratelimit import`: files of envoyproxy/ratelimit, made into rate limit domains by a client like any other. Over gRPC
//! and not on the database, so that whoever keeps such files, a pipeline as a rule, needs no more than a key of two scopes,
//! and the audit tells whose key it was.

mod yaml;

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cli::CliError;
use crate::cli::client::{Credential, endpoint};
use crate::proto::v1;
use crate::proto::v1::rate_limit_domain_service_client::RateLimitDomainServiceClient;

/// What to import, and where to.
#[derive(Args, Clone, Debug)]
pub struct Import {
    /// The files, each of one domain
    #[arg(required = true)]
    pub files: Vec<PathBuf>,

    /// The service, as http://host:port or https://host:port
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    pub url: String,

    /// A file with the key, instead of TENANCY_API_KEY
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Replace the rules of domains that exist; what was counted stays counted
    #[arg(long)]
    pub replace: bool,

    /// Check everything, say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A file, and the domain that it is.
struct File {
    name: String,
    domain: v1::RateLimitDomain,
    remarks: Vec<&'static str>,
}

/// What is to be done for a file.
#[derive(Clone, PartialEq, Eq)]
enum Step {
    Create,
    /// Instead of rules with this etag.
    Replace(String),
    Nothing,
}

/// Imports the files and writes what became of each. Nothing is done for any before all are found to be good.
///
/// Errors: a file that cannot be read or says what is not supported, a domain that exists, a service that refuses.
pub async fn run(command: &Import, key: &str, out: &mut impl Write) -> Result<(), CliError> {
    let files = command.files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut first_of = HashMap::new();
    for file in &files {
        if let Some(first) = first_of.insert(&file.domain.domain, &file.name) {
            return Err(format!("{}: domain {} is that of {first}", file.name, file.domain.domain).into());
        }
    }
    let mut service = Service::new(command, key)?;
    let mut steps = Vec::with_capacity(files.len());
    for file in &files {
        let named = |status: Status| format!("{}: {}", file.name, told(&status));
        let step = service.step(file, command.replace).await?;
        // Checked by the service, before anything is done.
        service.take(&file.domain, &step, true).await.map_err(named)?;
        steps.push(step);
    }
    for (file, step) in files.iter().zip(&steps) {
        if !command.dry_run {
            let named = |status: Status| format!("{}: {}", file.name, told(&status));
            service.take(&file.domain, step, false).await.map_err(named)?;
        }
        let done = match (step, command.dry_run) {
            (Step::Nothing, _) => "unchanged",
            (Step::Create, false) => "created",
            (Step::Create, true) => "would be created",
            (Step::Replace(_), false) => "replaced",
            (Step::Replace(_), true) => "would be replaced",
        };
        let rules = count(&file.domain.rules);
        let plural = if rules == 1 { "" } else { "s" };
        writeln!(out, "{}: domain {}: {done}, {rules} rule{plural}", file.name, file.domain.domain)?;
        for remark in &file.remarks {
            writeln!(out, "  {remark}")?;
        }
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<File, CliError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let yaml::Read { domain, remarks } = yaml::read(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(File { name, domain, remarks })
}

fn count(rules: &[v1::RateLimitRule]) -> usize {
    rules.iter().map(|rule| 1 + count(&rule.rules)).sum()
}

/// What the service said, for a person.
fn told(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// The service, and the key to it.
struct Service {
    client: RateLimitDomainServiceClient<Channel>,
    credential: Credential,
}

impl Service {
    fn new(command: &Import, key: &str) -> Result<Self, CliError> {
        let credential = Credential::new(key)?;
        let client = RateLimitDomainServiceClient::new(endpoint(&command.url)?.connect_lazy());
        Ok(Self { client, credential })
    }

    /// What is to be done for a file.
    async fn step(&mut self, file: &File, replace: bool) -> Result<Step, CliError> {
        let domain = file.domain.domain.clone();
        let request = self.credential.request(v1::GetRateLimitDomainRequest { domain });
        let found = match self.client.get_rate_limit_domain(request).await {
            Ok(reply) => reply.into_inner().rate_limit_domain.unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => return Ok(Step::Create),
            Err(status) => return Err(format!("{}: {}", file.name, told(&status)).into()),
        };
        if found.rules == file.domain.rules {
            return Ok(Step::Nothing);
        }
        if !replace {
            let domain = &file.domain.domain;
            let error = format!("{}: domain {domain} exists with other rules; --replace replaces them", file.name);
            return Err(error.into());
        }
        Ok(Step::Replace(found.etag))
    }

    async fn take(&mut self, domain: &v1::RateLimitDomain, step: &Step, validate_only: bool) -> Result<(), Status> {
        match step {
            Step::Create => {
                let rate_limit_domain = Some(domain.clone());
                let create =
                    v1::CreateRateLimitDomainRequest { rate_limit_domain, validate_only, ..Default::default() };
                let request = self.credential.request(create);
                self.client.create_rate_limit_domain(request).await?;
            }
            Step::Replace(etag) => {
                let rate_limit_domain = Some(v1::RateLimitDomain { etag: etag.clone(), ..domain.clone() });
                let update =
                    v1::UpdateRateLimitDomainRequest { rate_limit_domain, validate_only, ..Default::default() };
                let request = self.credential.request(update);
                self.client.update_rate_limit_domain(request).await?;
            }
            Step::Nothing => {}
        }
        Ok(())
    }
}
