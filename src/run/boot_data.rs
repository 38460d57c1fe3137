//! What a machine that boots a medium is told: kernel parameters in its firmware's tables, secrets in files beside them.
//!
//! What always holds: a secret's value stands in a file of the run's own, which nobody else may read and which ends with
//! the run; everything else (command line, tables, plan, log) holds where to find it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Context, Result};
use crate::machine::qemu::Identity;
use crate::secret::{Placeholder, Secrets, placeholders};

/// The longest name that a file of QEMU's firmware configuration may have, in bytes.
const NAME_LIMIT: usize = 55;

/// Writes the files into `folder`, and says in `identity` where they are.
///
/// # Errors
/// Usage: a reference to a secret that the lane does not have. Infrastructure: the files cannot be written.
pub fn leave(parameters: &[String], secrets: &Secrets, folder: &Path, identity: &mut Identity) -> Result<()> {
    let mut words = Vec::new();
    for parameter in parameters {
        let mut word = parameter.clone();
        for placeholder in placeholders(parameter) {
            let Placeholder::Named(secret) = placeholder else { continue };
            let name = configuration_name(secret);
            word = word.replace(&format!("${{secret:{secret}}}"), &format!("@fw_cfg:{name}"));
            if !identity.secrets.iter().any(|(known, _)| *known == name) {
                let value = secrets.fill(&format!("${{secret:{secret}}}"))?;
                let file = write(folder, &format!("secret-{}", identity.secrets.len()), value.as_bytes())?;
                identity.secrets.push((name, file));
            }
        }
        words.push(word);
    }
    identity.oem_string = Some(write(folder, "kernel-parameters", words.join(" ").as_bytes())?);
    Ok(())
}

fn configuration_name(secret: &str) -> String {
    let name = format!("opt/org.bootproof/{secret}");
    if name.len() <= NAME_LIMIT {
        return name;
    }
    let digest: String = Sha256::digest(secret).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("opt/org.bootproof/{digest}")
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(content))
        .infrastructure(|| format!("failed to write `{}`", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::lane::model::SecretSource;

    #[test]
    fn a_secret_goes_into_a_file_of_its_own_and_the_parameters_say_where() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::write(&source, "hunter2-and-more").unwrap();
        let long = "x".repeat(60);
        let sources = BTreeMap::from(
            ["token", long.as_str()].map(|name| (name.into(), SecretSource::File { path: source.clone() })),
        );
        let secrets = Secrets::resolve(&sources, folder.path()).unwrap();
        let mut identity = Identity::default();
        let parameters =
            ["a=b".into(), "bootproof.bootstrap_token=${secret:token}".into(), format!("c=${{secret:{long}}}")];
        leave(&parameters, &secrets, folder.path(), &mut identity).unwrap();
        let line = std::fs::read_to_string(identity.oem_string.unwrap()).unwrap();
        assert!(
            line.starts_with("a=b bootproof.bootstrap_token=@fw_cfg:opt/org.bootproof/token c=@fw_cfg:opt/"),
            "{line}"
        );
        assert!(!line.contains("hunter2"));
        assert_eq!(identity.secrets.len(), 2);
        for (name, file) in identity.secrets {
            assert!(name.len() <= NAME_LIMIT);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "hunter2-and-more");
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
