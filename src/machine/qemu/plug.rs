//! What is plugged into a running machine, as QMP takes it: made from the options of the command line, so that a machine has
//! the same devices however it was started.

use serde_json::{Map, Value, json};

/// One thing to plug in, in the words of its command.
#[derive(Clone, Debug, PartialEq)]
pub enum Plug {
    /// `netdev_add`
    Network(Value),
    /// `blockdev-add`
    Disk(Value),
    /// `device_add`
    Device(Value),
}

/// Options that are numbers to QMP; every other one is a word, or `on` and `off`.
const NUMBERS: [&str; 2] = ["bootindex", "log-super-update-interval"];
/// Options whose value is somebody's word, whatever it looks like.
const WORDS: [&str; 6] = ["serial", "filename", "path", "id", "drive", "node-name"];

/// `-blockdev`'s options.
pub fn disk(options: &str) -> Plug {
    Plug::Disk(parse(options, "driver"))
}

/// `-device`'s options.
pub fn device(options: &str) -> Plug {
    Plug::Device(parse(options, "driver"))
}

/// `-netdev`'s options.
pub fn network(options: &str) -> Plug {
    Plug::Network(parse(options, "type"))
}

/// `implied`: the name of an option that is given without one. Dots part the names of nested tables.
fn parse(options: &str, implied: &str) -> Value {
    let mut table = Map::new();
    for option in split(options) {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (implied.to_owned(), option),
        };
        // These may be given several times.
        if name == "hostfwd" || name == "guestfwd" {
            let list = table.entry(name).or_insert_with(|| json!([]));
            list.as_array_mut().expect("it was made as one").push(json!({ "str": value }));
            continue;
        }
        let mut place = &mut table;
        let mut path: Vec<&str> = name.split('.').collect();
        let last = path.pop().expect("splitting gives at least one");
        for part in path {
            place = place.entry(part).or_insert_with(|| json!({})).as_object_mut().expect("it was made as one");
        }
        place.insert(last.into(), typed(last, value));
    }
    Value::Object(table)
}

fn typed(name: &str, value: String) -> Value {
    match value.as_str() {
        "on" | "off" if !WORDS.contains(&name) => json!(value == "on"),
        number if NUMBERS.contains(&name) => {
            number.parse::<u64>().map_or_else(|_| json!(number), |number| json!(number))
        }
        _ => json!(value),
    }
}

/// A comma parts, two of them are one that belongs to the value.
fn split(options: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = options.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ',' if characters.next_if_eq(&',').is_none() => parts.push(String::new()),
            character => parts.last_mut().expect("there is always one").push(character),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_what_qmp_takes() {
        let device_options = device("virtio-blk-pci,id=disk-on,drive=disk1,serial=on,bootindex=3,bus=port0");
        let expected = json!({
            "driver": "virtio-blk-pci", "id": "disk-on", "drive": "disk1", "serial": "on", "bootindex": 3, "bus": "port0"
        });
        assert_eq!(device_options, Plug::Device(expected));
        let disk_options = disk("node-name=disk1,discard=unmap,driver=raw,file.driver=file,file.filename=/a,,b=1");
        let file = json!({ "driver": "file", "filename": "/a,b=1" });
        let expected = json!({ "node-name": "disk1", "discard": "unmap", "driver": "raw", "file": file });
        assert_eq!(disk_options, Plug::Disk(expected));
        let network_options =
            network("user,id=user,restrict=on,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:80");
        let forwards = json!([{ "str": "tcp:127.0.0.1:0-:22" }, { "str": "tcp:127.0.0.1:0-:80" }]);
        let expected = json!({ "type": "user", "id": "user", "restrict": true, "hostfwd": forwards });
        assert_eq!(network_options, Plug::Network(expected));
    }

    #[test]
    fn tables_are_nested_at_dots() {
        let options = network("stream,id=link0,server=off,addr.type=unix,addr.path=/s");
        let address = json!({ "type": "unix", "path": "/s" });
        let expected = json!({ "type": "stream", "id": "link0", "server": false, "addr": address });
        assert_eq!(options, Plug::Network(expected));
    }
}
