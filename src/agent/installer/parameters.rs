//! What the installer is told: kernel parameters, whose values may be references.
//!
//! `@fw_cfg:<name>` is a file that QEMU hands over; `@smbios` is an OEM string of the firmware's tables that begins with
//! the parameter's own name and `=`. So a secret need not stand on the kernel's command line, which everybody can read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::agent::deployer::Token;
use crate::agent::http::Url;
use crate::agent::kernel_parameters::KernelParameters;

const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name";
const DMI_ENTRIES: &str = "/sys/firmware/dmi/entries";
const DMI_VENDOR: &str = "/sys/class/dmi/id/sys_vendor";
/// The host as QEMU's user network has it, and a deployer's usual port.
const QEMU_HOST: &str = "http://10.0.2.2:8080";
/// SMBIOS's type of OEM strings.
const OEM_STRINGS: u8 = 11;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub deployer: Url,
    /// As it was given.
    pub deployer_text: String,
    pub bootstrap_token: Option<Token>,
    pub ca_certificate: Option<Url>,
    pub binary_cache: Option<String>,
    pub node_id: Option<String>,
    pub hostname: Option<String>,
    /// `bootproof.on_failure=poweroff`: the machine goes off when it was refused or has failed.
    pub off_on_failure: bool,
    /// What the installed system is told too: its consoles, and how its markers look.
    pub inherited: Vec<String>,
}

impl Parameters {
    /// `None` where there is nothing to install from. What is wrong otherwise.
    pub fn read(parameters: &KernelParameters) -> Option<Result<Self, String>> {
        let look_up = |name: &str, reference: &str| look_up(name, reference, Path::new(FW_CFG), Path::new(DMI_ENTRIES));
        Self::read_with(parameters, &look_up, &|| is_qemu(Path::new(DMI_VENDOR)))
    }

    fn read_with(
        parameters: &KernelParameters,
        look_up: &dyn Fn(&str, &str) -> Result<String, String>,
        is_qemu: &dyn Fn() -> bool,
    ) -> Option<Result<Self, String>> {
        // Nothing is installed unasked: the fallback is for who has named the parameter and given it no value.
        parameters.value("bootproof.deployer_url")?;
        Some(Self::resolve(parameters, look_up, is_qemu))
    }

    fn resolve(
        parameters: &KernelParameters,
        look_up: &dyn Fn(&str, &str) -> Result<String, String>,
        is_qemu: &dyn Fn() -> bool,
    ) -> Result<Self, String> {
        let value = |name: &str| -> Result<Option<String>, String> {
            let value = match parameters.value(name) {
                None | Some("") => return Ok(None),
                Some(reference) if reference.starts_with('@') => look_up(name, reference)
                    .map_err(|reason| format!("failed to look up `{name}` in `{reference}`: {reason}"))?,
                Some(plain) => plain.to_owned(),
            };
            Ok(Some(value.trim_end_matches(['\n', '\r', '\0']).to_owned()).filter(|value| !value.is_empty()))
        };
        let url =
            |name: &str, text: &str| Url::parse(text).map_err(|reason| format!("failed to read `{name}`: {reason}"));
        let deployer_text = match value("bootproof.deployer_url")? {
            Some(text) => text,
            None if is_qemu() => QEMU_HOST.to_owned(),
            None => return Err("`bootproof.deployer_url` is empty: nobody knows where to ask".into()),
        };
        let inherited = ["console", "bootproof.marker_prefix"];
        let inherited = inherited
            .iter()
            .flat_map(|name| parameters.values(name).map(move |value| format!("{name}={value}")).collect::<Vec<_>>());
        Ok(Self {
            deployer: url("bootproof.deployer_url", &deployer_text)?,
            deployer_text,
            bootstrap_token: value("bootproof.bootstrap_token")?.map(Token::new),
            ca_certificate: value("bootproof.ca_cert_url")?
                .map(|text| url("bootproof.ca_cert_url", &text))
                .transpose()?,
            binary_cache: value("bootproof.binary_cache_url")?,
            node_id: value("bootproof.node_id")?,
            hostname: value("bootproof.hostname")?,
            off_on_failure: parameters.value("bootproof.on_failure") == Some("poweroff"),
            inherited: inherited.collect(),
        })
    }
}

fn is_qemu(vendor: &Path) -> bool {
    fs::read_to_string(vendor).is_ok_and(|vendor| vendor.trim() == "QEMU")
}

fn look_up(name: &str, reference: &str, fw_cfg: &Path, dmi: &Path) -> Result<String, String> {
    if let Some(file) = reference.strip_prefix("@fw_cfg:") {
        if file.split('/').any(|part| part == "..") {
            return Err("this is no file's name".into());
        }
        let path = fw_cfg.join(file).join("raw");
        return fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()));
    }
    if reference == "@smbios" {
        let prefix = format!("{name}=");
        return oem_strings(dmi)
            .into_iter()
            .find_map(|text| text.strip_prefix(&prefix).map(str::to_owned))
            .ok_or_else(|| format!("no OEM string begins with `{prefix}`"));
    }
    Err("a reference is `@fw_cfg:NAME` or `@smbios`".into())
}

/// All OEM strings. An entry's raw bytes are its fixed part, whose length is its second byte, and strings that each end in
/// a zero.
fn oem_strings(entries: &Path) -> Vec<String> {
    let prefix = format!("{OEM_STRINGS}-");
    let folders: Vec<PathBuf> = fs::read_dir(entries)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    folders
        .iter()
        .filter_map(|folder| fs::read(folder.join("raw")).ok())
        .flat_map(|raw| {
            let fixed = raw.get(1).map_or(0, |length| usize::from(*length));
            let texts = raw.get(fixed..).unwrap_or_default().split(|byte| *byte == 0);
            texts
                .filter(|text| !text.is_empty())
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Result<Parameters, String>> {
        read_on(line, false)
    }

    fn read_on(line: &str, qemu: bool) -> Option<Result<Parameters, String>> {
        let look_up = |name: &str, reference: &str| match reference {
            "@fw_cfg:opt/token" => Ok("hunter2\n".into()),
            "@smbios" => Ok("\n".into()),
            other => Err(format!("{name} {other}")),
        };
        Parameters::read_with(&KernelParameters::parse(line), &look_up, &|| qemu)
    }

    #[test]
    fn who_asks_in_qemu_and_says_nothing_more_means_its_host_and_nobody_else_does() {
        for asked in ["bootproof.deployer_url=", "bootproof.deployer_url=@smbios"] {
            let parameters = read_on(asked, true).unwrap().unwrap();
            assert_eq!(parameters.deployer_text, "http://10.0.2.2:8080", "{asked}");
            assert!(read_on(asked, false).unwrap().is_err(), "{asked}");
        }
        for unasked in ["quiet bootproof.node=a", "bootproof.deployer_url", ""] {
            assert!(read_on(unasked, true).is_none(), "nothing is installed unasked: {unasked}");
        }
        assert!(read_on("bootproof.deployer_url=ftp://x", true).unwrap().is_err(), "what is wrong is not mended");
        let folder = tempfile::tempdir().unwrap();
        let vendor = folder.path().join("sys_vendor");
        assert!(!is_qemu(&vendor));
        for (text, expected) in [("QEMU\n", true), ("Dell Inc.\n", false)] {
            fs::write(&vendor, text).unwrap();
            assert_eq!(is_qemu(&vendor), expected, "{text}");
        }
    }

    #[test]
    fn without_a_deployer_there_is_nothing_to_do_and_nonsense_is_told() {
        assert!(read("bootproof.node=a").is_none());
        assert!(read("bootproof.deployer_url=").unwrap().is_err());
        assert!(read("bootproof.deployer_url=ftp://x").unwrap().is_err());
        let error = read("bootproof.deployer_url=http://x bootproof.bootstrap_token=@nowhere").unwrap().unwrap_err();
        assert!(error.contains("bootproof.bootstrap_token"), "{error}");
    }

    #[test]
    fn references_are_looked_up_and_secrets_are_not_printed() {
        let line = "console=tty0 console=ttyS0,115200 bootproof.deployer_url=http://10.0.2.2:8080 \
                    bootproof.bootstrap_token=@fw_cfg:opt/token bootproof.marker_prefix=X bootproof.hostname=a";
        let parameters = read(line).unwrap().unwrap();
        assert_eq!(parameters.bootstrap_token.as_ref().unwrap().expose(), "hunter2");
        assert!(!format!("{parameters:?}").contains("hunter2"));
        assert_eq!(parameters.inherited, ["console=tty0", "console=ttyS0,115200", "bootproof.marker_prefix=X"]);
        assert_eq!(parameters.hostname.as_deref(), Some("a"));
    }

    #[test]
    fn files_and_strings_of_the_firmware_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (fw_cfg, dmi) = (folder.path().join("fw"), folder.path().join("dmi"));
        fs::create_dir_all(fw_cfg.join("opt/org.bootproof/token")).unwrap();
        fs::write(fw_cfg.join("opt/org.bootproof/token/raw"), "one").unwrap();
        fs::create_dir_all(dmi.join("11-0")).unwrap();
        fs::write(dmi.join("11-0/raw"), b"\x0b\x05\x00\x0e\x02first words\0bootproof.x=two\0\0").unwrap();
        let find = |name: &str, reference: &str| look_up(name, reference, &fw_cfg, &dmi);
        assert_eq!(find("bootproof.x", "@fw_cfg:opt/org.bootproof/token").unwrap(), "one");
        assert_eq!(find("bootproof.x", "@smbios").unwrap(), "two");
        assert!(find("bootproof.y", "@smbios").is_err());
        assert!(find("bootproof.x", "@fw_cfg:../../etc/passwd").is_err());
    }
}
