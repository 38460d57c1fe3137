//! DNS (RFC 1035) for the machines' names. Pure.
//!
//! A network is closed, and so are its names: what is not known here does not exist. Every answer is final, and short
//! enough for any client: a name and one record of at most 255 bytes stay well below 512.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsRcode};

use crate::error::{Error, Result};

const HEADER: usize = 12;

/// Bytes that a name may have, its end included.
const LONGEST: usize = 255;

const LONGEST_LABEL: usize = 63;

const CLASS_INTERNET: u16 = 1;

// Types that smoltcp has no names for.
const POINTER: DnsQueryType = DnsQueryType::Unknown(12);
const OPT: DnsQueryType = DnsQueryType::Unknown(41);
const ANY: DnsQueryType = DnsQueryType::Unknown(255);

/// Where the question's name stands, as a name itself (RFC 1035, 4.1.4).
const QUESTIONS_NAME: [u8; 2] = [0xc0, HEADER as u8];

/// Nothing is remembered elsewhere: a lookup is a round trip that a fault can stop, each time.
const SECONDS_TO_LIVE: u32 = 0;

/// What is said to be taken over UDP, where a client cares. No answer comes near it.
const UDP_SIZE: u16 = 1232;

/// EDNS (RFC 6891) has had this version only.
const BAD_VERSION: u8 = 16;

const DNSSEC_OK: u32 = 0x8000;

/// What there is to say about a name.
#[derive(Debug, Default)]
struct Records {
    address: Option<Ipv4Addr>,
    /// The name of the machine that has the address.
    pointer: Option<Vec<u8>>,
}

/// All names of a network: labels in lower case, each after its length, without the end.
#[derive(Debug, Default)]
pub struct Zone {
    names: BTreeMap<Vec<u8>, Records>,
}

struct Question {
    name: Vec<u8>,
    kind: DnsQueryType,
    class: u16,
    /// Where the message goes on.
    end: usize,
}

struct Extension {
    version: u8,
    dnssec_ok: bool,
}

impl Zone {
    /// Names may have several labels and may end with a dot. Of an address's names the first in alphabetical order is
    /// the one that is given for it.
    ///
    /// Usage errors: what can be no name, and a name for two addresses.
    pub fn new(names: &BTreeMap<String, Ipv4Addr>) -> Result<Self> {
        let mut zone = Self::default();
        for (text, address) in names {
            let unusable = || Error::usage(format!("`{text}` is no name for a machine"));
            let name = name(text).ok_or_else(unusable)?;
            let [a, b, c, d] = address.octets();
            let reverse = self::name(&format!("{d}.{c}.{b}.{a}.in-addr.arpa")).ok_or_else(unusable)?;
            let known = zone.insert(&name).address.replace(*address);
            if known.is_some_and(|known| known != *address) {
                return Err(Error::usage(format!("the name `{text}` is there for two addresses")));
            }
            zone.insert(&reverse).pointer.get_or_insert(name);
        }
        Ok(zone)
    }

    /// What is above a name exists as well, though there is nothing to say about it (RFC 8020).
    fn insert(&mut self, name: &[u8]) -> &mut Records {
        let mut above = name;
        while let Some(length) = above.first() {
            above = &above[1 + usize::from(*length)..];
            self.names.entry(above.to_vec()).or_default();
        }
        self.names.entry(name.to_vec()).or_default()
    }

    /// Answers a query; `None` for what is none.
    pub fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let query = DnsPacket::new_checked(message).ok()?;
        if query.flags().contains(DnsFlags::RESPONSE) {
            return None;
        }
        if query.opcode() != DnsOpcode::Query {
            return Some(response(&query, DnsRcode::NotImp, None, None, None));
        }
        let Some((question, extension)) = read(&query, message) else {
            return Some(response(&query, DnsRcode::FormErr, None, None, None));
        };
        let asked = Some(&message[HEADER..question.end]);
        let extended = extension.as_ref();
        if extension.as_ref().is_some_and(|extension| extension.version != 0) {
            return Some(response(&query, DnsRcode::from(BAD_VERSION), asked, None, extended));
        }
        if question.class != CLASS_INTERNET {
            return Some(response(&query, DnsRcode::Refused, asked, None, extended));
        }
        let Some(records) = self.names.get(&question.name) else {
            return Some(response(&query, DnsRcode::NXDomain, asked, None, extended));
        };
        let wants = |kind| question.kind == kind || question.kind == ANY;
        let record = match records {
            Records { address: Some(address), .. } if wants(DnsQueryType::A) => {
                Some((DnsQueryType::A, address.octets().to_vec()))
            }
            Records { pointer: Some(name), .. } if wants(POINTER) => Some((POINTER, [&name[..], &[0]].concat())),
            Records { .. } => None,
        };
        Some(response(&query, DnsRcode::NoError, asked, record, extended))
    }
}

/// A name as a message has it, in lower case and without its end.
fn name(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        let usable = (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
        if !usable {
            return None;
        }
        name.push(label.len() as u8);
        name.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    (name.len() < LONGEST).then_some(name)
}

/// The one question that a query has, and its EDNS; `None` where it is malformed.
fn read(query: &DnsPacket<&[u8]>, message: &[u8]) -> Option<(Question, Option<Extension>)> {
    if query.question_count() != 1 {
        return None;
    }
    let mut reader = Reader { message, at: HEADER };
    let name = reader.question_name()?;
    let (kind, class) = (reader.u16()?.into(), reader.u16()?);
    let question = Question { name, kind, class, end: reader.at };
    let mut extension = None;
    for _ in 0..u32::from(query.answer_record_count()) + u32::from(query.authority_record_count()) {
        reader.record()?;
    }
    for _ in 0..query.additional_record_count() {
        let (kind, seconds_to_live) = reader.record()?;
        if kind == OPT {
            let version = (seconds_to_live >> 16) as u8;
            let dnssec_ok = seconds_to_live & DNSSEC_OK != 0;
            if extension.replace(Extension { version, dnssec_ok }).is_some() {
                return None;
            }
        }
    }
    Some((question, extension))
}

/// Goes through a message; whatever would lead out of it is `None`.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// In lower case. There is nothing before a question's name that it could point to.
    fn question_name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            let length = self.u8()?;
            if length == 0 {
                return Some(name);
            }
            let label = self.take(usize::from(length)).filter(|label| label.len() <= LONGEST_LABEL)?;
            name.push(length);
            name.extend(label.iter().map(u8::to_ascii_lowercase));
            if name.len() >= LONGEST {
                return None;
            }
        }
    }

    /// The type and the time to live of a record that is passed over.
    fn record(&mut self) -> Option<(DnsQueryType, u32)> {
        loop {
            match self.u8()? {
                0 => break,
                length @ 1..=0x3f => self.take(usize::from(length))?,
                0xc0.. => {
                    self.take(1)?;
                    break;
                }
                0x40..0xc0 => return None,
            };
        }
        let kind = self.u16()?.into();
        let _class = self.u16()?;
        let seconds_to_live = self.u32()?;
        let length = self.u16()?;
        self.take(length.into())?;
        Some((kind, seconds_to_live))
    }
}

fn response(
    query: &DnsPacket<&[u8]>,
    code: DnsRcode,
    question: Option<&[u8]>,
    record: Option<(DnsQueryType, Vec<u8>)>,
    extension: Option<&Extension>,
) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    let code = u8::from(code);
    let mut header = DnsPacket::new_unchecked(&mut bytes[..]);
    header.set_transaction_id(query.transaction_id());
    // There is nobody else to ask: an answer is as good as one from there would be.
    let own = DnsFlags::RESPONSE | DnsFlags::AUTHORITATIVE | DnsFlags::RECURSION_AVAILABLE;
    header.set_flags(own | query.flags() & (DnsFlags::RECURSION_DESIRED | DnsFlags::CHECK_DISABLED));
    header.set_opcode(query.opcode());
    header.set_question_count(question.is_some().into());
    header.set_answer_record_count(record.is_some().into());
    header.set_additional_record_count(extension.is_some().into());
    bytes[3] |= code & 0xf;
    bytes.extend_from_slice(question.unwrap_or_default());
    if let Some((kind, data)) = record {
        append(&mut bytes, &QUESTIONS_NAME, kind, CLASS_INTERNET, SECONDS_TO_LIVE, &data);
    }
    if let Some(extension) = extension {
        let dnssec_ok = if extension.dnssec_ok { DNSSEC_OK } else { 0 };
        append(&mut bytes, &[0], OPT, UDP_SIZE, u32::from(code >> 4) << 24 | dnssec_ok, &[]);
    }
    bytes
}

fn append(bytes: &mut Vec<u8>, name: &[u8], kind: DnsQueryType, class: u16, seconds_to_live: u32, data: &[u8]) {
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&u16::from(kind).to_be_bytes());
    bytes.extend_from_slice(&class.to_be_bytes());
    bytes.extend_from_slice(&seconds_to_live.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
}

#[cfg(test)]
mod tests;
