//! What an installed system knows of its deployer; and how one that no installer has written that for gets to know it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::journal::write_durably;
use crate::agent::configuration::{AgentConfiguration, CONFIGURATION};
use crate::agent::deployer::{Deployer, Refusal, Token};
use crate::agent::http::Client;
use crate::agent::installer::parameters::Parameters;
use crate::agent::installer::{machine, trust};
use crate::agent::kernel_parameters::KernelParameters;
use crate::agent::say;
use crate::provisioning::{PhoneHome, Stage, VERSION};

const KNOWN_VERSION: u32 = 1;

/// Why a machine is without a configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum Unconfigured {
    /// The deployer does not take it in, and says the same when it is asked again.
    Refused(Refusal),
    Failed(String),
}

impl From<String> for Unconfigured {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// What is written; else what the deployer that the kernel's command line names says.
pub fn configuration() -> Result<AgentConfiguration, Unconfigured> {
    match read(Path::new(CONFIGURATION))? {
        Some(configuration) => Ok(configuration),
        None => enrol(),
    }
}

fn read(path: &Path) -> Result<Option<AgentConfiguration>, String> {
    let failed = |reason: &dyn std::fmt::Display| format!("failed to read `{}`: {reason}", path.display());
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    // Its values are secrets, and serde's errors may hold them: where it is wrong has to do.
    let configuration: AgentConfiguration = serde_json::from_slice(&bytes)
        .map_err(|error| failed(&format!("line {}, column {} is wrong", error.line(), error.column())))?;
    if configuration.version != KNOWN_VERSION {
        return Err(failed(&format!("its version is {}", configuration.version)));
    }
    Ok(Some(configuration))
}

/// Phones home as a machine that has its system already, for as long as it takes.
fn enrol() -> Result<AgentConfiguration, Unconfigured> {
    let parameters = Parameters::read(&KernelParameters::read()).ok_or_else(|| {
        format!(
            "there is no `{CONFIGURATION}`, and the kernel has no `bootproof.deployer_url`: nobody says what to run"
        )
    })??;
    let root = Path::new("/");
    let trust = trust(&parameters)?;
    let ca_certificate = trust.pem().map(str::to_owned);
    let deployer = Deployer { client: Client::new(trust, say), url: parameters.deployer.clone(), say };
    let message = PhoneHome {
        version: VERSION,
        identity: machine::identity(root, parameters.node_id.clone()),
        stage: Stage::Installed,
        firmware: machine::firmware(root),
        hostname: parameters.hostname.clone(),
        // They are nobody's business: nothing is installed.
        disks: Vec::new(),
        memory: machine::memory(root).0,
        agent_version: env!("CARGO_PKG_VERSION").into(),
    };
    let (node, assignment) =
        deployer.phone_home(&message, parameters.bootstrap_token.as_ref()).map_err(Unconfigured::Refused)?;
    let configuration = AgentConfiguration {
        version: KNOWN_VERSION,
        deployer_url: parameters.deployer_text.clone(),
        ca_certificate,
        credential: assignment.credential,
        node,
        binary_cache: assignment.plan.binary_cache.or(parameters.binary_cache),
    };
    write(Path::new(CONFIGURATION), &configuration)?;
    Ok(configuration)
}

fn write(path: &Path, configuration: &AgentConfiguration) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        fs::create_dir_all(folder)
            .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
            .map_err(|error| format!("failed to make `{}`: {error}", folder.display()))?;
    }
    let text = serde_json::to_vec_pretty(configuration).map_err(|error| error.to_string())?;
    write_durably(path, &text)
}

/// For requests after that.
pub fn credential(configuration: &AgentConfiguration) -> Token {
    Token::new(configuration.credential.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_for_root_alone_and_no_error_tells_the_credential() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etc/bootproof/agent.json");
        assert_eq!(read(&path), Ok(None));
        let configuration = AgentConfiguration {
            version: 1,
            deployer_url: "http://10.0.2.2".into(),
            ca_certificate: None,
            credential: "hunter2".into(),
            node: "node01".into(),
            binary_cache: None,
        };
        write(&path, &configuration).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path), Ok(Some(configuration)));
        fs::write(&path, r#"{"version": 1, "credential": 1, "node": "hunter2"}"#).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }
}
