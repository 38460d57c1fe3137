//! Whose certificates count.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::certificate;

/// Where systems keep the certificates that all the world trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Certificates that a server's has to lead to.
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    /// They were known by their digest before they were fetched, so that they count whatever the clock says.
    pinned: bool,
    /// As PEM, for whoever has to keep them.
    pem: Option<String>,
}

impl Trust {
    /// The system's certificates; none at all where it has none, so that no server is believed.
    pub fn of_system() -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(SYSTEM).into_iter().flatten().flatten() {
            // One that cannot be used is not needed.
            let _ = roots.add(certificate);
        }
        Self { roots: Arc::new(roots), pinned: false, pem: None }
    }

    /// One CA, as PEM or DER. With `pin` (hexadecimal SHA-256 of the DER) it has to be that one.
    pub fn of_ca(bytes: &[u8], pin: Option<&str>) -> Result<Self, String> {
        let certificate = match CertificateDer::from_pem_slice(bytes) {
            Ok(certificate) => certificate,
            Err(_) => CertificateDer::from(bytes.to_vec()),
        };
        if let Some(pin) = pin {
            let found = sha256_hex(&certificate);
            if !found.eq_ignore_ascii_case(pin) {
                return Err(format!("its SHA-256 is {found}, and {pin} was asked for"));
            }
        }
        let pem = pem(&certificate);
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|error| format!("it is no certificate that can be used: {error}"))?;
        Ok(Self { roots: Arc::new(roots), pinned: pin.is_some(), pem: Some(pem) })
    }

    /// A CA that was found right before, and kept where root alone can write: as good as a pin.
    pub fn of_kept_ca(pem: &str) -> Result<Self, String> {
        Ok(Self { pinned: true, ..Self::of_ca(pem.as_bytes(), None)? })
    }

    pub fn pem(&self) -> Option<&str> {
        self.pem.as_deref()
    }

    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// The certificate has to be valid now.
    pub(super) fn strict(&self) -> Result<ClientConfig, Error> {
        Ok(builder()?.with_root_certificates(self.roots.clone()).with_no_client_auth())
    }

    /// The certificate has to be good but for the time: for asking a server what time it is.
    pub(super) fn at_any_time(&self) -> Result<ClientConfig, Error> {
        let inner = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verifier = Arc::new(AtAnyTime(inner));
        Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }
}

/// Whether a connection failed for the time alone.
pub(super) fn is_about_time(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        inner,
        Some(Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ))
    )
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

/// Lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pem(certificate: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in certificate.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize];
            encoded.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// Checks everything, at a time that the certificates themselves give: when the last of them began to be valid.
#[derive(Debug)]
struct AtAnyTime(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AtAnyTime {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = intermediates.iter().chain([end_entity]);
        let begin = chain.filter_map(|certificate| certificate::valid_from(certificate)).max();
        let begin = begin.and_then(|begin| u64::try_from(begin).ok()).ok_or(CertificateError::BadEncoding)?;
        let then = UnixTime::since_unix_epoch(Duration::from_secs(begin + 1));
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, then)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_written_as_pem_reads_back() {
        for bytes in [&b"x"[..], b"xy", b"xyz", &[0xff; 100]] {
            assert_eq!(CertificateDer::from_pem_slice(pem(bytes).as_bytes()).unwrap().as_ref(), bytes);
        }
    }

    #[test]
    fn another_ca_than_the_pinned_one_is_refused() {
        let error = Trust::of_ca(b"not a certificate", Some("00")).err().unwrap();
        assert!(error.contains("00 was asked for"), "{error}");
        assert!(Trust::of_ca(b"not a certificate", None).err().unwrap().contains("no certificate"));
    }
}
