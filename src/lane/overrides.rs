//! `--set path=value` and the settings of a control: changes to the document before it is read, so that the same checks
//! hold for them as for the file, and an error points at the override.

use super::problem::{Problem, Sources};
use super::syntax;
use super::tree::{Entry, Node, Place, Table, Value};

/// One value for one path.
pub struct Assignment {
    path: Vec<(String, Place)>,
    value: Node,
}

/// Sections whose entries have the lane's own names: a path cannot invent one on its way.
const NAMED_SECTIONS: [&str; 4] = ["machines", "images", "secrets", "controls"];

const PATH_HINT: &str = "write it like `machines.node01.memory=2GiB`; a name with other characters goes in quotes";

impl Assignment {
    /// Reads `machines.node01.memory=2GiB`. A value that is not TOML is a string.
    pub fn parse(text: &str, sources: &mut Sources) -> Result<Self, Problem> {
        let base = sources.add("--set", text);
        let whole = base..base + text.len();
        let Some((path_text, value_text)) = text.split_once('=') else {
            return Err(Problem::new("an override needs a path and a value").at(whole).hint(PATH_HINT));
        };
        let path = match syntax::parse_path(path_text, base) {
            Some(path) if !path.is_empty() => path,
            _ => {
                return Err(Problem::new(format!("`{path_text}` is not a path in a lane"))
                    .at(base..base + path_text.len())
                    .hint(PATH_HINT));
            }
        };
        let value_base = base + path_text.len() + 1;
        let value = syntax::parse_toml_value(value_text.trim(), value_base + leading_space(value_text))
            .unwrap_or_else(|| Node::new(value_base..whole.end, Value::String(value_text.to_owned())));
        Ok(Self { path, value })
    }

    /// A control's setting: the path is the key, in quotes.
    pub fn from_setting(key: &str, entry: &Entry) -> Result<Self, Problem> {
        let place = &entry.key;
        let parts = syntax::parse_path(key, 0).unwrap_or_default();
        if parts.is_empty() {
            return Err(Problem::new(format!("`{key}` is not a path in a lane"))
                .at(place.clone())
                .hint("write it like `\"machines.node01.memory\" = \"2GiB\"`"));
        }
        if let [(only, _)] = parts.as_slice()
            && let Value::Table(inner) = &entry.node.value
            && let Some(next) = inner.keys().next()
        {
            return Err(Problem::new(format!("this would replace all of `{only}`"))
                .at(place.clone())
                .hint(format!("put the whole path in quotes: `\"{only}.{next}...\" = ...`")));
        }
        let path = parts.into_iter().map(|(part, _)| (part, place.clone())).collect();
        Ok(Self { path, value: entry.node.clone() })
    }

    /// Puts the value into the tree; tables on the way that a lane may leave out are made.
    pub fn apply(&self, tree: &mut Node) -> Result<(), Problem> {
        let mut node = tree;
        let last = self.path.len() - 1;
        for (depth, (part, place)) in self.path.iter().enumerate() {
            let way = || self.path[..depth].iter().map(|(part, _)| part.as_str()).collect::<Vec<_>>().join(".");
            let described = node.type_name();
            let next = match &mut node.value {
                Value::Table(table) => {
                    let invented = depth == 1 && depth < last && NAMED_SECTIONS.contains(&self.path[0].0.as_str());
                    if invented && !table.contains_key(part) {
                        return Err(Problem::new(format!("the lane has no `{}.{part}`", way()))
                            .at(place.clone())
                            .nearest(part, table.keys().map(String::as_str)));
                    }
                    let entry = table
                        .entry(part.clone())
                        .or_insert_with(|| Entry { key: place.clone(), node: Node::table(place.clone()) });
                    if depth == last {
                        // An error about the value has to point here and not at what it replaces.
                        entry.key = place.clone();
                    }
                    &mut entry.node
                }
                Value::Array(items) => {
                    let names: Vec<String> = items.iter().filter_map(item_name).map(str::to_owned).collect();
                    let index = match part.parse::<usize>() {
                        Ok(index) => (index < items.len()).then_some(index),
                        Err(_) => items.iter().position(|item| item_answers_to(item, part)),
                    };
                    match index {
                        Some(index) => &mut items[index],
                        None => {
                            return Err(Problem::new(format!("the lane has no `{}.{part}`", way()))
                                .at(place.clone())
                                .label(format!("`{}` counts from 0 and ends before {}", way(), items.len()))
                                .nearest(part, names.iter().map(String::as_str)));
                        }
                    }
                }
                _ => {
                    return Err(Problem::new(format!("`{}` is {described} and holds no `{part}`", way()))
                        .at(place.clone())
                        .hint(format!("set `{}` as a whole", way())));
                }
            };
            if depth == last {
                *next = self.value.clone();
                return Ok(());
            }
            node = next;
        }
        Ok(())
    }
}

fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn gate_name(item: &Node) -> Option<&str> {
    let gate = item.get("gate")?;
    gate.as_str().or_else(|| gate.get("name")?.as_str())
}

/// What an array's entry is called by: its name, or else its gate.
fn item_name(item: &Node) -> Option<&str> {
    item.get("name").and_then(Node::as_str).or_else(|| gate_name(item))
}

fn item_answers_to(item: &Node, name: &str) -> bool {
    item.get("name").and_then(Node::as_str) == Some(name) || gate_name(item) == Some(name)
}

/// The settings of a control in the document, in the order of their paths.
pub fn settings(tree: &Node, control: &str) -> Vec<Result<Assignment, Problem>> {
    tree.get("controls")
        .and_then(|controls| controls.get(control)?.get("set"))
        .and_then(Node::as_table)
        .map(|set: &Table| set.iter().map(|(key, entry)| Assignment::from_setting(key, entry)).collect())
        .unwrap_or_default()
}
