//! Connecting, asking, and putting the clock right where a certificate depends on it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_settime};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::trust::{Trust, is_about_time};
use super::{Response, Url, date};

const CONNECT_BOUND: Duration = Duration::from_secs(10);

/// One request.
pub struct Request<'a> {
    pub method: &'a str,
    pub url: &'a Url,
    pub bearer: Option<&'a str>,
    /// JSON.
    pub body: Option<&'a [u8]>,
    /// Only what comes from this byte on.
    pub from: Option<u64>,
    /// How long the server may be silent.
    pub patience: Duration,
}

impl<'a> Request<'a> {
    pub fn get(url: &'a Url) -> Self {
        Self { method: "GET", url, bearer: None, body: None, from: None, patience: Duration::from_secs(30) }
    }
}

/// Why there is no answer. Never holds anything of the request.
#[derive(Debug)]
pub struct Failure(pub String);

/// Asks servers, and knows whom to believe.
pub struct Client {
    trust: Trust,
    /// What happens beside the requests is told here.
    say: fn(&str),
}

impl Client {
    pub fn new(trust: Trust, say: fn(&str)) -> Self {
        Self { trust, say }
    }

    /// Sends the request, and reads the answer's head. A clock that is so wrong that the server's certificate seems not to be
    /// valid is set by the server's own word, if its CA was pinned; the request is then sent anew, with the usual rigour.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let strict = |error: rustls::Error| Failure(format!("failed to prepare TLS: {error}"));
        match self.attempt(request, || self.trust.strict().map_err(strict)) {
            Err(error) if is_about_time(&error) && self.trust.is_pinned() => {
                self.set_clock(request.url)?;
                self.attempt(request, || self.trust.strict().map_err(strict))
                    .map_err(|error| explain(request.url, &error))
            }
            Err(error) => Err(explain(request.url, &error)),
            Ok(response) => Ok(response),
        }
    }

    /// Takes the time from a server whose certificate is good but for the time. Nothing secret is sent.
    fn set_clock(&self, url: &Url) -> Result<(), Failure> {
        let root = Url { path: "/".into(), ..url.clone() };
        let prepare = || self.trust.at_any_time().map_err(|error| Failure(format!("failed to prepare TLS: {error}")));
        let response = self
            .attempt(&Request { method: "HEAD", ..Request::get(&root) }, prepare)
            .map_err(|error| explain(url, &error))?;
        let now = response
            .header("date")
            .and_then(date::of_header)
            .ok_or_else(|| Failure("the deployer does not say what time it is".into()))?;
        clock_settime(ClockId::Realtime, Timespec { tv_sec: now, tv_nsec: 0 })
            .map_err(|error| Failure(format!("failed to set the clock: {error}")))?;
        (self.say)("the clock was so wrong that the deployer's certificate was not valid: set by the deployer's");
        Ok(())
    }

    fn attempt(
        &self,
        request: &Request<'_>,
        configuration: impl FnOnce() -> Result<ClientConfig, Failure>,
    ) -> io::Result<Response> {
        let url = request.url;
        let stream = connect(url, request.patience)?;
        if !url.tls {
            return exchange(stream, request);
        }
        let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
        let configuration = configuration().map_err(|failure| io::Error::other(failure.0))?;
        let connection = ClientConnection::new(Arc::new(configuration), name).map_err(io::Error::other)?;
        exchange(StreamOwned::new(connection, stream), request)
    }
}

/// Tries each of the host's addresses.
fn connect(url: &Url, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (url.host.as_str(), url.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_BOUND) {
            Ok(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(CONNECT_BOUND))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange<S: Read + Write + Send + 'static>(mut stream: S, request: &Request<'_>) -> io::Result<Response> {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bootproof-agent/{}\r\nConnection: close\r\n",
        request.method,
        request.url.path,
        request.url.authority(),
        env!("CARGO_PKG_VERSION")
    );
    if let Some(bearer) = request.bearer {
        if !bearer.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the token is not plain ASCII"));
        }
        text.push_str(&format!("Authorization: Bearer {bearer}\r\n"));
    }
    if let Some(from) = request.from.filter(|from| *from > 0) {
        text.push_str(&format!("Range: bytes={from}-\r\n"));
    }
    if let Some(body) = request.body {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(request.body.unwrap_or_default());
    stream.write_all(&bytes)?;
    stream.flush()?;
    Response::read(stream)
}

fn explain(url: &Url, error: &io::Error) -> Failure {
    let clock = if is_about_time(error) {
        " (is this machine's clock right? With `#sha256=...` behind `bootproof.ca_cert_url` it would be set)"
    } else {
        ""
    };
    Failure(format!("{}: {}{clock}", url.authority(), reason(error)))
}

/// Why nothing more comes, in words for people.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection ended early".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_connection_is_told_in_words() {
        assert_eq!(reason(&io::Error::from_raw_os_error(11)), "no answer in time");
        let early = io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending close_notify");
        assert_eq!(reason(&early), "the connection ended early");
    }
}
