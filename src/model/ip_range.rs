//! Ranges of IP addresses that a key may be used from.
//!
//! IPv4 that is written as IPv6 (`::ffff:192.0.2.1`, as a socket for both shows it) counts as IPv4, in ranges and in
//! addresses: a list must not be got around by how an address is written, nor fail its owner for it.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::error::{Error, Violation};

/// The most ranges of one key.
const RANGES: usize = 64;

/// At most 64 ranges or single addresses, each once.
pub fn ranges(field: &str, texts: &[String]) -> Result<Vec<IpNet>, Violation> {
    if texts.len() > RANGES {
        return Err(Violation::new(field, format!("must be at most {RANGES} ranges")));
    }
    let mut ranges = Vec::with_capacity(texts.len());
    for (position, text) in texts.iter().enumerate() {
        let wrong = |rule: String| Err(Violation::new(format!("{field}[{position}]"), rule));
        let Some(range) = parse(text) else {
            return wrong("must be an IP address or a range of them, such as 203.0.113.0/24 or 2001:db8::/32".into());
        };
        // Was the one address meant, or all of the range? Who writes it knows.
        if range.addr() != range.network() {
            return wrong(format!("has an address inside of its range: write {} or {}", range.addr(), range.trunc()));
        }
        if ranges.contains(&range) {
            return wrong(format!("must name {range} once"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// As written: IPv4 in the form of IPv6 becomes IPv4, an address a range of one.
fn parse(text: &str) -> Option<IpNet> {
    let range = match text.parse::<IpNet>() {
        Ok(range) => range,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let mapped = match range {
        IpNet::V6(range) => range.addr().to_ipv4_mapped().zip(range.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    match mapped {
        Some((address, prefix)) => Ipv4Net::new(address, prefix).ok().map(IpNet::V4),
        None => Some(range),
    }
}

/// As the database has them.
///
/// Error: `Internal` for what is no range. To leave it out would open a key to everybody.
pub fn stored(texts: &[String]) -> Result<Vec<IpNet>, Error> {
    texts.iter().map(|text| text.parse().map_err(Error::internal)).collect()
}

/// For the database and the wire.
#[must_use]
pub fn texts(ranges: &[IpNet]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

/// Whether a key bound to ranges may be used from the address; one that is bound cannot be used from nobody knows where.
#[must_use]
pub fn allowed(ranges: &[IpNet], address: Option<IpAddr>) -> bool {
    ranges.is_empty()
        || address.is_some_and(|address| {
            let address = address.to_canonical();
            ranges.iter().any(|range| range.contains(&address))
        })
}

/// Whether there is an address in what is allowed after that was not before.
#[must_use]
pub fn reaches_further(before: &[IpNet], after: &[IpNet]) -> bool {
    let known = |range: &IpNet| before.iter().any(|before| before.contains(range));
    !before.is_empty() && (after.is_empty() || !after.iter().all(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Result<Vec<String>, Violation> {
        let owned: Vec<String> = texts.iter().map(ToString::to_string).collect();
        ranges("f", &owned).map(|ranges| super::texts(&ranges))
    }

    #[test]
    fn ranges_have_one_form() {
        for (written, kept) in [
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("203.0.113.7", "203.0.113.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:203.0.113.7", "203.0.113.7/32"),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(of(&[written]).unwrap(), [kept], "{written}");
        }
        for bad in [
            "",
            "203.0.113",
            "203.0.113.0/33",
            "203.0.113.7/24",
            "::1/64",
            "a",
            "10.0.0.0/8 ",
            "10.0.0.0/-1",
            "fe80::1%eth0",
        ] {
            assert_eq!(of(&["10.0.0.0/8", bad]).unwrap_err().field, "f[1]", "{bad}");
        }
        assert_eq!(of(&["203.0.113.7", "::ffff:203.0.113.7"]).unwrap_err().field, "f[1]", "the same");
        let many: Vec<String> = (0..65).map(|number| format!("10.0.0.{number}")).collect();
        assert!(ranges("f", &many[..64]).is_ok());
        assert_eq!(ranges("f", &many).unwrap_err().field, "f");
    }

    #[test]
    fn where_a_key_may_be_used() {
        let ranges = stored(&["203.0.113.0/24".into(), "2001:db8::/32".into()]).unwrap();
        for (address, expected) in [
            ("203.0.113.7", true),
            ("::ffff:203.0.113.7", true),
            ("203.0.114.7", false),
            ("::ffff:203.0.114.7", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(allowed(&ranges, address.parse().ok()), expected, "{address}");
        }
        assert!(!allowed(&ranges, None) && allowed(&[], None));
        let all_of_v6 = stored(&["::/0".into()]).unwrap();
        assert!(!allowed(&all_of_v6, "203.0.113.7".parse().ok()) && allowed(&all_of_v6, "::1".parse().ok()));
        assert!(stored(&["everywhere".into()]).is_err());
    }

    #[test]
    fn what_reaches_further() {
        let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        for (before, after, further) in [
            (&[] as &[&str], &["10.0.0.0/8"] as &[&str], false),
            (&["10.0.0.0/8"], &[], true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], false),
            (&["10.0.0.0/8"], &["10.0.0.0/8", "192.0.2.1/32"], true),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], true),
        ] {
            assert_eq!(reaches_further(&of(before), &of(after)), further, "{before:?} {after:?}");
        }
    }
}
