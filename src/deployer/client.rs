//! Asking a deployer: for the command, and for lanes that have none of their own.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::{Context, Error, Result};
use crate::provisioning::Problem;
use crate::secret::Secret;

/// Bytes of an answer.
const LARGEST: usize = 64 << 20;

/// One deployer, and what to show to it.
pub struct Client {
    base: Uri,
    tls: Option<TlsConnector>,
    bearer: Option<Secret>,
}

/// What came back, whatever the status.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<()>,
    pub body: Bytes,
}

impl Client {
    /// `url`: `http://` or `https://`, host and port. `ca`: PEM; needed for `https`.
    ///
    /// # Errors
    /// Usage: what is no such URL, and a CA that cannot be read.
    pub fn new(url: &str, ca: Option<&Path>, bearer: Option<Secret>) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("`{url}` is not a deployer's URL")).with_source(why.to_owned());
        let base: Uri = url.parse().map_err(|_| wrong("write it like `https://deployer.example:8443`"))?;
        if base.host().is_none() || !matches!(base.path(), "" | "/") || base.query().is_some() {
            return Err(wrong("it has a scheme, a host and a port, and nothing else"));
        }
        let tls = match base.scheme_str() {
            Some("http") => None,
            Some("https") => Some(connector(ca)?),
            _ => return Err(wrong("its scheme is `http` or `https`")),
        };
        Ok(Self { base, tls, bearer })
    }

    /// Sends a request and takes the whole answer.
    ///
    /// # Errors
    /// Infrastructure: the deployer cannot be reached, or the connection breaks.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer> {
        let said = || format!("failed to ask the deployer at `{}`", self.base);
        let host = self.base.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.base.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.infrastructure(said).map_err(|error| {
            error.hint("`--url` or `BOOTPROOF_DEPLOYER_URL` says where it is; `bootproof deployer serve` starts one")
        })?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.base.authority().map_or("", |authority| authority.as_str()));
        if let Some(bearer) = &self.bearer {
            let mut value = hyper::header::HeaderValue::from_str(&format!("Bearer {}", bearer.expose()))
                .usage(|| "the token cannot stand in a header".into())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).usage(said)?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).usage(said)?;
                exchange(tls.connect(name, stream).await.infrastructure(said)?, request).await
            }
        }
        .map_err(|error| Error::infrastructure(said()).with_source(error))
    }

    /// Sends JSON and understands the answer.
    ///
    /// # Errors
    /// As [`send`](Self::send). Usage: the deployer refuses; its own words are the cause.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        question: Option<&Q>,
    ) -> Result<A> {
        let body = match question {
            Some(question) => serde_json::to_vec(question).infrastructure(|| "failed to write a request".into())?,
            None => Vec::new(),
        };
        let answer = self.send(method, path, headers, body).await?;
        if !answer.response.status().is_success() {
            return Err(answer.refusal());
        }
        // Nothing is an answer too.
        let body: &[u8] = if answer.body.is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(body).infrastructure(|| "failed to understand the deployer's answer".into())
    }
}

impl Answer {
    /// The deployer's own words, as an error.
    pub fn refusal(&self) -> Error {
        let status = self.response.status();
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => {
                let cause = problem.detail.unwrap_or_else(|| format!("status {status}"));
                Error::usage(format!("the deployer refuses: {} (`{}`)", problem.title, problem.code)).with_source(cause)
            }
            Err(_) => Error::infrastructure(format!("the deployer answered with the status {status}")),
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> std::result::Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
    connection.abort();
    Ok(Answer { response: Response::from_parts(parts, ()), body })
}

fn connector(ca: Option<&Path>) -> Result<TlsConnector> {
    let ca = ca.ok_or_else(|| {
        Error::usage("a deployer's certificate cannot be verified without its CA")
            .hint("`--ca` or `BOOTPROOF_DEPLOYER_CA` names the file")
    })?;
    let said = || format!("failed to read the CA `{}`", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).usage(said)? {
        roots.add(certificate.usage(said)?).usage(said)?;
    }
    if roots.is_empty() {
        return Err(Error::usage(said()).with_source("it holds no certificate"));
    }
    let configuration = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .infrastructure(said)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(configuration)))
}
