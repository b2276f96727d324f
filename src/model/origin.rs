//! Web origins, as a browser writes them into the `origin` header (RFC 6454, serialised): `https://app.example.com`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::Violation;

/// The most origins of one key.
const ORIGINS: usize = 32;

/// At most 32 origins, each once.
pub fn origins(field: &str, origins: &[String]) -> Result<Vec<String>, Violation> {
    if origins.len() > ORIGINS {
        return Err(Violation::new(field, format!("must be at most {ORIGINS} origins")));
    }
    for (position, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            let rule = "must be an origin as browsers send it: http or https, a lower-case host and perhaps a port \
                        that is not the scheme's own, without a path, such as https://app.example.com";
            return Err(Violation::new(format!("{field}[{position}]"), rule));
        }
        if origins[..position].contains(origin) {
            return Err(Violation::new(field, format!("must name {origin} once")));
        }
    }
    Ok(origins.to_vec())
}

/// Whether a key bound to origins may be used from the given one; a key that is bound cannot be used without.
#[must_use]
pub fn allowed(allowed: &[String], origin: Option<&str>) -> bool {
    allowed.is_empty() || origin.is_some_and(|origin| allowed.iter().any(|known| known.eq_ignore_ascii_case(origin)))
}

/// Only what a browser would send is an origin: anything else could be stored but would never match.
fn is_origin(text: &str) -> bool {
    let (rest, own_port) = match text.split_once("://") {
        Some(("https", rest)) => (rest, "443"),
        Some(("http", rest)) => (rest, "80"),
        _ => return false,
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return is_ipv6(address),
            Some((address, after)) if is_ipv6(address) => match after.strip_prefix(':') {
                Some(port) => return is_port(port, own_port),
                None => return false,
            },
            _ => return false,
        },
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    is_host(host) && port.is_none_or(|port| is_port(port, own_port))
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits makes it an address (WHATWG URL), which has one spelling.
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253
        && host.split('.').all(label)
        && (!numeric || host.parse::<Ipv4Addr>().is_ok_and(|address| address.to_string() == host))
}

fn is_ipv6(address: &str) -> bool {
    address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address)
}

fn is_port(port: &str, own: &str) -> bool {
    port != own && !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_send() {
        let longest = format!("https://{}.example", ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("."));
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "https://example.com:8443",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "https://[2001:db8::1]",
            "https://xn--bcher-kva.example",
            &longest,
        ] {
            assert!(is_origin(good), "{good}");
        }
    }

    #[test]
    fn what_would_never_match() {
        for bad in [
            "",
            "null",
            "*",
            "example.com",
            "https://",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com?x",
            "https://App.example.com",
            "HTTPS://app.example.com",
            "https://user@app.example.com",
            "https://*.example.com",
            "https://app.example.com:",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://app.example.com:08443",
            "https://app.example.com:+8443",
            "https://app.example.com:65536",
            "https://app.example.com.",
            "https://app..example.com",
            "https://-app.example.com",
            "https://bücher.example",
            "https://1.2.3",
            "https://1.2.3.256",
            "https://[::1",
            "https://[::1]x",
            "https://[::1]:443",
            "https://[0:0:0:0:0:0:0:1]",
            "ftp://example.com",
            "https://a b.example",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn lists_are_bounded_and_without_repetition() {
        let one = "https://a.example".to_owned();
        assert!(origins("f", &[one.clone(), one]).is_err());
        let many = |n: usize| (0..n).map(|i| format!("https://a{i}.example")).collect::<Vec<_>>();
        assert!(origins("f", &many(32)).is_ok());
        assert!(origins("f", &many(33)).is_err());
        assert_eq!(origins("f", &["https://a.example".into(), "x".into()]).unwrap_err().field, "f[1]");
    }
}
