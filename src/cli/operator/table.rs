//! The keys of the platform as a table.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::auth::keys::kind::ApiKeyKind;
use crate::model::platform_key::PlatformKey;

const COLUMNS: usize = 9;
const HEAD: [&str; COLUMNS] = ["ID", "KIND", "KEY", "NAME", "SCOPES", "ORGANIZATIONS", "CREATED", "LAST USED", "STATE"];

/// Writes the keys as they are at `now`, one a line, in columns as wide as their widest cell.
pub fn write(out: &mut impl Write, keys: &[PlatformKey], now: DateTime<Utc>) -> io::Result<()> {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(keys.iter().map(|key| cells(key, now)));
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    out.flush()
}

fn cells(key: &PlatformKey, now: DateTime<Utc>) -> [String; COLUMNS] {
    let joined = |list: Vec<String>| list.join(",");
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let operator = key.kind == ApiKeyKind::Operator;
    let state = match (key.state(now), key.revoke_time, key.expire_time) {
        ("active", _, Some(until)) => format!("active until {}", time(until)),
        (state, Some(at), _) | (state, None, Some(at)) => format!("{state} {}", time(at)),
        (state, None, None) => state.to_owned(),
    };
    [
        key.platform_key_id.to_string(),
        if operator { "operator" } else { "service" }.to_owned(),
        key.redacted().to_string(),
        key.display_name.clone(),
        if operator { "all".to_owned() } else { joined(key.scopes.clone()) },
        key.organization_ids
            .as_ref()
            .map_or_else(|| "all".to_owned(), |ids| joined(ids.iter().map(ToString::to_string).collect())),
        time(key.create_time),
        key.last_used_time.map_or_else(|| "never".to_owned(), time),
        state,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PlatformKeyId;

    #[test]
    fn columns_line_up_and_show_no_secret() {
        let at = |second: i64| DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap();
        let operator = PlatformKey {
            platform_key_id: PlatformKeyId::new(at(0)),
            kind: ApiKeyKind::Operator,
            lookup_id: "4fT0xKq81LmZsV2c".parse().unwrap(),
            display_name: "Ännchen".into(),
            scopes: Vec::new(),
            organization_ids: None,
            expire_time: Some(at(100)),
            revoke_time: None,
            last_used_time: None,
            create_time: at(0),
        };
        let service = PlatformKey {
            kind: ApiKeyKind::Service,
            scopes: vec!["usage.write".into(), "keys.verify".into()],
            revoke_time: Some(at(5)),
            expire_time: None,
            ..operator.clone()
        };
        let mut out = Vec::new();
        write(&mut out, &[operator, service], at(10)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let column = |line: &str, what: &str| line[..line.find(what).unwrap()].chars().count();
        assert_eq!(column(lines[0], "SCOPES"), column(lines[1], "all"));
        assert_eq!(column(lines[0], "SCOPES"), column(lines[2], "usage.write,keys.verify"));
        assert!(lines[1].contains("op_4fT0…") && lines[1].ends_with("active until 2023-11-14T22:15:00Z"), "{text}");
        assert!(lines[2].contains("svc_4fT0…") && lines[2].ends_with("revoked 2023-11-14T22:13:25Z"), "{text}");
        assert!(!text.contains("4fT0xKq81LmZsV2c"));
    }
}
