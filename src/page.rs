//! Pages of lists (AIP-158): their size, and tokens that are opaque and good only for the query they came from.

pub mod tree;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use prost::Message;
use uuid::Uuid;

use crate::error::{Error, Violation};

const DEFAULT_SIZE: i32 = 50;
const LARGEST_SIZE: i32 = 1000;

/// A page to be read.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// How many to return.
    pub size: usize,
    /// The last of the page before; absent for the first page.
    pub after: Option<Cursor>,
    query: [u8; 8],
}

/// Where a page ended, in lists that are ordered by time and id, newest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// When the last one was created.
    pub time: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

impl Page {
    /// Reads what a list request says. `request` is the whole request with size and token cleared, so that a token of
    /// another query is recognised; `method` its path. Errors: `INVALID_FIELD` on `page_size` or `page_token`.
    pub fn read(method: &str, request: &impl Message, page_size: i32, page_token: &str) -> Result<Self, Error> {
        let (size, query) = (size(page_size)?, fingerprint(method, request));
        let after = if page_token.is_empty() { None } else { Some(decode(page_token, query)?) };
        Ok(Self { size, after, query })
    }

    /// How many rows to ask the database for: one more than the page, to know whether there is another.
    #[must_use]
    pub fn limit(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX - 1) + 1
    }

    /// What every row of the page comes before: the end of the page before, or of everything. A value and not NULL, so
    /// that the bound is a condition of the index also in a plan that Postgres made for any page; and not COALESCE, which
    /// row level security holds to be leaky and keeps from the index.
    #[must_use]
    pub fn bound(&self) -> Cursor {
        self.after.unwrap_or(Cursor { time: DateTime::<Utc>::MAX_UTC, id: Uuid::max() })
    }

    /// Cuts off the row too many, and makes the token of the next page: empty on the last one.
    pub fn finish<T>(&self, rows: &mut Vec<T>, cursor: impl FnOnce(&T) -> Cursor) -> String {
        if rows.len() <= self.size {
            return String::new();
        }
        rows.truncate(self.size);
        rows.last().map(|row| self.encode(cursor(row))).unwrap_or_default()
    }

    fn encode(&self, cursor: Cursor) -> String {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(&self.query);
        bytes.extend_from_slice(&cursor.time.timestamp_micros().to_be_bytes());
        bytes.extend_from_slice(cursor.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

fn size(page_size: i32) -> Result<usize, Error> {
    let size = match page_size {
        ..0 => return Err(Violation::new("page_size", "must not be negative").into()),
        0 => DEFAULT_SIZE,
        size => size.min(LARGEST_SIZE),
    };
    Ok(usize::try_from(size).unwrap_or_default())
}

/// What a query is recognised by.
fn fingerprint(method: &str, request: &impl Message) -> [u8; 8] {
    let mut hash = blake3::Hasher::new();
    hash.update(method.as_bytes());
    hash.update(&request.encode_to_vec());
    let mut query = [0; 8];
    query.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    query
}

fn wrong_token() -> Error {
    Violation::new("page_token", "is not a token of this query: keep every other field as it was").into()
}

fn decode(token: &str, query: [u8; 8]) -> Result<Cursor, Error> {
    let cursor = || {
        let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let (of, rest) = bytes.split_first_chunk::<8>()?;
        let (time, id) = rest.split_first_chunk::<8>()?;
        (*of == query).then_some(())?;
        Some(Cursor {
            time: DateTime::from_timestamp_micros(i64::from_be_bytes(*time))?,
            id: Uuid::from_slice(id).ok()?,
        })
    };
    cursor().ok_or_else(wrong_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_query_only() {
        let page = Page::read("/m", &"filter".to_owned(), 2, "").unwrap();
        assert_eq!((page.size, page.limit(), page.bound().id), (2, 3, Uuid::max()));
        let cursor = Cursor { time: DateTime::from_timestamp_micros(1_234_567).unwrap(), id: Uuid::from_u128(7) };
        let mut rows = vec![1, 2, 3];
        let token = page.finish(&mut rows, |_| cursor);
        assert_eq!(rows, [1, 2]);
        assert_eq!(Page::read("/m", &"filter".to_owned(), 9, &token).unwrap().after, Some(cursor));
        assert!(Page::read("/m", &"other".to_owned(), 2, &token).is_err());
        assert!(Page::read("/n", &"filter".to_owned(), 2, &token).is_err());
        assert!(Page::read("/m", &"filter".to_owned(), 2, &token[1..]).is_err());
        assert!(Page::read("/m", &"filter".to_owned(), -1, "").is_err());
        assert_eq!(Page::read("/m", &"filter".to_owned(), 5000, "").unwrap().size, 1000);
        assert_eq!(page.finish(&mut vec![1, 2], |_| cursor), "");
    }
}
