//! Pages of lists that are in the order of a tree, depth first. Where one ended is a path and not an id: what comes after it
//! is known also when the node is gone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use uuid::Uuid;

use crate::error::Error;

/// A page to be read.
#[derive(Clone, Debug)]
pub struct TreePage {
    size: usize,
    after: Vec<Uuid>,
    query: [u8; 8],
}

impl TreePage {
    /// As [`super::Page::read`].
    pub fn read(method: &str, request: &impl Message, page_size: i32, page_token: &str) -> Result<Self, Error> {
        let (size, query) = (super::size(page_size)?, super::fingerprint(method, request));
        let after = if page_token.is_empty() { Vec::new() } else { decode(page_token, query)? };
        Ok(Self { size, after, query })
    }

    /// How many rows to ask the database for: one more than the page, to know whether there is another.
    #[must_use]
    pub fn limit(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX - 1) + 1
    }

    /// The path that every row of the page comes after: the end of the page before; empty for the first page.
    #[must_use]
    pub fn after(&self) -> &[Uuid] {
        &self.after
    }

    /// Cuts off the row too many, and makes the token of the next page: empty on the last one.
    pub fn finish<T>(&self, rows: &mut Vec<T>, path: impl FnOnce(&T) -> Vec<Uuid>) -> String {
        if rows.len() <= self.size {
            return String::new();
        }
        rows.truncate(self.size);
        let Some(last) = rows.last() else { return String::new() };
        let mut bytes = self.query.to_vec();
        bytes.extend(path(last).iter().flat_map(|id| id.into_bytes()));
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

fn decode(token: &str, query: [u8; 8]) -> Result<Vec<Uuid>, Error> {
    let path = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (of, path) = bytes.split_first_chunk::<8>()?;
        let (ids, rest) = path.as_chunks::<16>();
        (*of == query && rest.is_empty() && !ids.is_empty())
            .then(|| ids.iter().copied().map(Uuid::from_bytes).collect())
    };
    path().ok_or_else(super::wrong_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_a_path_of_its_query() {
        let read = |request: &str, token: &str| TreePage::read("/m", &request.to_owned(), 2, token);
        let page = read("teams", "").unwrap();
        assert_eq!((page.limit(), page.after()), (3, [].as_slice()));
        let path = [Uuid::from_u128(7), Uuid::from_u128(8)];
        let mut rows = vec![1, 2, 3];
        let token = page.finish(&mut rows, |row| path[..*row].to_vec());
        assert_eq!(rows, [1, 2]);
        assert_eq!(read("teams", &token).unwrap().after(), path);
        assert_eq!(page.finish(&mut rows, |_| Vec::new()), "");
        let empty = URL_SAFE_NO_PAD.encode(page.query);
        for (request, token) in [("others", token.as_str()), ("teams", &token[..8]), ("teams", "?"), ("teams", &empty)]
        {
            assert!(read(request, token).is_err(), "{request} {token}");
        }
    }
}
