//! CSV: which lines make a record, and what its cells mean by the header.
//!
//! By csv-core, the parser of the crate `csv`, and not by that crate: its records grow with the input, and a quote that is not
//! closed would take the rest of the file into memory.

use csv_core::ReadRecordResult;
use serde_json::{Map, Number, Value};

use crate::cli::client::lines::LINE;
use crate::cli::import::row::Kind;

/// Puts records together.
#[derive(Debug)]
pub struct Records {
    core: csv_core::Reader,
    output: Vec<u8>,
    written: usize,
    ends: Vec<usize>,
    ended: usize,
    /// The line on which the record begins that is not complete.
    begun: Option<u64>,
}

/// The cells of a record, or what is wrong with it.
pub type Record = Result<Vec<String>, String>;

impl Records {
    /// None yet.
    pub fn new() -> Self {
        let core = csv_core::Reader::new();
        Self { core, output: Vec::new(), written: 0, ends: Vec::new(), ended: 0, begun: None }
    }

    /// Takes the next line, without its end; hands over the records that are complete, with the line on which each begins.
    pub fn line(&mut self, line: &[u8], number: u64, is_whole: bool, each: &mut impl FnMut(u64, Record)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.begun.is_none() && line.is_empty() && is_whole {
            return;
        }
        let begun = *self.begun.get_or_insert(number);
        if !is_whole || self.written + line.len() > LINE {
            let up_to = if begun == number { String::new() } else { format!(" up to line {number}; is a quote open?") };
            each(begun, Err(format!("longer than {} KiB{up_to}", LINE >> 10)));
            self.reset();
            return;
        }
        let line = [line, b"\n"].concat();
        let mut input = line.as_slice();
        while !input.is_empty() {
            // More than can come of the input, so that it is read to its end or to that of a record.
            self.output.resize(self.written + input.len() + 8, 0);
            self.ends.resize(self.ended + input.len() + 8, 0);
            let (result, read, written, ended) =
                self.core.read_record(input, &mut self.output[self.written..], &mut self.ends[self.ended..]);
            (self.written, self.ended) = (self.written + written, self.ended + ended);
            input = &input[read..];
            if matches!(result, ReadRecordResult::Record) {
                // A carriage return in the middle of a line ends a record, too.
                each(begun, self.cells());
                self.reset();
                if !input.trim_ascii().is_empty() {
                    self.begun = Some(number);
                }
            } else if read == 0 {
                return;
            }
        }
    }

    /// Whether the next line belongs to a record that has begun.
    pub const fn is_within(&self) -> bool {
        self.begun.is_some()
    }

    /// The input is over.
    pub fn end(&mut self, each: &mut impl FnMut(u64, Record)) {
        if let Some(begun) = self.begun {
            each(begun, Err("a quote is not closed".into()));
            self.reset();
        }
    }

    fn cells(&self) -> Record {
        let mut from = 0;
        let cells = self.ends[..self.ended].iter().map(|end| {
            let cell = &self.output[std::mem::replace(&mut from, *end)..*end];
            std::str::from_utf8(cell).map(str::to_owned).map_err(|_| "not UTF-8".to_owned())
        });
        cells.collect()
    }

    fn reset(&mut self) {
        self.core.reset();
        (self.written, self.ended, self.begun) = (0, 0, None);
    }
}

/// How the cells of a column are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Text,
    Integer,
    /// `key=value`, separated by semicolons.
    Labels,
    /// Separated by semicolons; one within a name has a backslash before it.
    List,
    /// A JSON object.
    Object,
}

/// The columns of each kind: the fields of its rows, those of an inner object with its name and a dot before them.
const COLUMNS: &[(&str, Shape, &[Kind])] = &[
    ("organization", Shape::Text, &[Kind::Team, Kind::Member]),
    ("slug", Shape::Text, &[Kind::Organization]),
    ("display_name", Shape::Text, &[Kind::Organization, Kind::User, Kind::Member]),
    ("plan", Shape::Text, &[Kind::Organization]),
    ("contact_email", Shape::Text, &[Kind::Organization]),
    ("billing_email", Shape::Text, &[Kind::Organization]),
    ("time_zone", Shape::Text, &[Kind::Organization]),
    ("billing_anchor_day", Shape::Integer, &[Kind::Organization]),
    ("currency", Shape::Text, &[Kind::Organization]),
    ("locale", Shape::Text, &[Kind::Organization, Kind::User]),
    ("date_format", Shape::Text, &[Kind::Organization]),
    ("branding.logo_uri", Shape::Text, &[Kind::Organization]),
    ("branding.primary_color", Shape::Text, &[Kind::Organization]),
    ("labels", Shape::Labels, &[Kind::Organization, Kind::Team]),
    ("member_limit", Shape::Integer, &[Kind::Organization]),
    ("settings", Shape::Object, &[Kind::Organization, Kind::User]),
    ("email", Shape::Text, &[Kind::User, Kind::Member]),
    ("avatar_uri", Shape::Text, &[Kind::User]),
    ("identity.provider", Shape::Text, &[Kind::User]),
    ("identity.subject", Shape::Text, &[Kind::User]),
    ("path", Shape::Text, &[Kind::Team]),
    ("description", Shape::Text, &[Kind::Team]),
    ("user_id", Shape::Text, &[Kind::Member]),
    ("role", Shape::Text, &[Kind::Member]),
    ("teams", Shape::List, &[Kind::Member]),
];

/// The columns of a file.
#[derive(Debug)]
pub struct Header(Vec<(&'static str, Shape)>);

impl Header {
    /// As the first record has them; `kind` is what all rows are about, where no column says it. Error: a column that is
    /// unknown, or there twice, or none that says what the rows are about.
    pub fn read(names: &[String], kind: Option<Kind>) -> Result<Self, String> {
        let has_type = names.iter().any(|name| name.trim() == "type");
        let known = |name: &str| -> Result<(&'static str, Shape), String> {
            if name == "type" {
                return Ok(("type", Shape::Text));
            }
            let fits = |kinds: &[Kind]| has_type || kind.is_none_or(|kind| kinds.contains(&kind));
            let mut fitting = COLUMNS.iter().filter(|(_, _, kinds)| fits(kinds));
            if let Some((known, shape, _)) = fitting.clone().find(|(known, ..)| *known == name) {
                return Ok((known, *shape));
            }
            let all: Vec<&str> = fitting.by_ref().map(|(known, ..)| *known).collect();
            Err(format!("there is no column {name:?}; known are {}", all.join(", ")))
        };
        if !has_type && kind.is_none() {
            return Err("the file needs a column type, or --type says what all rows are".into());
        }
        let columns = names.iter().map(|name| known(name.trim())).collect::<Result<Vec<_>, _>>()?;
        if let Some(twice) = columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(column)) {
            return Err(format!("the column {} is there twice", twice.1.0));
        }
        Ok(Self(columns))
    }

    /// The object that a record is. An empty cell says nothing.
    pub fn object(&self, cells: &[String]) -> Result<Map<String, Value>, String> {
        if cells.len() != self.0.len() {
            return Err(format!("has {} cells where the header has {}", cells.len(), self.0.len()));
        }
        let mut object = Map::new();
        for ((name, shape), cell) in self.0.iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
            let value = shape.value(cell).map_err(|why| format!("{name} {why}"))?;
            match name.split_once('.') {
                None => _ = object.insert((*name).to_owned(), value),
                Some((outer, inner)) => {
                    let outer = object.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(fields) = outer {
                        fields.insert(inner.to_owned(), value);
                    }
                }
            }
        }
        Ok(object)
    }
}

impl Shape {
    fn value(self, cell: &str) -> Result<Value, String> {
        match self {
            Self::Text => Ok(cell.into()),
            Self::Integer => {
                let number: i64 = cell.trim().parse().map_err(|_| format!("must be a whole number, not {cell:?}"))?;
                Ok(Value::Number(Number::from(number)))
            }
            Self::Labels => {
                let label = |text: &str| {
                    let (key, value) = text.split_once('=')?;
                    Some((key.trim().to_owned(), Value::from(value)))
                };
                let labels: Option<Map<_, _>> = cell.split(';').map(label).collect();
                labels.map(Value::Object).ok_or_else(|| "must be key=value, separated by semicolons".into())
            }
            Self::List => Ok(split(cell).into_iter().map(Value::from).collect()),
            Self::Object => match serde_json::from_str(cell) {
                Ok(object @ Value::Object(_)) => Ok(object),
                _ => Err("must be a JSON object".into()),
            },
        }
    }
}

/// Separated by semicolons, unless a backslash is before one; other backslashes stay.
fn split(cell: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = cell.chars().peekable();
    while let Some(character) = characters.next() {
        let Some(part) = parts.last_mut() else { continue };
        match (character, characters.peek()) {
            ('\\', Some(';')) => part.extend(characters.next()),
            ('\\', Some(_)) => {
                part.push('\\');
                part.extend(characters.next());
            }
            (';', _) => parts.push(String::new()),
            (other, _) => part.push(other),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The records of a text, each with its line.
    fn records(text: &[u8]) -> Vec<(u64, Record)> {
        let mut found = Vec::new();
        let mut records = Records::new();
        for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
            records.line(line, number, line.len() <= LINE, &mut |line, record| found.push((line, record)));
        }
        records.end(&mut |line, record| found.push((line, record)));
        found
    }

    fn good(text: &str) -> Vec<(u64, Vec<String>)> {
        records(text.as_bytes()).into_iter().map(|(line, record)| (line, record.unwrap())).collect()
    }

    fn cells(cells: &[&str]) -> Vec<String> {
        cells.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn records_keep_the_lines_they_begin_on() {
        let expected = vec![(1, cells(&["a", "b"])), (3, cells(&["1", "x\ny, \"z\""])), (6, cells(&["2", ""]))];
        assert_eq!(good("a,b\n\n1,\"x\ny, \"\"z\"\"\"\n\n2,\n"), expected);
        let windows = good("a,b\r\n\r\n1,\"x\ny, \"\"z\"\"\"\r\n\r\n2,\r\n");
        assert_eq!(windows, expected);
        assert_eq!(
            good("a,b\r1,2\r\n3,4"),
            [(1, cells(&["a", "b"])), (1, cells(&["1", "2"])), (2, cells(&["3", "4"]))]
        );
    }

    #[test]
    fn what_is_wrong_with_a_record_is_its_own_affair() {
        let found = records(b"a\n\xff\n\"open\nand so on");
        assert_eq!(found[0].1, Ok(cells(&["a"])));
        assert_eq!(found[1], (2, Err("not UTF-8".into())));
        assert_eq!(found[2], (3, Err("a quote is not closed".into())));

        let long = format!("a\n{}\nb\n\"{}", "x".repeat(LINE + 1), "y\n".repeat(LINE));
        let found = records(long.as_bytes());
        assert_eq!((found[0].0, found[2].0, &found[2].1), (1, 3, &Ok(cells(&["b"]))));
        assert!(found[1].0 == 2 && found[1].1.is_err());
        let (line, record) = &found[3];
        assert!(*line == 4 && record.as_ref().unwrap_err().contains("is a quote open?"), "{record:?}");
        assert_eq!(found[4].1, Ok(cells(&["y"])), "and then it goes on");
    }

    #[test]
    fn cells_become_an_object() {
        let header =
            Header::read(&cells(&["type", " slug", "branding.logo_uri", "labels", "member_limit", "teams"]), None);
        let header = header.unwrap();
        let row = cells(&["organization", "acme", "https://x.example", "tier=gold;a=b=c", "7", ""]);
        let expected = json!({"type": "organization", "slug": "acme", "branding": {"logo_uri": "https://x.example"},
            "labels": {"tier": "gold", "a": "b=c"}, "member_limit": 7});
        assert_eq!(Value::Object(header.object(&row).unwrap()), expected);
        assert!(header.object(&cells(&["organization"])).unwrap_err().contains("1 cells where the header has 6"));
        let wrong = |at: usize, cell: &str| {
            let mut row = row.clone();
            row[at] = cell.into();
            header.object(&row).unwrap_err()
        };
        assert!(wrong(3, "gold").contains("key=value") && wrong(4, "many").contains("whole number"));
        assert_eq!(split(r"Ops/R\/D; A\;B ;;C\\"), [r"Ops/R\/D", "A;B", r"C\\"]);
    }

    #[test]
    fn headers() {
        let read = |names: &[&str], kind| Header::read(&cells(names), kind).map(|_| ());
        assert_eq!(read(&["email", "role"], Some(Kind::Member)), Ok(()));
        assert!(read(&["email", "rle"], Some(Kind::Member)).unwrap_err().contains("\"rle\""));
        assert!(read(&["email", "slug"], Some(Kind::Member)).unwrap_err().contains("slug"));
        assert!(read(&["email"], None).unwrap_err().contains("--type"));
        assert!(read(&["type", "email", "email"], None).unwrap_err().contains("twice"));
    }
}
