//! Reads typed documents from a tree, and finds every error it can in one go.
//!
//! The types' own `Deserialize` says what is valid. serde stops at the first error; here the part that is wrong is taken
//! out of the tree and the rest is read again, so that all errors are told at once and none is told twice.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
    value::{StrDeserializer, UsizeDeserializer},
};
use serde::{Deserialize, forward_to_deserialize_any};

use super::problem::{Problem, nearest};
use super::tree::{Entry, Node, Place, Value};

/// A value and where it was written. Only a tree can be read into it.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: PartialOrd> PartialOrd for Spanned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for Spanned<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

/// Where it was written does not matter to an editor.
impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

// The names by which a `Spanned` asks the deserializer for its place.
const SPANNED: &str = "$bootproof::Spanned";
const START: &str = "$start";
const END: &str = "$end";
const VALUE: &str = "$value";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpannedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value with its place")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (_, start) = map.next_entry::<&str, usize>()?.ok_or_else(|| de::Error::missing_field(START))?;
                let (_, end) = map.next_entry::<&str, usize>()?.ok_or_else(|| de::Error::missing_field(END))?;
                let (_, value) = map.next_entry::<&str, T>()?.ok_or_else(|| de::Error::missing_field(VALUE))?;
                Ok(Spanned { value, place: start..end })
            }
        }

        deserializer.deserialize_struct(SPANNED, &[START, END, VALUE], SpannedVisitor(PhantomData))
    }
}

/// What came of reading a document.
pub struct Reading<T> {
    /// `None`: too little is left to read.
    pub document: Option<T>,
    pub problems: Vec<Problem>,
    /// Places of entries below a section (`machines.node01`, one of `steps`) that lost a part: what else seems wrong
    /// with them may follow from that.
    pub damaged: BTreeSet<(usize, usize)>,
    /// Whole entries or sections are gone, so that names in them are not known.
    pub names_lost: bool,
}

/// Sections whose entries nothing refers to.
const WITHOUT_NAMES: [&str; 4] = ["lane", "requires", "budget", "profile"];

/// Enough to show; also bounds the time that a hostile file can take.
const PROBLEM_LIMIT: usize = 50;

pub fn read<T: DeserializeOwned>(mut tree: Node) -> Reading<T> {
    tree.number();
    let mut reading = Reading { document: None, problems: Vec::new(), damaged: BTreeSet::new(), names_lost: false };
    let mut lost: BTreeSet<(u32, String)> = BTreeSet::new();
    while reading.problems.len() < PROBLEM_LIMIT {
        let fault = match T::deserialize(Reader { node: &tree }) {
            Ok(document) => {
                reading.document = Some(document);
                break;
            }
            Err(fault) => fault,
        };
        let (id, place) = fault.at.unwrap_or((tree.id, tree.place.clone()));
        let meant = match &fault.kind {
            FaultKind::UnknownKey { key, valid } => nearest(key, valid.iter().copied()),
            _ => None,
        };
        // A key that was there and wrong is not missing as well.
        let told = matches!(&fault.kind, FaultKind::Missing(field) if lost.contains(&(id, (*field).to_owned())));
        if !told {
            reading.problems.push(fault.kind.problem().at(place));
        }
        let Some(removed) = tree.remove(id) else { break };
        if let Some(key) = removed.key {
            lost.insert((removed.holder, key));
        }
        // Nor is a key missing that was misspelled.
        lost.extend(meant.map(|key| (removed.holder, key.to_owned())));
        let section = removed.trail.first().map_or("", |(key, _)| key);
        match removed.trail.get(1) {
            Some((_, place)) if removed.trail.len() > 2 => {
                reading.damaged.insert((place.start, place.end));
            }
            Some(_) if WITHOUT_NAMES.contains(&section) => {}
            _ => reading.names_lost = true,
        }
    }
    if reading.document.is_none() {
        reading.names_lost = true;
    }
    reading
}

/// An error of serde's, with the innermost node that it is about.
#[derive(Debug)]
struct Fault {
    kind: FaultKind,
    at: Option<(u32, Place)>,
}

#[derive(Debug)]
enum FaultKind {
    Message(String),
    UnknownKey { key: String, valid: &'static [&'static str] },
    UnknownVariant { given: String, valid: &'static [&'static str] },
    Missing(&'static str),
    Mismatch { found: String, expected: String },
}

impl Fault {
    fn new(kind: FaultKind) -> Self {
        Self { kind, at: None }
    }

    /// The innermost node says where first.
    fn at(mut self, id: u32, place: &Place) -> Self {
        self.at.get_or_insert_with(|| (id, place.clone()));
        self
    }
}

impl FaultKind {
    fn problem(self) -> Problem {
        match self {
            FaultKind::Message(message) => Problem::new(message),
            FaultKind::UnknownKey { key, valid } => {
                Problem::new(format!("unknown key `{key}`")).nearest(&key, valid.iter().copied())
            }
            FaultKind::UnknownVariant { given, valid } => {
                Problem::new(format!("unknown value `{given}`")).nearest(&given, valid.iter().copied())
            }
            FaultKind::Missing(field) => {
                Problem::new(format!("the key `{field}` is missing")).label(format!("`{field}` belongs in here"))
            }
            FaultKind::Mismatch { found, expected } => {
                let quoted = expected == "a string" && (found.starts_with("integer") || found.starts_with("float"));
                let listed = expected.starts_with("an array") && found.starts_with("string");
                let problem =
                    Problem::new(format!("expected {expected}, found {found}")).label(format!("expected {expected}"));
                match (quoted, listed) {
                    (true, _) => problem
                        .hint("write it in quotes, a length of time or a size with its unit: `\"90s\"`, `\"1GiB\"`"),
                    (_, true) => {
                        problem.hint("write it in brackets, each word in its own quotes: `[\"...\", \"...\"]`")
                    }
                    _ => problem,
                }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

/// serde's words for what is expected, in those of a lane's reader.
fn plain(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a sequence" => "an array".into(),
        "a map" => "a table".into(),
        "path string" => "a string".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "i32" => "a whole number".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other.starts_with("enum ") => "a string".into(),
        _ => text,
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(FaultKind::Message(message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Seq => "an array".into(),
            Unexpected::Map => "a table".into(),
            other => other.to_string(),
        };
        Self::new(FaultKind::Mismatch { found, expected: plain(expected) })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(FaultKind::UnknownKey { key: field.into(), valid: expected })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(FaultKind::UnknownVariant { given: variant.into(), valid: expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(FaultKind::Missing(field))
    }
}

/// A serde deserializer over one node.
struct Reader<'t> {
    node: &'t Node,
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let node = self.node;
        let outcome = match &node.value {
            Value::Boolean(boolean) => visitor.visit_bool(*boolean),
            Value::Integer(integer) => visitor.visit_i64(*integer),
            Value::Float(float) => visitor.visit_f64(*float),
            Value::String(text) => visitor.visit_str(text),
            Value::Datetime(text) => {
                Err(de::Error::invalid_type(Unexpected::Other(&format!("the date `{text}`")), &visitor))
            }
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter() }),
            Value::Table(table) => visitor.visit_map(Members { entries: table.iter(), value: None }),
        };
        outcome.map_err(|fault| fault.at(node.id, &node.place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let node = self.node;
        match &node.value {
            Value::String(text) => visitor.visit_enum(Variant { name: text }),
            _ => self.deserialize_any(visitor),
        }
        .map_err(|fault| fault.at(node.id, &node.place))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == SPANNED {
            let place = &self.node.place;
            return visitor.visit_map(WithPlace { start: place.start, end: place.end, step: 0, inner: Some(self) });
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'t> {
    items: std::slice::Iter<'t, Node>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.next() else { return Ok(None) };
        seed.deserialize(Reader { node }).map(Some).map_err(|fault| fault.at(node.id, &node.place))
    }
}

struct Members<'t> {
    entries: std::collections::btree_map::Iter<'t, String, Entry>,
    value: Option<&'t Node>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, entry)) = self.entries.next() else { return Ok(None) };
        self.value = Some(&entry.node);
        seed.deserialize(KeyReader { name, place: &entry.key })
            .map(Some)
            .map_err(|fault| fault.at(entry.node.id, &entry.key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let node =
            self.value.take().ok_or_else(|| <Fault as de::Error>::custom("a value was asked for before its key"))?;
        seed.deserialize(Reader { node }).map_err(|fault| fault.at(node.id, &node.place))
    }
}

struct KeyReader<'t> {
    name: &'t str,
    place: &'t Place,
}

impl<'de> Deserializer<'de> for KeyReader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.name)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == SPANNED {
            let (start, end) = (self.place.start, self.place.end);
            return visitor.visit_map(WithPlace { start, end, step: 0, inner: Some(self) });
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What a `Spanned` asks for: start, end, value.
struct WithPlace<D> {
    start: usize,
    end: usize,
    step: u8,
    inner: Option<D>,
}

impl<'de, D: Deserializer<'de, Error = Fault>> MapAccess<'de> for WithPlace<D> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(key) = [START, END, VALUE].get(usize::from(self.step)) else { return Ok(None) };
        self.step += 1;
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let number = match self.step {
            1 => self.start,
            2 => self.end,
            _ => {
                let inner =
                    self.inner.take().ok_or_else(|| <Fault as de::Error>::custom("a value was asked for twice"))?;
                return seed.deserialize(inner);
            }
        };
        let number: UsizeDeserializer<Fault> = number.into_deserializer();
        seed.deserialize(number)
    }
}

/// An enum's variant by its name alone: no enum of a document carries more.
struct Variant<'t> {
    name: &'t str,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(de::Error::custom(format!("`{}` cannot be written as a string alone", self.name)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(de::Error::custom(format!("`{}` cannot be written as a string alone", self.name)))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(de::Error::custom(format!("`{}` cannot be written as a string alone", self.name)))
    }
}
