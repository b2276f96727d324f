//! The arguments, without a database.

use clap::Parser;

use super::*;

#[derive(Parser, Debug)]
struct Cli {
    #[command(subcommand)]
    command: OperatorCommand,
}

fn parse(arguments: &[&str]) -> Result<OperatorCommand, clap::Error> {
    Cli::try_parse_from(["operator"].iter().chain(arguments)).map(|cli| cli.command)
}

#[test]
fn arguments() {
    let Ok(OperatorCommand::Create(create)) = parse(&["create", "--name", "ci"]) else { panic!("refused") };
    assert!(create.scopes.is_empty() && create.organizations.is_empty() && create.expires_in.is_none());
    let good = ["create", "--name", "n", "--scope", "usage.write", "--scope", "organizations.create", "--organization"];
    let good: Vec<&str> = good.into_iter().chain(["acme", "--expires-in", "90d"]).collect();
    let Ok(OperatorCommand::Create(create)) = parse(&good) else { panic!("refused") };
    assert_eq!(create.scopes, [Permission::UsageWrite, Permission::OrganizationsCreate]);
    assert_eq!((create.organizations, create.expires_in), (vec!["acme".into()], Some(Duration::from_hours(90 * 24))));
    assert!(matches!(parse(&["list"]), Ok(OperatorCommand::List)));
    assert!(parse(&["revoke", "0198c0de-0000-7000-8000-000000000001"]).is_ok());
}

#[test]
fn refused_arguments() {
    for bad in [
        &["create"] as &[&str],
        &["create", "--name", "n", "--scope", "usage.destroy"],
        &["create", "--name", "n", "--organization", "acme"],
        &["create", "--name", "n", "--expires-in", "0s"],
        &["create", "--name", "n", "--expires-in", "101y"],
        &["create", "--name", "n", "--expires-in", "soon"],
        &["revoke"],
        &["revoke", "1"],
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}
