//! Update masks (AIP-134).

use prost_types::FieldMask;

use crate::error::{Error, Violation};

/// The fields a mask names, of those that can be changed; `*` names them all, and the name of a message all in it.
/// Error: `INVALID_FIELD` on `update_mask`.
pub fn fields(mask: Option<FieldMask>, known: &[&'static str]) -> Result<Vec<&'static str>, Error> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        return Err(Violation::new("update_mask", "must name at least one field").into());
    }
    let mut fields = Vec::new();
    for path in &paths {
        let before = fields.len();
        let within = format!("{path}.");
        fields.extend(known.iter().filter(|field| path == "*" || *field == path || field.starts_with(&within)));
        if fields.len() == before {
            let description = format!("names {path:?}, which cannot be changed; fields are {}", known.join(", "));
            return Err(Violation::new("update_mask", description).into());
        }
    }
    fields.sort_unstable();
    fields.dedup();
    Ok(fields)
}

/// The same for a message that an empty mask takes whole: it names the fields that are set then, of which there must be
/// one.
pub fn fields_or_set(
    mask: Option<FieldMask>,
    known: &[&'static str],
    is_set: impl Fn(&str) -> bool,
) -> Result<Vec<&'static str>, Error> {
    if mask.as_ref().is_some_and(|mask| !mask.paths.is_empty()) {
        return fields(mask, known);
    }
    let set: Vec<_> = known.iter().copied().filter(|field| is_set(field)).collect();
    if set.is_empty() {
        return Err(Violation::new("update_mask", "must name at least one field where none is set").into());
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let known = &["a", "b.c", "b.d"];
        let of =
            |paths: &[&str]| fields(Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() }), known);
        assert_eq!(of(&["a", "a"]).unwrap(), ["a"]);
        assert_eq!(of(&["b"]).unwrap(), ["b.c", "b.d"]);
        assert_eq!(of(&["*"]).unwrap(), ["a", "b.c", "b.d"]);
        assert!(of(&[]).is_err() && of(&["x"]).is_err() && of(&["b.x"]).is_err() && of(&[""]).is_err());
        assert!(fields(None, known).is_err());
        assert_eq!(fields_or_set(None, known, |field| field == "b.c").unwrap(), ["b.c"]);
        let named = Some(FieldMask { paths: vec!["b".into()] });
        assert_eq!(fields_or_set(named, known, |field| field == "a").unwrap(), ["b.c", "b.d"]);
        assert!(fields_or_set(Some(FieldMask::default()), known, |_| false).is_err());
    }
}
