//! What an Envoy says of the request that it asks about. Borrowed: nothing of it outlives the answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::auth::credential::{self, Search};
use crate::error::Error;
use crate::proto::envoy::config::core::v3::HeaderValue;
use crate::proto::envoy::config::core::v3::address::Address;
use crate::proto::envoy::service::auth::v3::AttributeContext;
use crate::proto::envoy::service::auth::v3::attribute_context::HttpRequest;
use crate::proto::envoy::service::auth::v3::attribute_context::http_request::HeadersEntry;

/// The longest id of a request that is repeated to its client.
const ID: usize = 128;

/// A request that waits at an Envoy.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    attributes: &'a AttributeContext,
    http: Option<&'a HttpRequest>,
}

impl<'a> Waiting<'a> {
    /// As the Envoy describes it.
    #[must_use]
    pub fn new(attributes: &'a AttributeContext) -> Self {
        let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
        Self { attributes, http }
    }

    /// What its route says of itself.
    #[must_use]
    pub const fn route(&self) -> &'a BTreeMap<String, String> {
        &self.attributes.context_extensions
    }

    /// GET, POST, …; empty where the Envoy did not say.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.http.map_or("", |http| &http.method)
    }

    /// The client's address, with so many proxies before the Envoy.
    ///
    /// Measured: an Envoy says who connected to it, whatever its `xff_num_trusted_hops`. Behind proxies that is the last of them,
    /// and the client stands in x-forwarded-for, as many places before the last, where the Envoy has added who connected.
    /// `None` where that is not so, and all of it could be the client's own; also where the last proxy is on the Envoy's own
    /// machine, for which it adds another address.
    #[must_use]
    pub fn address(&self, trusted_hops: u8) -> Option<IpAddr> {
        let address = self.attributes.source.as_ref()?.address.as_ref()?.address.as_ref()?;
        let Address::SocketAddress(socket) = address;
        let connected = socket.address.parse().ok()?;
        if trusted_hops == 0 {
            return Some(connected);
        }
        let forwarded: Vec<&str> = self.values("x-forwarded-for").flat_map(|value| value.split(',')).collect();
        let mut addresses = forwarded.iter().rev().map(|address| address.trim().parse().ok());
        (addresses.next()? == Some(connected)).then(|| addresses.nth(usize::from(trusted_hops) - 1)?).flatten()
    }

    /// The one credential that it carries, in one of the headers.
    ///
    /// Errors: `CREDENTIALS_AMBIGUOUS` for more than one, also for two that the Envoy has joined by a comma, as it does;
    /// `CREDENTIALS_MALFORMED`.
    pub fn credential(&self, headers: &[HeaderName]) -> Result<Option<&'a str>, Error> {
        let mut search = Search::default();
        for name in headers {
            for value in self.values(name.as_str()) {
                // No credential has one.
                if value.contains(',') {
                    return Err(credential::ambiguous());
                }
                if *name == AUTHORIZATION {
                    search.authorization(value)?;
                } else {
                    search.bare(value)?;
                }
            }
        }
        Ok(search.found())
    }

    /// The origin of the page that sent it; several are none.
    #[must_use]
    pub fn origin(&self) -> Option<&'a str> {
        let mut values = self.values("origin");
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether the client speaks gRPC, as Envoy decides that.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        let rest = self.values("content-type").next().and_then(|value| value.strip_prefix("application/grpc"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    }

    /// The Envoy's id of it, to find it in logs by. Never to recognise it by: an Envoy may be told to take the client's.
    #[must_use]
    pub fn id(&self) -> Option<&'a str> {
        let is_id = |id: &&str| (1..=ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        self.http.map(|http| http.id.as_str()).filter(is_id)
    }

    /// The values of a header: one, with duplicates joined, or with `encode_raw_headers` as many as were sent.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let joined = self.http.map_or(&[] as &[HeadersEntry], |http| &http.headers);
        let joined = joined.iter().filter(move |header| header.key == name).map(|header| utf8(&header.value));
        let raw = self.http.and_then(|http| http.header_map.as_ref()).map_or(&[] as &[HeaderValue], |map| &map.headers);
        let raw = raw.iter().filter(move |header| header.key.eq_ignore_ascii_case(name)).map(text);
        joined.chain(raw)
    }
}

fn text(header: &HeaderValue) -> &str {
    if header.raw_value.is_empty() {
        return &header.value;
    }
    utf8(&header.raw_value)
}

/// What is no UTF-8 is nothing that we know, and empty is that as well; but it is there.
fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::envoy::config::core::v3 as proto;
    use crate::proto::envoy::config::core::v3::{HeaderMap, SocketAddress};
    use crate::proto::envoy::service::auth::v3::attribute_context::{Peer, Request};

    const BOTH: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-api-key")];

    fn attributes(http: HttpRequest) -> AttributeContext {
        AttributeContext { request: Some(Request { http: Some(http) }), ..AttributeContext::default() }
    }

    fn joined(headers: &[(&str, &str)]) -> AttributeContext {
        let entry = |(name, value): &(&str, &str)| HeadersEntry {
            key: name.to_string().into(),
            value: value.to_string().into(),
        };
        let headers = headers.iter().map(entry).collect();
        attributes(HttpRequest { headers, ..HttpRequest::default() })
    }

    fn raw(headers: &[(&str, &[u8])]) -> AttributeContext {
        let header = |(name, value): &(&str, &[u8])| HeaderValue {
            key: (*name).to_owned(),
            raw_value: value.to_vec(),
            ..HeaderValue::default()
        };
        let header_map = Some(HeaderMap { headers: headers.iter().map(header).collect() });
        attributes(HttpRequest { header_map, ..HttpRequest::default() })
    }

    fn credential(attributes: &AttributeContext) -> Result<Option<&str>, String> {
        Waiting::new(attributes).credential(&BOTH).map_err(|error| error.reason())
    }

    #[test]
    fn behind_proxies_the_address_is_what_the_first_of_them_added() {
        let source = |address: &str| Peer {
            address: Some(proto::Address {
                address: Some(Address::SocketAddress(SocketAddress { address: address.into() })),
            }),
        };
        let address = |peer: &str, forwarded: &str, hops| {
            let waiting = joined(&[("x-forwarded-for", forwarded)]);
            let attributes = AttributeContext { source: Some(source(peer)), ..waiting };
            Waiting::new(&attributes).address(hops).map(|address| address.to_string())
        };
        for (forwarded, hops, expected) in [
            ("", 0, Some("10.0.0.9")),
            ("192.0.2.1, 10.0.0.9", 0, Some("10.0.0.9")),
            ("192.0.2.1, 10.0.0.9", 1, Some("192.0.2.1")),
            ("spoofed, 2001:db8::1,10.0.0.9", 1, Some("2001:db8::1")),
            ("192.0.2.1, 10.0.0.1, 10.0.0.9", 2, Some("192.0.2.1")),
            // Fewer than there should be, none at all, or not what a proxy adds.
            ("192.0.2.1, 10.0.0.9", 2, None),
            ("10.0.0.9", 1, None),
            ("", 1, None),
            ("192.0.2.1:80, 10.0.0.9", 1, None),
            // The Envoy has not added who connected: a client could have sent all of it.
            ("192.0.2.1, 192.0.2.2", 1, None),
        ] {
            assert_eq!(address("10.0.0.9", forwarded, hops).as_deref(), expected, "{forwarded:?} behind {hops}");
        }
    }

    #[test]
    fn one_credential_however_headers_are_told() {
        for found in [
            &joined(&[("authorization", "Bearer a"), ("x-other", "b")]),
            &joined(&[("x-api-key", " a ")]),
            &raw(&[("Authorization", b"bearer a"), ("x-other", b"b")]),
            &raw(&[("x-api-key", b"a")]),
        ] {
            assert_eq!(credential(found), Ok(Some("a")), "{found:?}");
        }
        assert_eq!(credential(&AttributeContext::default()), Ok(None));
        assert_eq!(credential(&joined(&[])), Ok(None));
        // It is there, and no key: not the same as none.
        assert_eq!(credential(&raw(&[("x-api-key", b"\xff")])), Ok(Some("")));
        for (reason, attributes) in [
            ("CREDENTIALS_AMBIGUOUS", joined(&[("x-api-key", "a,b")])),
            ("CREDENTIALS_AMBIGUOUS", joined(&[("authorization", "Bearer a,Bearer a")])),
            ("CREDENTIALS_AMBIGUOUS", joined(&[("authorization", "Bearer a"), ("x-api-key", "a")])),
            ("CREDENTIALS_AMBIGUOUS", raw(&[("x-api-key", b"a"), ("x-api-key", b"a")])),
            ("CREDENTIALS_AMBIGUOUS", raw(&[("x-api-key", b"a"), ("X-Api-Key", b"\xff")])),
            ("CREDENTIALS_MALFORMED", joined(&[("authorization", "Basic YTpi")])),
        ] {
            assert_eq!(credential(&attributes), Err(reason.to_owned()), "{attributes:?}");
        }
        let both = joined(&[("authorization", "Basic YTpi"), ("x-api-key", "a")]);
        let only = Waiting::new(&both).credential(&BOTH[1..]);
        assert_eq!(only.unwrap(), Some("a"), "what is not looked at is the application's");
    }

    #[test]
    fn origins_and_kinds_of_requests() {
        let of = |name, value| joined(&[(name, value)]);
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(Waiting::new(&of("content-type", content_type)).is_grpc(), expected, "{content_type}");
        }
        assert_eq!(Waiting::new(&of("origin", "https://a.example")).origin(), Some("https://a.example"));
        let two = raw(&[("origin", b"https://a.example"), ("origin", b"https://b.example")]);
        assert_eq!(Waiting::new(&two).origin(), None);
        let id = |id: &str| {
            let attributes = attributes(HttpRequest { id: id.to_owned(), ..HttpRequest::default() });
            Waiting::new(&attributes).id().map(str::to_owned)
        };
        assert_eq!(id("a-1"), Some("a-1".to_owned()));
        assert_eq!((id(""), id("a b"), id(&"a".repeat(129))), (None, None, None));
    }
}
