//! Addresses of the deployer.

/// `http://` or `https://`, host, port, path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Begins with a slash; with the query, without a fragment.
    pub path: String,
    pub fragment: Option<String>,
}

impl Url {
    /// What is wrong with it, where it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("`{text}` {what}");
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(wrong("begins with neither `http://` nor `https://`")),
        };
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment.to_owned())),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, "/"),
        };
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.contains('@') || !plain(authority) || !plain(path) {
            return Err(wrong("is no plain address"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("has a `[` that nothing ends"))?;
                (host, rest.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("has no port behind its colon"))?,
            None if tls => 443,
            None => 80,
        };
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        Ok(Self { tls, host: host.into(), port, path: path.into(), fragment })
    }

    /// The same server's address of another path.
    pub fn with_path(&self, path: &str) -> Self {
        Self { path: format!("{}{path}", self.path.trim_end_matches('/')), fragment: None, ..self.clone() }
    }

    /// As the header `Host` has it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url = Url::parse("https://10.0.2.2:8443/base/#sha256=ab").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port, url.path.as_str()), (true, "10.0.2.2", 8443, "/base/"));
        assert_eq!(url.fragment.as_deref(), Some("sha256=ab"));
        assert_eq!(url.with_path("/api/v1/x").path, "/base/api/v1/x");
        assert_eq!(url.authority(), "10.0.2.2:8443");
        let url = Url::parse("http://[fd00::1]").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.authority().as_str()), ("fd00::1", 80, "[fd00::1]"));
        for wrong in ["ftp://x", "http://", "http://user:pass@host/", "http://a:b", "http://a b/", "http://[::1"] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }
}
