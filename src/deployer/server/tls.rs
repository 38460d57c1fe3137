//! Certificates: given as files, or made by a private CA.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::deployer::configuration::TlsDocument;
use crate::deployer::state_folder::write_private;
use crate::error::{Context, Error, Result};
use crate::proof::{digest, write_atomic};

/// Certificates are good from so long before they are made: a machine's clock may be wrong by a year and more.
const YEARS_BEFORE: i64 = 2;
const YEARS_OF_CA: i64 = 10;
/// The server's own is made at each start.
const YEARS_OF_SERVER: i64 = 5;

/// What a private CA was made as.
#[derive(Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Of the certificate's DER, 64 hexadecimal digits: the pin in `bootproof.ca_cert_url=...#sha256=`.
    pub pin: String,
}

/// Makes a private CA: `ca.pem` and `ca.key`, which its owner alone can read.
///
/// # Errors
/// Usage: one of them is there already. Nothing is overwritten: machines that know the old one would be lost.
pub fn make_ca(folder: &Path, name: &str) -> Result<TlsFiles> {
    let said = || format!("failed to make a CA in `{}`", folder.display());
    let files = [folder.join("ca.pem"), folder.join("ca.key")];
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(Error::usage(said())
            .with_source(format!("`{}` is there already", there.display()))
            .hint("machines that know the old one would not know the new one; name another folder"));
    }
    fs::create_dir_all(folder).infrastructure(said)?;
    let key = KeyPair::generate().infrastructure(said)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_for(&mut parameters, YEARS_OF_CA);
    let certificate = parameters.self_signed(&key).infrastructure(said)?;
    let [certificate_file, key_file] = files;
    write_private(&key_file, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())?;
    write_atomic(&certificate_file, certificate.pem().as_bytes())?;
    Ok(TlsFiles { certificate: certificate_file, key: key_file, pin: digest::of_bytes(certificate.der()) })
}

fn good_for(parameters: &mut CertificateParams, years: i64) {
    let now = jiff::Timestamp::now().as_second();
    let year = 365 * 24 * 3600;
    let date = |seconds: i64| {
        let timestamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = timestamp.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month() as u8, date.day() as u8)
    };
    parameters.not_before = date(now - YEARS_BEFORE * year);
    parameters.not_after = date(now + years * year);
}

/// What a server speaks TLS with.
///
/// # Errors
/// Usage: files that are missing, or are not what they should be, by their key of the configuration.
pub fn tls_configuration(document: &TlsDocument) -> Result<Arc<ServerConfig>> {
    let (chain, key) = match (&document.certificate, &document.key) {
        (Some(certificate), Some(key)) => (
            certificates("tls.certificate", certificate)?,
            PrivateKeyDer::from_pem_file(key).usage(|| failed("tls.key", key))?,
        ),
        _ => own_certificate(document)?,
    };
    let provider = Arc::new(ring::default_provider());
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .usage(|| "failed to use the deployer's certificate with its key".into())?;
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(configuration))
}

fn failed(key: &str, path: &Path) -> String {
    format!("failed to read the deployer's `{key}`: `{}`", path.display())
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).usage(|| failed(key, path))?;
    if certificates.is_empty() {
        return Err(Error::usage(failed(key, path)).with_source("it holds no certificate"));
    }
    Ok(certificates)
}

/// Made by the CA for the names under which machines come.
fn own_certificate(document: &TlsDocument) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let said = || "failed to make the deployer's certificate".to_owned();
    let ca_key =
        document.ca_key.as_deref().ok_or_else(|| Error::usage(said()).with_source("`tls.ca_key` is missing"))?;
    let pem = zeroize::Zeroizing::new(fs::read_to_string(ca_key).usage(|| failed("tls.ca_key", ca_key))?);
    let signer = KeyPair::from_pem(&pem).usage(|| failed("tls.ca_key", ca_key))?;
    let authority = certificates("tls.ca", &document.ca)?.swap_remove(0);
    let issuer = Issuer::from_ca_cert_der(&authority, signer).usage(|| failed("tls.ca", &document.ca))?;
    let mut parameters = CertificateParams::new(document.names.clone()).usage(|| {
        format!("failed to take the deployer's configuration: `tls.names` is `{}`", document.names.join("`, `"))
    })?;
    let named = document.names.iter().find(|name| name.parse::<IpAddr>().is_err()).or(document.names.first());
    parameters.distinguished_name.push(DnType::CommonName, named.map_or("bootproof deployer", String::as_str));
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    good_for(&mut parameters, YEARS_OF_SERVER);
    let key = KeyPair::generate().infrastructure(said)?;
    let certificate = parameters.signed_by(&key, &issuer).infrastructure(said)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).infrastructure(said)?;
    Ok((vec![certificate.der().clone(), authority], private))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::client::WebPkiServerVerifier;
    use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
    use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn a_machine_whose_clock_is_wrong_by_a_year_can_verify_it_for_its_names_alone() {
        let folder = tempfile::tempdir().unwrap();
        let made = make_ca(folder.path(), "a CA").unwrap();
        let names = vec!["deployer.example".to_owned(), "10.0.2.2".to_owned()];
        let document = TlsDocument { ca: made.certificate, ca_key: Some(made.key), names, ..TlsDocument::default() };
        let (chain, _) = own_certificate(&document).unwrap();
        assert_eq!(digest::of_bytes(&chain[1]), made.pin);
        let mut roots = RootCertStore::empty();
        roots.add(chain[1].clone()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
        let verifier = verifier.build().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let year = Duration::from_secs(366 * 24 * 3600);
        let verified = |name: &'static str, at: Duration| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(&chain[0], &[], &name, &[], UnixTime::since_unix_epoch(at)).is_ok()
        };
        for name in ["deployer.example", "10.0.2.2"] {
            for at in [now - year, now, now + year] {
                assert!(verified(name, at), "{name}");
            }
        }
        assert!(!verified("10.0.2.3", now) && !verified("other.example", now));
        assert!(!verified("10.0.2.2", now + 6 * year) && !verified("10.0.2.2", now - 3 * year));
    }
}
