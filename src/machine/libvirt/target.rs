//! Which libvirt: its URI, and what follows from that alone.

use std::fmt;

/// The session daemon of whoever runs us.
pub const DEFAULT_URI: &str = "qemu:///session";

/// Transports that do not leave this host.
const LOCAL_TRANSPORT: &str = "unix";

/// A libvirt, by any URI that libvirt takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uri: String,
}

impl Target {
    pub fn new(uri: &str) -> Self {
        Self { uri: uri.into() }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Machines would run on another host: files and sockets of this one are out of their reach.
    pub fn is_remote(&self) -> bool {
        // An alias of the user's configuration: libvirt knows what it means, and says so when it is asked.
        let Some((scheme, rest)) = self.uri.split_once("://") else { return false };
        let transport = scheme.split_once('+').map(|(_, transport)| transport);
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        !host.is_empty() || transport.is_some_and(|transport| transport != LOCAL_TRANSPORT)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_host_is_told_by_the_uri() {
        for local in
            ["qemu:///session", "qemu:///system", "qemu+unix:///system?socket=/run/s", "test:///default", "alias"]
        {
            assert!(!Target::new(local).is_remote(), "{local}");
        }
        for remote in [
            "qemu+ssh://root@far.example/system",
            "qemu://far.example/system",
            "qemu+tls:///system",
            "qemu+tcp://h:1/s",
        ] {
            assert!(Target::new(remote).is_remote(), "{remote}");
        }
    }
}
