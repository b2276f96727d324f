//! What a request was admitted with, on its way from `ext_authz` through the Envoy to the access log. Pure.
//!
//! It travels in the dynamic metadata of `ext_authz`, where a client cannot put anything. Its identity is the reservation's,
//! signed by us: never the client's x-request-id, which a client can choose and repeat.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use prost_types::Struct;
use prost_types::value::Kind;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::model::meter;
use crate::quota::reservation::Reservation;

/// Under which name Envoy keeps what `ext_authz` said of a request.
pub const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// The most recordings of a request.
pub const RECORDINGS: usize = 8;

/// A request that was let through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// Its identity, and what was taken from where, as far as it can be settled.
    pub reservation: Reservation,
    /// The key that it was sent with.
    pub api_key: Option<Uuid>,
    /// The user that it was sent for.
    pub user: Option<Uuid>,
    /// The meter that its route names; what it came to is recorded.
    pub meter: Option<String>,
    /// What tells how much of the meter it took in the end; `None`: what it was admitted with.
    pub settle: Option<Source>,
    /// What else is recorded of it.
    pub recordings: Vec<Recording>,
}

/// Something that is recorded of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recording {
    /// By which meter.
    pub meter: String,
    /// How much.
    pub source: Source,
}

/// What of a finished request is an amount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// One for each.
    Requests,
    /// The bytes of the request, headers and body.
    RequestBytes,
    /// The bytes of the reply, headers and body.
    ResponseBytes,
    /// Both.
    Bytes,
    /// From the beginning to the end, in milliseconds.
    Milliseconds,
    /// A header or trailer of the reply, a decimal; its name in lower case.
    ResponseHeader(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests => f.write_str("requests"),
            Self::RequestBytes => f.write_str("request_bytes"),
            Self::ResponseBytes => f.write_str("response_bytes"),
            Self::Bytes => f.write_str("bytes"),
            Self::Milliseconds => f.write_str("milliseconds"),
            Self::ResponseHeader(name) => write!(f, "header:{name}"),
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "requests" => Self::Requests,
            "request_bytes" => Self::RequestBytes,
            "response_bytes" => Self::ResponseBytes,
            "bytes" => Self::Bytes,
            "milliseconds" => Self::Milliseconds,
            _ => match text.strip_prefix("header:") {
                Some(name) if is_header_name(name) => Self::ResponseHeader(name.to_owned()),
                _ => {
                    return Err(format!(
                        "{text:?} is not requests, request_bytes, response_bytes, bytes, milliseconds or header:NAME"
                    ));
                }
            },
        })
    }
}

fn is_header_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(is_part)
}

/// Reads `meter=source` pairs, separated by commas.
///
/// Error: what is wrong, for a person.
pub fn recordings(text: &str) -> Result<Vec<Recording>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let recordings = parts.map(|part| {
        let (meter, source) =
            part.split_once('=').ok_or_else(|| format!("{part:?} is not of the form METER=SOURCE"))?;
        if !meter::is_key(meter) {
            return Err(format!("{meter:?} is not the key of a meter"));
        }
        Ok(Recording { meter: meter.to_owned(), source: source.parse()? })
    });
    let recordings = recordings.collect::<Result<Vec<_>, _>>()?;
    if recordings.len() > RECORDINGS {
        return Err(format!("there may be at most {RECORDINGS} of them"));
    }
    // What is recorded of a request is told apart by its meter.
    let mut meters: Vec<&str> = recordings.iter().map(|recording| recording.meter.as_str()).collect();
    meters.sort_unstable();
    if let Some([twice, _]) = meters.array_windows().find(|[one, other]| one == other) {
        return Err(format!("{twice} is there twice"));
    }
    Ok(recordings)
}

impl Admission {
    /// Its organization.
    #[must_use]
    pub const fn organization_id(&self) -> OrganizationId {
        self.reservation.organization_id
    }

    /// When it was admitted, in whole milliseconds: a part of the identity of what is recorded of it.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        let (seconds, nanos) = self.reservation.id.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, nanos));
        time.unwrap_or_default()
    }

    /// As metadata of the request. `None` when it has more charges than a decision can have.
    #[must_use]
    pub fn metadata(&self, key: &[u8; 32]) -> Option<Struct> {
        let mut metadata = Metadata::default();
        metadata.bearer(self.organization_id(), self.api_key, self.user);
        self.tell(&self.reservation.sign(key)?, &mut metadata);
        Struct::decode(&*metadata.0).ok()
    }

    /// What is told of this request alone, whose reservation was signed.
    pub fn tell(&self, signed: &str, metadata: &mut Metadata) {
        metadata.put("reservation", signed);
        if let Some(meter) = &self.meter {
            metadata.put("meter", meter);
        }
        if let Some(source) = &self.settle {
            metadata.put("settle", &source.to_string());
        }
        if !self.recordings.is_empty() {
            let pairs = self.recordings.iter().map(|recording| format!("{}={}", recording.meter, recording.source));
            metadata.put("record", &pairs.collect::<Vec<_>>().join(","));
        }
    }

    /// What metadata says; `None` when it is none of ours, or not signed with the key.
    #[must_use]
    pub fn read(metadata: &Struct, key: &[u8; 32]) -> Option<Self> {
        let text = |name: &str| match metadata.fields.get(name)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text.as_str()),
            _ => None,
        };
        let id = |name: &str| text(name).map(|text| Uuid::parse_str(text).ok()).unwrap_or_default();
        Some(Self {
            reservation: Reservation::verify(text("reservation")?, key)?,
            api_key: id("api_key"),
            user: id("user"),
            meter: text("meter").filter(|meter| meter::is_key(meter)).map(str::to_owned),
            settle: text("settle").and_then(|source| source.parse().ok()),
            recordings: text("record").and_then(|pairs| recordings(pairs).ok()).unwrap_or_default(),
        })
    }
}

/// Metadata as it is written: a `google.protobuf.Struct`, of texts alone. One after the other they are one with all of them.
#[derive(Clone, Debug, Default)]
pub struct Metadata(pub Vec<u8>);

impl Metadata {
    /// Puts in a text.
    pub fn put(&mut self, name: &str, text: &str) {
        // A Struct is a map, field 1: each entry a message of a name, 1, and a value, 2. The text of a value is its field 3.
        let [name_length, text_length] = [name, text].map(|text| text.len() as u64);
        let value = 1 + prefixed(text_length);
        self.length_of(1, 1 + prefixed(name_length) + 1 + prefixed(value));
        self.length_of(1, name_length);
        self.0.extend_from_slice(name.as_bytes());
        self.length_of(2, value);
        self.length_of(3, text_length);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Begins a field of so many bytes.
    fn length_of(&mut self, field: u32, length: u64) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(length, &mut self.0);
    }

    /// Puts in who sent the request.
    pub fn bearer(&mut self, organization: OrganizationId, api_key: Option<Uuid>, user: Option<Uuid>) {
        self.put("tenant", &organization.to_string());
        for (name, id) in [("api_key", api_key), ("user", user)] {
            if let Some(id) = id {
                self.put(name, &id.to_string());
            }
        }
    }
}

/// So many bytes, with their length before them.
fn prefixed(length: u64) -> u64 {
    encoded_len_varint(length) as u64 + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids;

    const KEY: [u8; 32] = [7; 32];

    fn admission() -> Admission {
        let now = DateTime::from_timestamp_millis(1_800_000_000_123).unwrap();
        Admission {
            reservation: Reservation {
                organization_id: Uuid::from_u128(1).into(),
                id: ids::v7(now),
                expire_time: now,
                amount: 5,
                charges: Vec::new(),
            },
            api_key: Some(Uuid::from_u128(2)),
            user: None,
            meter: Some("api.calls".into()),
            settle: Some(Source::ResponseHeader("x-tokens".into())),
            recordings: recordings("api.bytes=bytes, api.time=milliseconds").unwrap(),
        }
    }

    #[test]
    fn what_goes_out_comes_back() {
        let admission = admission();
        let metadata = |key| admission.metadata(key).unwrap();
        assert_eq!(Admission::read(&metadata(&KEY), &KEY), Some(admission.clone()));
        assert_eq!(Admission::read(&metadata(&[8; 32]), &KEY), None, "signed by somebody else");
        assert_eq!(Admission::read(&Struct::default(), &KEY), None);
        assert_eq!(admission.time(), admission.reservation.expire_time);
    }

    #[test]
    fn recordings_are_read_or_refused() {
        for source in ["requests", "request_bytes", "response_bytes", "bytes", "milliseconds", "header:x-a"] {
            assert_eq!(source.parse::<Source>().unwrap().to_string(), source);
        }
        assert_eq!(recordings("").unwrap(), []);
        let nine = ["a=bytes", "b=bytes", "c=bytes", "d=bytes", "e=bytes", "f=bytes", "g=bytes", "h=bytes", "i=bytes"];
        assert_eq!(recordings(&nine[..8].join(",")).unwrap().len(), 8);
        let nine = nine.join(",");
        for bad in
            ["a=bytes,a=requests", "a", "a=", "a=header:", "a=header:X", "a=header:x y", "A B=bytes", "a=tokens", &nine]
        {
            assert!(recordings(bad).is_err(), "{bad}");
        }
    }
}
