//! Messages: how calls are written and what is read of answers and signals.

use std::io;

/// As the specification has it: nobody may send more.
const MAX_MESSAGE: usize = 128 << 20;
const MAX_DEPTH: u32 = 64;

/// The header's fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method call whose arguments are all strings.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub destination: Option<&'a str>,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [&'a str],
}

impl Call<'_> {
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer(Vec::new());
        for argument in self.arguments {
            body.string(argument);
        }
        // Little-endian, a method call, no flags, version 1.
        let mut message = Writer(vec![b'l', 1, 0, 1]);
        message.word(body.0.len() as u32);
        message.word(serial);
        let mut fields = Writer(Vec::new());
        fields.field(PATH, "o", self.path);
        fields.field(INTERFACE, "s", self.interface);
        fields.field(MEMBER, "s", self.member);
        if let Some(destination) = self.destination {
            fields.field(DESTINATION, "s", destination);
        }
        if !self.arguments.is_empty() {
            fields.align(8);
            fields.0.extend_from_slice(&[SIGNATURE, 1, b'g', 0]);
            fields.signature(&"s".repeat(self.arguments.len()));
        }
        // The array begins at a multiple of eight, so its own alignment is the message's.
        message.word(fields.0.len() as u32);
        message.0.extend_from_slice(&fields.0);
        message.align(8);
        message.0.extend_from_slice(&body.0);
        message.0
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn word(&mut self, word: u32) {
        self.align(4);
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.word(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        self.string(value);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// What has come.
#[derive(Debug)]
pub struct Message {
    pub kind: Kind,
    pub path: String,
    pub interface: String,
    pub member: String,
    pub error: String,
    /// Of the call that this answers.
    pub reply_to: u32,
    body: Vec<u8>,
}

impl Message {
    /// The first message in these bytes and its length; `None` when not all of it is there yet.
    pub fn decode(bytes: &[u8]) -> io::Result<Option<(Message, usize)>> {
        let Some(fixed) = bytes.get(..16) else { return Ok(None) };
        // Both ends are on the same machine, and every machine that the agent runs on is little-endian.
        if fixed[0] != b'l' || fixed[3] != 1 {
            return Err(nonsense());
        }
        let mut start = Body { bytes: fixed, at: 4 };
        let (body_length, _serial, fields_length) = (start.word()?, start.word()?, start.word()?);
        let fields_end = 16usize.saturating_add(fields_length as usize);
        let body_start = fields_end.next_multiple_of(8);
        let end = body_start.saturating_add(body_length as usize);
        if end > MAX_MESSAGE {
            return Err(nonsense());
        }
        let (Some(head), Some(body)) = (bytes.get(..fields_end), bytes.get(body_start..end)) else { return Ok(None) };
        let kind = match fixed[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(nonsense()),
        };
        let mut message = Message {
            kind,
            path: String::new(),
            interface: String::new(),
            member: String::new(),
            error: String::new(),
            reply_to: 0,
            body: body.to_vec(),
        };
        let mut fields = Body { bytes: head, at: 16 };
        while fields.at < head.len() {
            fields.align(8)?;
            let code = fields.byte()?;
            let signature = fields.signature()?;
            match (code, signature.as_str()) {
                (PATH, "o") => message.path = fields.string()?,
                (INTERFACE, "s") => message.interface = fields.string()?,
                (MEMBER, "s") => message.member = fields.string()?,
                (ERROR_NAME, "s") => message.error = fields.string()?,
                (REPLY_SERIAL, "u") => message.reply_to = fields.word()?,
                _ => fields.skip_all(&signature)?,
            }
        }
        Ok(Some((message, end)))
    }

    pub fn body(&self) -> Body<'_> {
        Body { bytes: &self.body, at: 0 }
    }

    pub fn is_signal(&self, interface: &str, member: &str) -> bool {
        self.kind == Kind::Signal && self.interface == interface && self.member == member
    }
}

/// Reads values one after the other; whoever reads knows their types.
pub struct Body<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Body<'_> {
    pub fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A `u`, an `i` or a `b`.
    pub fn word(&mut self) -> io::Result<u32> {
        self.align(4)?;
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// An `s` or an `o`.
    pub fn string(&mut self) -> io::Result<String> {
        let length = self.word()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    pub fn signature(&mut self) -> io::Result<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    /// A variant as text, where it is a string or a number; empty for anything else, which is skipped.
    pub fn variant(&mut self) -> io::Result<String> {
        let signature = self.signature()?;
        match signature.as_str() {
            "s" | "o" => self.string(),
            "i" => Ok(self.word()?.cast_signed().to_string()),
            "u" => Ok(self.word()?.to_string()),
            other => self.skip_all(other).map(|()| String::new()),
        }
    }

    /// An `a{sv}`: names and what [`variant`](Self::variant) makes of their values.
    pub fn dictionary(&mut self) -> io::Result<Vec<(String, String)>> {
        let length = self.word()? as usize;
        self.align(8)?;
        let end = self.at.saturating_add(length);
        let mut found = Vec::new();
        while self.at < end {
            self.align(8)?;
            let name = self.string()?;
            found.push((name, self.variant()?));
        }
        Ok(found)
    }

    fn skip_all(&mut self, signature: &str) -> io::Result<()> {
        let mut rest = signature.as_bytes();
        while !rest.is_empty() {
            rest = self.skip(rest, 0)?;
        }
        Ok(())
    }

    /// Skips a value of the first complete type; what is left of the signature.
    fn skip<'s>(&mut self, signature: &'s [u8], depth: u32) -> io::Result<&'s [u8]> {
        let Some((first, rest)) = signature.split_first() else { return Err(nonsense()) };
        if depth > MAX_DEPTH {
            return Err(nonsense());
        }
        match first {
            b'y' => _ = self.take(1)?,
            b'n' | b'q' => {
                self.align(2)?;
                self.take(2)?;
            }
            b'b' | b'i' | b'u' | b'h' => _ = self.word()?,
            b'x' | b't' | b'd' => {
                self.align(8)?;
                self.take(8)?;
            }
            b's' | b'o' => _ = self.string()?,
            b'g' => _ = self.signature()?,
            b'v' => {
                let inner = self.signature()?;
                if !self.skip(inner.as_bytes(), depth + 1)?.is_empty() {
                    return Err(nonsense());
                }
            }
            b'a' => {
                let length = self.word()? as usize;
                self.align(alignment(rest.first().copied()))?;
                self.take(length)?;
                return after_type(rest, depth + 1);
            }
            b'(' | b'{' => {
                self.align(8)?;
                let close = if *first == b'(' { b')' } else { b'}' };
                let mut members = rest;
                while members.first() != Some(&close) {
                    members = self.skip(members, depth + 1)?;
                }
                return Ok(&members[1..]);
            }
            _ => return Err(nonsense()),
        }
        Ok(rest)
    }

    fn align(&mut self, to: usize) -> io::Result<()> {
        let next = self.at.next_multiple_of(to);
        self.take(next - self.at).map(drop)
    }

    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(nonsense)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(nonsense)?;
        self.at = end;
        Ok(bytes)
    }
}

fn alignment(kind: Option<u8>) -> usize {
    match kind {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// What is left of a signature behind its first complete type.
fn after_type(signature: &[u8], depth: u32) -> io::Result<&[u8]> {
    let Some((first, rest)) = signature.split_first() else { return Err(nonsense()) };
    if depth > MAX_DEPTH {
        return Err(nonsense());
    }
    match first {
        b'a' => after_type(rest, depth + 1),
        b'(' | b'{' => {
            let close = if *first == b'(' { b')' } else { b'}' };
            let mut members = rest;
            while members.first() != Some(&close) {
                members = after_type(members, depth + 1)?;
            }
            Ok(&members[1..])
        }
        _ => Ok(rest),
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came over D-Bus makes no sense")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: Call<'_> = Call {
        destination: Some("org.freedesktop.systemd1"),
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "GetUnit",
        arguments: &["ssh.service", "second"],
    };

    #[test]
    fn a_call_is_read_back_as_it_was_written() {
        let bytes = CALL.encode(7);
        assert_eq!(bytes[..4], *b"l\x01\0\x01");
        assert_eq!(bytes[8..12], 7u32.to_le_bytes());
        let (message, length) = Message::decode(&bytes).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!((message.kind, message.member.as_str(), message.path.as_str()), (Kind::Call, "GetUnit", CALL.path));
        let mut body = message.body();
        assert_eq!((body.string().unwrap(), body.string().unwrap()), ("ssh.service".into(), "second".into()));
        for cut in 0..bytes.len() {
            assert!(Message::decode(&bytes[..cut]).unwrap().is_none(), "{cut}");
        }
    }

    /// As systemd tells of changes, with a structure and an array of structures before what is looked for.
    #[test]
    fn properties_are_found_between_values_of_any_type() {
        let mut body = Writer(Vec::new());
        body.string("org.freedesktop.systemd1.Unit");
        body.word(0);
        let all_at = body.0.len() - 4;
        body.align(8);
        let start = body.0.len();
        body.string("Job");
        body.signature("(uo)");
        body.align(8);
        body.word(12);
        body.string("/org/freedesktop/systemd1/job/12");
        body.align(8);
        body.string("Conditions");
        body.signature("a(sbbsi)");
        body.word(0);
        let length_at = body.0.len() - 4;
        body.align(8);
        let inner = body.0.len();
        body.string("ConditionPathExists");
        body.word(0);
        body.word(1);
        body.string("/etc/x");
        body.word(1);
        let inner_length = (body.0.len() - inner) as u32;
        body.0[length_at..length_at + 4].copy_from_slice(&inner_length.to_le_bytes());
        body.align(8);
        body.string("ActiveState");
        body.signature("s");
        body.string("active");
        let length = (body.0.len() - start) as u32;
        body.0[all_at..all_at + 4].copy_from_slice(&length.to_le_bytes());
        let mut body = Body { bytes: &body.0, at: 0 };
        assert_eq!(body.string().unwrap(), "org.freedesktop.systemd1.Unit");
        let found = body.dictionary().unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Job", "Conditions", "ActiveState"]);
        assert_eq!(found[2].1, "active");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn nonsense_is_an_error_and_no_panic(
            mut noise in prop::collection::vec(any::<u8>(), 0..200),
            signature in "[ybnqiuxtdsogahv(){}]{0,12}",
            place in any::<prop::sample::Index>(), value in any::<u8>(),
        ) {
            let mut bytes = CALL.encode(1);
            let place = place.index(bytes.len());
            bytes[place] = value;
            let _ = Message::decode(&bytes).map(|found| found.map(|(message, _)| message.body().dictionary()));
            let _ = Body { bytes: &noise, at: 0 }.skip_all(&signature);
            let _ = Body { bytes: &noise, at: 0 }.dictionary();
            if noise.len() > 4 {
                noise[..4].copy_from_slice(b"l\x04\0\x01");
                let _ = Message::decode(&noise);
            }
        }
    }
}
