//! From the text of a lane file, TOML or JSON, to a tree of values with places. Pure.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::tree::{Entry, Node, Place, Table, Value};

/// Deeper than any lane; protects the stack.
const DEPTH_LIMIT: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
}

/// Reads `text`, whose first byte stands at `base` in the sources.
pub fn parse(text: &str, format: Format, base: usize) -> Result<Node, Vec<Problem>> {
    match format {
        Format::Toml => parse_toml(text, base),
        Format::Json => parse_json(text, base).map_err(|problem| vec![problem]),
    }
}

fn parse_toml(text: &str, base: usize) -> Result<Node, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| toml_problem(error, text, base)).collect());
    }
    let mut problems = Vec::new();
    let node = from_table(table.get_ref(), shift(table.span(), base), base, &mut problems);
    if problems.is_empty() { Ok(node) } else { Err(problems) }
}

/// One TOML value, for an override. `None`: it is not TOML.
pub fn parse_toml_value(text: &str, base: usize) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let mut problems = Vec::new();
    let node = from_value(value.get_ref(), shift(value.span(), base), base, &mut problems);
    problems.is_empty().then_some(node)
}

/// A dotted key as TOML reads it: its parts with their places.
pub fn parse_path(text: &str, base: usize) -> Option<Vec<(String, Place)>> {
    // No name in a lane holds these, and with one of them the text would be more than a key.
    if text.contains(['\n', '\r', '=', '#']) {
        return None;
    }
    let assignment = format!("{text}=0");
    let table = DeTable::parse(&assignment).ok()?;
    let mut parts = Vec::new();
    let mut table = table.get_ref();
    loop {
        let (key, value) = table.iter().next()?;
        parts.push((key.get_ref().to_string(), shift(key.span(), base)));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(parts),
        }
    }
}

fn toml_problem(error: &toml::de::Error, text: &str, base: usize) -> Problem {
    let problem = Problem::new(format!("failed to read the TOML: {}", error.message().replace('\n', ", ")));
    match error.span() {
        Some(span) => problem.at(shift(clamp(span, text), base)),
        None => problem,
    }
}

fn clamp(span: Range<usize>, text: &str) -> Range<usize> {
    let start = span.start.min(text.len());
    start..span.end.clamp(start, text.len())
}

fn shift(span: Range<usize>, base: usize) -> Place {
    span.start + base..span.end + base
}

fn from_table(table: &DeTable<'_>, place: Place, base: usize, problems: &mut Vec<Problem>) -> Node {
    let mut entries = Table::new();
    for (key, value) in table.iter() {
        let node = from_value(value.get_ref(), shift(value.span(), base), base, problems);
        entries.insert(key.get_ref().to_string(), Entry { key: shift(key.span(), base), node });
    }
    Node::new(place, Value::Table(entries))
}

fn from_value(value: &DeValue<'_>, place: Place, base: usize, problems: &mut Vec<Problem>) -> Node {
    let value = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => {
                problems.push(Problem::new("this integer has more than 64 bits").at(place.clone()));
                Value::Integer(0)
            }
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(items) => Value::Array(
            items.iter().map(|item| from_value(item.get_ref(), shift(item.span(), base), base, problems)).collect(),
        ),
        DeValue::Table(table) => return from_table(table, place, base, problems),
    };
    Node::new(place, value)
}

fn parse_json(text: &str, base: usize) -> Result<Node, Problem> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| json_problem(&error, text, text, base))?;
    let reader = JsonReader { text, base };
    match reader.node(raw, 0)? {
        Some(node) => Ok(node),
        None => Err(Problem::new("the document is `null`").at(base..base + text.len())),
    }
}

/// serde_json tells line and column within the part it was given; the place is in the whole text.
fn json_problem(error: &serde_json::Error, part: &str, text: &str, base: usize) -> Problem {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    let line_start: usize = part.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + error.column().saturating_sub(1)).min(part.len());
    let mut from = start + offset;
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    let to = text[from..].chars().next().map_or(from, |character| from + character.len_utf8());
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    Problem::new(format!("failed to read the JSON: {message}")).at(from + base..to + base)
}

/// Walks raw JSON values, each of which is a slice of the text: its address is its place.
struct JsonReader<'t> {
    text: &'t str,
    base: usize,
}

impl<'t> JsonReader<'t> {
    fn offset(&self, part: &str) -> usize {
        part.as_ptr() as usize - self.text.as_ptr() as usize
    }

    /// `None` for null, which means the same as leaving the key out: Nix writes it for unset options.
    fn node(&self, raw: &'t RawValue, depth: usize) -> Result<Option<Node>, Problem> {
        let part = raw.get();
        let start = self.offset(part);
        let place = start + self.base..start + part.len() + self.base;
        if depth > DEPTH_LIMIT {
            return Err(Problem::new(format!("nested more than {DEPTH_LIMIT} levels deep")).at(place));
        }
        let scalar = |error: serde_json::Error| json_problem(&error, part, self.text, self.base);
        let value = match part.as_bytes().first() {
            Some(b'{') => Value::Table(self.table(part, depth)?),
            Some(b'[') => {
                let items: Vec<&'t RawValue> = serde_json::from_str(part).map_err(scalar)?;
                let mut nodes = Vec::with_capacity(items.len());
                for item in items {
                    match self.node(item, depth + 1)? {
                        Some(node) => nodes.push(node),
                        None => {
                            let start = self.offset(item.get()) + self.base;
                            return Err(Problem::new("`null` cannot stand in an array").at(start..start + 4));
                        }
                    }
                }
                Value::Array(nodes)
            }
            Some(b'"') => Value::String(serde_json::from_str(part).map_err(scalar)?),
            Some(b't') => Value::Boolean(true),
            Some(b'f') => Value::Boolean(false),
            Some(b'n') => return Ok(None),
            _ => match serde_json::from_str::<i64>(part) {
                Ok(integer) => Value::Integer(integer),
                Err(_) => Value::Float(serde_json::from_str(part).map_err(scalar)?),
            },
        };
        Ok(Some(Node::new(place, value)))
    }

    fn table(&self, part: &'t str, depth: usize) -> Result<Table, Problem> {
        let mut deserializer = serde_json::Deserializer::from_str(part);
        let members =
            deserializer.deserialize_map(Members).map_err(|error| json_problem(&error, part, self.text, self.base))?;
        let mut table = Table::new();
        let mut cursor = self.offset(part);
        for (name, raw) in members {
            let value_start = self.offset(raw.get());
            // Between the previous member and this value stand only a comma, white space, the key and a colon.
            let between = &self.text[cursor..value_start];
            let key_start = cursor + between.find('"').unwrap_or(0);
            let key_end = cursor + between.rfind('"').map_or(between.len(), |quote| quote + 1);
            let key = key_start + self.base..key_end + self.base;
            cursor = value_start + raw.get().len();
            let Some(node) = self.node(raw, depth + 1)? else { continue };
            if let Some(first) = table.get(&name) {
                let first: &Entry = first;
                return Err(Problem::new(format!("the key `{name}` stands here twice"))
                    .at(key)
                    .also(first.key.clone(), "first given here"));
            }
            table.insert(name, Entry { key, node });
        }
        Ok(table)
    }
}

/// An object's members in the order of the text, duplicates included.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
