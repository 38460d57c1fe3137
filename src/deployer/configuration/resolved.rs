//! The document with everything that it names found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::ClusterState;
use super::document::{ClassDocument, ConfigurationDocument, MatchDocument, SystemDocument, TlsDocument};
use crate::deployer::bundle::Bundles;
use crate::deployer::identity::normalised_mac;
use crate::error::{Context, Error, Result};
use crate::provisioning::{
    DesiredSystem, DesiredTarget, DiskLayout, DiskSelector, HealthCheck, Identity, InstallMethod, Partition,
};

/// A deployer's configuration, checked, with its bundles.
#[derive(Debug)]
pub struct Configuration {
    pub default_class: Option<String>,
    pub allow_unauthenticated: bool,
    pub binary_cache: Option<String>,
    pub token_lifetime: Duration,
    pub tokens_reusable: bool,
    pub tls: Option<TlsDocument>,
    pub classes: BTreeMap<String, Class>,
    pub systems: BTreeMap<String, DesiredSystem>,
    pub nodes: BTreeMap<String, ConfiguredNode>,
    pub netboot: Option<Netboot>,
    pub bundles: Bundles,
}

#[derive(Debug)]
pub struct Class {
    pub method: InstallMethod,
    pub disk: DiskSelector,
    pub wipe: bool,
    pub layout: DiskLayout,
    pub hostname: String,
    pub kernel_parameters: Vec<String>,
    pub files: BTreeMap<String, String>,
    pub desired_system: Option<String>,
}

#[derive(Debug)]
pub struct ConfiguredNode {
    pub class: String,
    /// Without `uuid`.
    pub identity: Identity,
    pub desired_system: Option<String>,
}

/// Files by the name that they are served under.
#[derive(Debug)]
pub struct Netboot {
    pub files: BTreeMap<String, PathBuf>,
    pub kernel: String,
    pub initrds: Vec<String>,
    pub parameters: Vec<String>,
}

impl Configuration {
    /// Reads a file and everything that it names: a configuration (TOML), or a cluster's state (`.json`), which holds one.
    /// `packed`: where folders are packed to.
    ///
    /// # Errors
    /// Usage: what is wrong, by key and value.
    pub fn load(path: &Path, packed: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .usage(|| format!("failed to read the deployer's configuration `{}`", path.display()))?;
        let document = match path.extension() {
            Some(extension) if extension == "json" => ClusterState::parse(&text, path)?.deployer,
            _ => ConfigurationDocument::parse(&text, path)?,
        };
        Self::resolve(&document, path.parent().unwrap_or(Path::new(".")), packed)
    }

    /// `base`: what paths are relative to.
    ///
    /// # Errors
    /// Usage: what is wrong, by key and value.
    pub fn resolve(document: &ConfigurationDocument, base: &Path, packed: &Path) -> Result<Self> {
        if document.version != 1 {
            return Err(wrong("version", document.version, "this program reads version 1"));
        }
        let mut bundles = Bundles::new(packed);
        let mut systems = BTreeMap::new();
        for (name, system) in &document.systems {
            let key = format!("systems.{name}");
            check_name(&key, name)?;
            systems.insert(name.clone(), desired_system(&key, name, system, base, &mut bundles)?);
        }
        let known_system = |key: String, system: &Option<String>| match system {
            Some(name) if !systems.contains_key(name) => {
                Err(wrong(&key, name, &format!("there is no such system; {}", there_are(systems.keys()))))
            }
            _ => Ok(system.clone()),
        };
        let mut classes = BTreeMap::new();
        for (name, class) in &document.classes {
            let key = format!("classes.{name}");
            check_name(&key, name)?;
            let desired_system = known_system(format!("{key}.desired_system"), &class.desired_system)?;
            classes.insert(name.clone(), resolve_class(&key, class, desired_system, base, &mut bundles)?);
        }
        let known_class = |key: String, class: &str| {
            if classes.contains_key(class) {
                return Ok(class.to_owned());
            }
            Err(wrong(&key, class, &format!("there is no such class; {}", there_are(classes.keys()))))
        };
        let default_class = match &document.default_class {
            Some(class) => Some(known_class("default_class".into(), class)?),
            None => None,
        };
        let mut nodes = BTreeMap::new();
        for (name, node) in &document.nodes {
            let key = format!("nodes.{name}");
            check_name(&key, name)?;
            let resolved = ConfiguredNode {
                class: known_class(format!("{key}.class"), &node.class)?,
                identity: matched(&format!("{key}.match"), name, &node.matches)?,
                desired_system: known_system(format!("{key}.desired_system"), &node.desired_system)?,
            };
            if let Some((other, _)) = nodes.iter().find(|(_, other): &(&String, &ConfiguredNode)| {
                let (a, b) = (&other.identity, &resolved.identity);
                (a.node_id.is_some() && a.node_id == b.node_id)
                    || (a.serial.is_some() && a.serial == b.serial)
                    || a.macs.iter().any(|mac| b.macs.contains(mac))
            }) {
                return Err(wrong(&format!("{key}.match"), "", &format!("`{other}` is recognised by the same")));
            }
            nodes.insert(name.clone(), resolved);
        }
        if document.tokens.lifetime.duration().is_zero() {
            return Err(wrong("tokens.lifetime", document.tokens.lifetime, "no token would ever be good"));
        }
        let netboot = match &document.netboot {
            Some(netboot) => Some(Netboot::resolve(netboot, base)?),
            None => None,
        };
        Ok(Self {
            default_class,
            allow_unauthenticated: document.allow_unauthenticated,
            binary_cache: document.binary_cache.clone(),
            token_lifetime: document.tokens.lifetime.duration(),
            tokens_reusable: document.tokens.reusable,
            tls: document.tls.as_ref().map(|tls| absolute_tls(tls, base)).transpose()?,
            classes,
            systems,
            nodes,
            netboot,
            bundles,
        })
    }
}

fn desired_system(
    key: &str,
    name: &str,
    document: &SystemDocument,
    base: &Path,
    bundles: &mut Bundles,
) -> Result<DesiredSystem> {
    let target = match (&document.bundle, &document.folder, &document.store_path) {
        (Some(file), None, None) => {
            DesiredTarget::Tree { bundle: bundles.add_file(&format!("{key}.bundle"), &base.join(file))? }
        }
        (None, Some(folder), None) => {
            DesiredTarget::Tree { bundle: bundles.add_folder(&format!("{key}.folder"), &base.join(folder))? }
        }
        (None, None, Some(path)) if path.starts_with("/nix/store/") => {
            DesiredTarget::Nixos { store_path: path.clone() }
        }
        (None, None, Some(path)) => {
            return Err(wrong(&format!("{key}.store_path"), path, "it is not below `/nix/store`"));
        }
        _ => {
            return Err(Error::usage(format!("`{key}` has to have one of `bundle`, `folder` and `store_path`"))
                .hint("a folder is packed by the deployer itself"));
        }
    };
    let check = &document.health_check;
    // Whole seconds, rounded up: a check is never given less than what is written.
    let within = check.within.duration().as_millis().div_ceil(1000) as u64;
    if within == 0 {
        return Err(wrong(&format!("{key}.health_check.within"), check.within, "nothing can be healthy in no time"));
    }
    Ok(DesiredSystem { name: name.into(), target, health_check: HealthCheck { argv: check.argv.clone(), within } })
}

fn resolve_class(
    key: &str,
    document: &ClassDocument,
    desired_system: Option<String>,
    base: &Path,
    bundles: &mut Bundles,
) -> Result<Class> {
    let method = match (&document.bundle, &document.configuration, &document.attribute) {
        (Some(file), None, None) => {
            InstallMethod::Tree { system: bundles.add_file(&format!("{key}.bundle"), &base.join(file))? }
        }
        (None, Some(flake), Some(attribute)) => {
            let (key, path) = (format!("{key}.configuration"), base.join(flake));
            let bundle =
                if path.is_dir() { bundles.add_folder(&key, &path)? } else { bundles.add_file(&key, &path)? };
            InstallMethod::Nixos { configuration: bundle, attribute: attribute.clone() }
        }
        (None, None, None) => InstallMethod::Existing {},
        _ => {
            return Err(Error::usage(format!(
                "`{key}` has to have either `bundle`, or `configuration` and `attribute`, or none of them"
            )));
        }
    };
    let disk = &document.disk;
    let installs = !matches!(method, InstallMethod::Existing {});
    let disk = DiskSelector {
        by_id: disk.by_id.clone(),
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        minimum_size: disk.minimum_size.map(|size| size.bytes()),
        maximum_size: disk.maximum_size.map(|size| size.bytes()),
        rotational: disk.rotational,
    };
    if installs && disk == DiskSelector::default() {
        return Err(Error::usage(format!("`{key}.disk` says nothing, and something is to be installed"))
            .hint("name the disk by `by_id`, or say what tells it from every other"));
    }
    if let Some(by_id) = disk.by_id.as_deref().filter(|by_id| by_id.is_empty() || by_id.contains('/')) {
        return Err(wrong(&format!("{key}.disk.by_id"), by_id, "it is the bare name below `/dev/disk/by-id`"));
    }
    let mut partitions = Vec::new();
    for (index, partition) in document.layout.partitions.iter().enumerate() {
        let key = format!("{key}.layout.partitions[{index}]");
        let reserved = ["bios", "efi", "esp", "root"].contains(&partition.name.as_str());
        if partition.name.is_empty() || partition.name.chars().count() > 16 || !valid_name(&partition.name) || reserved
        {
            let why = "it has to be 1 to 16 letters, digits, `-`, `_` or `.`, and none of those that every system has";
            return Err(wrong(&format!("{key}.name"), &partition.name, why));
        }
        if partitions.iter().any(|other: &Partition| other.name == partition.name || other.mount == partition.mount) {
            return Err(wrong(&key, &partition.name, "there is another of its name or with its mount point"));
        }
        if !is_absolute_path(&partition.mount) || partition.mount == "/" {
            return Err(wrong(&format!("{key}.mount"), &partition.mount, "it is no absolute path below `/`"));
        }
        if partition.size.bytes() == 0 {
            return Err(wrong(&format!("{key}.size"), partition.size, "nothing fits into it"));
        }
        partitions.push(Partition {
            name: partition.name.clone(),
            size: partition.size.bytes(),
            mount: partition.mount.clone(),
        });
    }
    if let Some(path) = document.files.keys().find(|path| !is_absolute_path(path)) {
        return Err(wrong(&format!("{key}.files"), path, "it is no absolute path without `..`"));
    }
    let blank =
        |parameter: &&String| parameter.is_empty() || parameter.contains(|c: char| c.is_whitespace() || c.is_control());
    if let Some(parameter) = document.kernel_parameters.iter().find(blank) {
        return Err(wrong(&format!("{key}.kernel_parameters"), parameter, "each is one word"));
    }
    let example = fill_pattern(&document.hostname, |_| Some("1".into()));
    if !example.as_deref().is_some_and(valid_hostname) {
        let why = "it makes no host name; `{node}`, `{serial}`, `{mac}` and `{number}` stand for what they say";
        return Err(wrong(&format!("{key}.hostname"), &document.hostname, why));
    }
    Ok(Class {
        method,
        disk,
        wipe: document.wipe,
        layout: DiskLayout { efi_size: document.layout.efi_size.bytes(), partitions },
        hostname: document.hostname.clone(),
        kernel_parameters: document.kernel_parameters.clone(),
        files: document.files.clone(),
        desired_system,
    })
}

fn matched(key: &str, name: &str, document: &MatchDocument) -> Result<Identity> {
    let mut identity =
        Identity { node_id: document.node_id.clone(), serial: document.serial.clone(), ..Identity::default() };
    if let Some(mac) = &document.mac {
        let mac = normalised_mac(mac).ok_or_else(|| wrong(&format!("{key}.mac"), mac, "it is no MAC address"))?;
        identity.macs.push(mac);
    }
    if identity == Identity::default() {
        identity.node_id = Some(name.into());
    }
    crate::deployer::identity::normalised(&identity)
        .map_err(|refusal| wrong(key, name, refusal.detail.as_deref().unwrap_or(refusal.title)))
}

impl Netboot {
    fn resolve(document: &super::NetbootDocument, base: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut add = |key: String, path: &Path| -> Result<String> {
            let path = base.join(path);
            if !path.is_file() {
                return Err(wrong(&key, path.display(), "there is no such file"));
            }
            let name = path.file_name().and_then(|name| name.to_str()).filter(|name| valid_name(name));
            let name = name.ok_or_else(|| wrong(&key, path.display(), "its name cannot stand in a URL"))?.to_owned();
            match files.insert(name.clone(), path.clone()) {
                Some(other) if other != path => Err(wrong(&key, path.display(), "another file has the same name")),
                _ => Ok(name),
            }
        };
        let kernel = add("netboot.kernel".into(), &document.kernel)?;
        let mut initrds = Vec::new();
        for (index, initrd) in document.initrds.iter().enumerate() {
            initrds.push(add(format!("netboot.initrds[{index}]"), initrd)?);
        }
        Ok(Self { files, kernel, initrds, parameters: document.parameters.clone() })
    }
}

fn absolute_tls(document: &TlsDocument, base: &Path) -> Result<TlsDocument> {
    let given = (&document.certificate, &document.key, &document.ca_key);
    let makes_its_own = matches!(given, (None, None, Some(_))) && !document.names.is_empty();
    if !makes_its_own && !matches!(given, (Some(_), Some(_), _)) {
        return Err(Error::usage("`tls` has to have either `certificate` and `key`, or `ca_key` and `names`")
            .hint("`bootproof deployer ca` makes a CA"));
    }
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(|path| base.join(path));
    Ok(TlsDocument {
        ca: base.join(&document.ca),
        ca_key: absolute(&document.ca_key),
        certificate: absolute(&document.certificate),
        key: absolute(&document.key),
        ..document.clone()
    })
}

fn is_absolute_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == ".." || part == ".")
}

fn check_name(key: &str, name: &str) -> Result<()> {
    if valid_name(name) {
        return Ok(());
    }
    Err(wrong(key, name, "names are 1 to 63 letters, digits, `-`, `_` or `.`, and begin with a letter or digit"))
}

/// What can stand in a URL, a file name and a marker.
pub(in crate::deployer) fn valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len()) && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(allowed)
}

/// By RFC 1123, with an optional domain.
pub(in crate::deployer) fn valid_hostname(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// Puts values in the place of `{name}`. `None`: a name that nothing is known of, or a brace that nothing closes.
pub(in crate::deployer) fn fill_pattern(pattern: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (mut filled, mut rest) = (String::new(), pattern);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        if !["node", "serial", "mac", "number"].contains(&name) {
            return None;
        }
        filled.push_str(before);
        filled.push_str(&value(name)?);
        rest = after;
    }
    filled.push_str(rest);
    Some(filled)
}

fn there_are<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "there is none".into() } else { format!("there are {}", names.join(", ")) }
}

/// An error that names key and value.
pub(in crate::deployer) fn wrong(key: &str, value: impl std::fmt::Display, why: &str) -> Error {
    Error::usage(format!("failed to take the deployer's configuration: `{key}` is `{value}`"))
        .with_source(why.to_owned())
}
