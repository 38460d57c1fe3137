//! By what machines are recognised, and told apart. Pure.

use super::refusal::{Outcome, Refusal};
use crate::provisioning::Identity;

/// What vendors leave where a serial number should be. Compared without case, and without what is no letter or digit.
const PLACEHOLDER_SERIALS: [&str; 22] = [
    "tobefilledbyoem",
    "tobefilledbyoemtobefilledbyoem",
    "defaultstring",
    "systemserialnumber",
    "chassisserialnumber",
    "baseboardserialnumber",
    "serialnumber",
    "notspecified",
    "notapplicable",
    "notavailable",
    "notprovided",
    "notpresent",
    "unknown",
    "none",
    "null",
    "na",
    "oem",
    "invalid",
    "empty",
    "default",
    "0123456789",
    "123456789",
];

/// On boards that were never given one of their own.
const PLACEHOLDER_UUIDS: [&str; 2] = ["03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc"];

const LONGEST: usize = 128;
const MOST_MACS: usize = 64;

/// As a machine is kept: without what says nothing, in one spelling.
///
/// # Errors
/// What can be no identity, and what holds nothing to recognise a machine by.
pub fn normalised(identity: &Identity) -> Outcome<Identity> {
    let text = |name: &str, value: &Option<String>| -> Outcome<Option<String>> {
        let Some(value) = value.as_deref().map(str::trim).filter(|value| !value.is_empty()) else { return Ok(None) };
        if value.len() > LONGEST || value.chars().any(char::is_control) {
            return Err(invalid(format!("`{name}` is longer than {LONGEST} bytes or holds control characters")));
        }
        Ok(Some(value.to_owned()))
    };
    if identity.macs.len() > MOST_MACS {
        return Err(invalid(format!("more than {MOST_MACS} MAC addresses")));
    }
    let mut macs = Vec::new();
    for mac in &identity.macs {
        let mac = normalised_mac(mac).ok_or_else(|| invalid(format!("`{}` is no MAC address", shown(mac))))?;
        if mac != "00:00:00:00:00:00" {
            macs.push(mac);
        }
    }
    macs.sort();
    macs.dedup();
    let identity = Identity {
        node_id: text("node_id", &identity.node_id)?,
        serial: text("serial", &identity.serial)?.filter(|serial| !is_placeholder_serial(serial)),
        uuid: text("uuid", &identity.uuid)?.map(|uuid| uuid.to_lowercase()).filter(|uuid| !is_placeholder_uuid(uuid)),
        macs,
    };
    if identity.node_id.is_none() && identity.serial.is_none() && identity.macs.is_empty() {
        return Err(Refusal::new(400, "no-identity", "nothing tells which machine this is")
            .detail("there is neither a node id, a serial number that means something, nor a MAC address; set `bootproof.node_id`"));
    }
    Ok(identity)
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(400, "invalid-identity", "this can be no machine's identity").detail(detail)
}

fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

/// Six octets, lower case, with colons. `None`: it is none, or one that no single card can have.
pub fn normalised_mac(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase().replace('-', ":");
    let octets: Vec<&str> = text.split(':').collect();
    let hexadecimal = |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    if octets.len() != 6 || !octets.iter().all(hexadecimal) {
        return None;
    }
    let first = u8::from_str_radix(octets[0], 16).ok()?;
    (first & 1 == 0).then_some(text)
}

/// Whether a serial number is a vendor's filler.
pub fn is_placeholder_serial(serial: &str) -> bool {
    let plain: String = serial.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    PLACEHOLDER_SERIALS.contains(&plain.as_str())
        || (plain.is_empty() && serial.is_ascii())
        || plain.len() > 1
            && plain.bytes().all(|byte| byte == plain.as_bytes()[0] && matches!(byte, b'0' | b'x' | b'f' | b'1'))
}

fn is_placeholder_uuid(uuid: &str) -> bool {
    let first = uuid.bytes().next();
    PLACEHOLDER_UUIDS.contains(&uuid)
        || matches!(first, Some(b'0' | b'f')) && uuid.bytes().all(|byte| byte == b'-' || Some(byte) == first)
}

/// Whether what is known of a node and what comes now can be one machine, by what its board and its cards say. What is
/// not known contradicts nothing.
pub fn is_same_machine(known: &Identity, comes: &Identity) -> bool {
    let same_board = match (&known.uuid, &comes.uuid) {
        (Some(known), Some(comes)) => known == comes,
        _ => true,
    };
    let same_cards =
        known.macs.is_empty() || comes.macs.is_empty() || known.macs.iter().any(|mac| comes.macs.contains(mac));
    same_board && same_cards
}

/// Whether a node that was found by a weaker sign is contradicted by a stronger one: the same MAC address, but another
/// serial number.
pub fn contradicts(known: &Identity, comes: &Identity) -> bool {
    let differ = |known: &Option<String>, comes: &Option<String>| matches!((known, comes), (Some(known), Some(comes)) if known != comes);
    match (&known.node_id, &comes.node_id) {
        (Some(_), Some(_)) => differ(&known.node_id, &comes.node_id),
        _ => differ(&known.serial, &comes.serial),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(serial: &str) -> Identity {
        Identity { serial: Some(serial.into()), ..Identity::default() }
    }

    #[test]
    fn what_vendors_leave_is_no_serial_number() {
        for filler in [
            "To Be Filled By O.E.M.",
            "Default string",
            "System Serial Number",
            "None",
            "N/A",
            "0000000000",
            "........",
            "xxxx",
        ] {
            let error = normalised(&serial(filler)).unwrap_err();
            assert_eq!(error.code, "no-identity", "{filler}");
        }
        for real in ["node01", "VMware-56 4d", "1", "7CD1234XYZ", "123"] {
            assert_eq!(normalised(&serial(real)).unwrap().serial.as_deref(), Some(real));
        }
        let identity = Identity {
            uuid: Some("03000200-0400-0500-0006-000700080009".into()),
            node_id: Some(" a ".into()),
            macs: vec!["52-54-00-AA-00-02".into(), "52:54:00:aa:00:01".into(), "52:54:00:aa:00:02".into()],
            ..Identity::default()
        };
        let found = normalised(&identity).unwrap();
        assert_eq!((found.uuid, found.node_id.as_deref()), (None, Some("a")));
        assert_eq!(found.macs, ["52:54:00:aa:00:01", "52:54:00:aa:00:02"]);
    }

    #[test]
    fn garbage_is_no_identity() {
        for mac in ["", "52:54", "01:00:5e:00:00:01", "gg:54:00:aa:00:01", "5:254:00:aa:00:01", "ß:ß"] {
            let identity = Identity { macs: vec![mac.into()], ..serial("a") };
            assert_eq!(normalised(&identity).unwrap_err().code, "invalid-identity", "{mac}");
        }
        assert_eq!(normalised(&serial("a\nb")).unwrap_err().code, "invalid-identity");
        assert_eq!(normalised(&serial(&"a".repeat(200))).unwrap_err().code, "invalid-identity");
    }

    #[test]
    fn machines_are_told_apart_by_board_and_cards() {
        let machine = |uuid: Option<&str>, macs: &[&str]| Identity {
            uuid: uuid.map(str::to_owned),
            macs: macs.iter().map(|mac| (*mac).to_owned()).collect(),
            ..serial("one")
        };
        let known = machine(Some("u1"), &["m1", "m2"]);
        assert!(is_same_machine(&known, &machine(Some("u1"), &["m2", "m3"])), "a card was changed");
        assert!(is_same_machine(&known, &machine(None, &["m1"])));
        assert!(is_same_machine(&serial("one"), &known), "nothing is known of it yet");
        assert!(!is_same_machine(&known, &machine(Some("u2"), &["m1"])));
        assert!(!is_same_machine(&known, &machine(Some("u1"), &["m4"])));
        assert!(!is_same_machine(&known, &machine(None, &["m4"])));
    }

    #[test]
    fn a_stronger_sign_contradicts_a_weaker_one() {
        let node_id = |id: &str, number: &str| Identity { node_id: Some(id.into()), ..serial(number) };
        assert!(contradicts(&serial("a"), &serial("b")));
        assert!(!contradicts(&node_id("x", "a"), &node_id("x", "b")), "the node id overrides");
        assert!(contradicts(&node_id("x", "a"), &node_id("y", "a")));
        assert!(!contradicts(&node_id("x", "a"), &serial("a")));
        assert!(contradicts(&node_id("x", "a"), &serial("b")));
    }
}
