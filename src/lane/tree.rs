//! A lane file as a tree of values that remember where they were written: what both syntaxes are read into, what
//! overrides change, and what the typed document is read from.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes in the text of `Sources`.
pub type Place = Range<usize>;

#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
    /// Set by `number`; tells two nodes apart that were written in the same place.
    pub id: u32,
}

#[derive(Clone, Debug)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    String(String),
    /// TOML only; no key of a lane takes one.
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

pub type Table = BTreeMap<String, Entry>;

#[derive(Clone, Debug)]
pub struct Entry {
    /// Where the key was written.
    pub key: Place,
    pub node: Node,
}

/// What `remove` took away.
pub struct Removed {
    /// The table or array that held it.
    pub holder: u32,
    /// Its key, where the holder is a table.
    pub key: Option<String>,
    /// The keys and places on the way from the root down to it.
    pub trail: Vec<(String, Place)>,
}

impl Node {
    pub fn new(place: Place, value: Value) -> Self {
        Self { place, value, id: 0 }
    }

    pub fn table(place: Place) -> Self {
        Self::new(place, Value::Table(Table::new()))
    }

    /// The value's type as a reader of the file calls it.
    pub fn type_name(&self) -> &'static str {
        match &self.value {
            Value::Boolean(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::String(_) => "a string",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_table()?.get(key).map(|entry| &entry.node)
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Gives every node an id of its own.
    pub fn number(&mut self) {
        fn visit(node: &mut Node, next: &mut u32) {
            node.id = *next;
            *next += 1;
            match &mut node.value {
                Value::Array(items) => items.iter_mut().for_each(|item| visit(item, next)),
                Value::Table(table) => table.values_mut().for_each(|entry| visit(&mut entry.node, next)),
                _ => {}
            }
        }
        visit(self, &mut 0);
    }

    /// Takes the node with this id out of the tree. `None`: it is the root, or not there.
    pub fn remove(&mut self, id: u32) -> Option<Removed> {
        match &mut self.value {
            Value::Array(items) => {
                if let Some(index) = items.iter().position(|item| item.id == id) {
                    let item = items.remove(index);
                    return Some(Removed { holder: self.id, key: None, trail: vec![(index.to_string(), item.place)] });
                }
                items.iter_mut().enumerate().find_map(|(index, item)| {
                    let mut removed = item.remove(id)?;
                    removed.trail.insert(0, (index.to_string(), item.place.clone()));
                    Some(removed)
                })
            }
            Value::Table(table) => {
                let key = table.iter().find(|(_, entry)| entry.node.id == id).map(|(key, _)| key.clone());
                if let Some(key) = key {
                    let entry = table.remove(&key)?;
                    return Some(Removed {
                        holder: self.id,
                        key: Some(key.clone()),
                        trail: vec![(key, entry.node.place)],
                    });
                }
                table.iter_mut().find_map(|(key, entry)| {
                    let mut removed = entry.node.remove(id)?;
                    removed.trail.insert(0, (key.clone(), entry.node.place.clone()));
                    Some(removed)
                })
            }
            _ => None,
        }
    }
}
