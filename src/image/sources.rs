//! Where packages come from: the host's own archive, read from its apt configuration.
//!
//! A mirror's address is copied from the host, never assumed; Debian's own stands in only where the host has none for the
//! suite that is asked for. `BOOTPROOF_APT_SOURCES` names a sources file (either of apt's two formats) to use instead.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

const FALLBACK: &str = "http://deb.debian.org/debian";
const FALLBACK_SECURITY: &str = "http://deb.debian.org/debian-security";
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's name for this machine's architecture.
pub(super) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The host's own suite (`bookworm`, `noble`), or `unknown`.
pub(super) fn host_suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches(['"', '\'']).to_string())
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

/// One suite at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    /// A keyring file; apt's trusted ones where absent.
    pub signed_by: Option<String>,
    pub trusted: bool,
}

impl Source {
    /// One line of apt's `sources.list`.
    pub fn line(&self) -> String {
        let mut options = Vec::new();
        if let Some(keyring) = &self.signed_by {
            options.push(format!("signed-by={keyring}"));
        }
        if self.trusted {
            options.push("trusted=yes".into());
        }
        let options = if options.is_empty() { String::new() } else { format!("[{}] ", options.join(" ")) };
        format!("deb {options}{} {} {}", self.uri, self.suite, self.components.join(" ")).trim_end().to_string()
    }
}

/// The sources of a suite, with its updates and security where the host has those.
pub(super) fn for_suite(suite: &str) -> Result<Vec<Source>> {
    Ok(select(&configured()?, suite))
}

/// All that the host's apt is configured with.
fn configured() -> Result<Vec<Source>> {
    if let Some(given) = env::var_os("BOOTPROOF_APT_SOURCES").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(given);
        let text = fs::read_to_string(&path)
            .usage(|| format!("failed to read `{}`, which `BOOTPROOF_APT_SOURCES` names", path.display()))?;
        return Ok(parse(&text));
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| is_sources_file(path)));
    }
    files.sort();
    // A file that apt may read and we may not is no reason to stop: the rest may do.
    Ok(files.iter().filter_map(|path| fs::read_to_string(path).ok()).flat_map(|text| parse(&text)).collect())
}

fn is_sources_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
}

/// Reads either of apt's formats.
fn parse(text: &str) -> Vec<Source> {
    let is_stanza = |line: &str| {
        let name = line.split(':').next().unwrap_or_default();
        line.contains(':') && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
    };
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
    if is_stanza(first) { parse_stanzas(text) } else { text.lines().filter_map(parse_line).collect() }
}

/// `deb [options] uri suite component...`
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut options = "";
    if let Some(inner) = rest.strip_prefix('[') {
        (options, rest) = inner.split_once(']')?;
    }
    let option = |name: &str| {
        options.split_whitespace().find_map(|option| option.strip_prefix(name)?.strip_prefix('=').map(String::from))
    };
    if option("arch").is_some_and(|list| !list.split(',').any(|name| name == architecture())) {
        return None;
    }
    let mut words = rest.split_whitespace().map(String::from);
    Some(Source {
        uri: trim_uri(&words.next()?),
        suite: words.next()?,
        components: words.collect(),
        signed_by: option("signed-by"),
        trusted: option("trusted").is_some_and(|value| value == "yes"),
    })
}

/// The `.sources` format: stanzas of `Field: value`, where a line that begins with a blank continues the value.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{}\n", line.trim_end())).collect();
    for stanza in text.split("\n\n") {
        let field = |name: &str| -> Option<String> {
            let mut lines = stanza
                .lines()
                .skip_while(|line| line.split_once(':').is_none_or(|(field, _)| !field.eq_ignore_ascii_case(name)));
            let mut value = lines.next()?.split_once(':')?.1.trim().to_string();
            for more in lines.take_while(|line| line.starts_with([' ', '\t'])) {
                value.push('\n');
                value.push_str(more.trim());
            }
            Some(value)
        };
        let words = |name: &str| -> Vec<String> {
            field(name).map(|value| value.split_whitespace().map(String::from).collect()).unwrap_or_default()
        };
        let disabled = field("Enabled").is_some_and(|value| ["no", "false", "0"].contains(&value.as_str()));
        let architectures = words("Architectures");
        let foreign = !architectures.is_empty() && !architectures.iter().any(|name| name == architecture());
        if disabled || foreign || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        // A key that stands in the file itself is no path; apt's trusted keyrings have to do then.
        let signed_by = field("Signed-By").filter(|value| value.starts_with('/'));
        for uri in words("URIs") {
            for suite in words("Suites") {
                sources.push(Source {
                    uri: trim_uri(&uri),
                    suite,
                    components: words("Components"),
                    signed_by: signed_by.clone(),
                    trusted: field("Trusted").is_some_and(|value| value == "yes"),
                });
            }
        }
    }
    sources
}

fn trim_uri(uri: &str) -> String {
    uri.trim_end_matches('/').to_string()
}

/// Of what is configured, what belongs to the suite; failing that, the same addresses with the suite put in; failing
/// that, Debian's own.
fn select(configured: &[Source], suite: &str) -> Vec<Source> {
    let belongs = |name: &str, suite: &str| {
        ["", "-updates", "-security", "/updates"].iter().any(|suffix| name == format!("{suite}{suffix}"))
    };
    let mut found: Vec<Source> = configured.iter().filter(|source| belongs(&source.suite, suite)).cloned().collect();
    if !found.iter().any(|source| source.suite == suite) {
        let has = |path: &str| configured.iter().find(|source| source.uri.ends_with(path));
        let of = |given: Option<&Source>, fallback: &str, suite: String| Source {
            uri: given.map_or_else(|| fallback.into(), |source| source.uri.clone()),
            suite,
            components: vec!["main".into()],
            signed_by: given.and_then(|source| source.signed_by.clone()).or(Some(DEBIAN_KEYRING.into())),
            trusted: given.is_some_and(|source| source.trusted),
        };
        found.insert(0, of(has("/debian"), FALLBACK, suite.into()));
        // Debian's development suites have neither.
        if !["sid", "unstable", "experimental"].contains(&suite) && found.len() == 1 {
            found.push(of(has("/debian"), FALLBACK, format!("{suite}-updates")));
            found.push(of(has("/debian-security"), FALLBACK_SECURITY, format!("{suite}-security")));
        }
    }
    let mut unique: Vec<Source> = Vec::new();
    for source in found {
        if !unique.iter().any(|other| (&other.uri, &other.suite) == (&source.uri, &source.suite)) {
            unique.push(source);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main contrib

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Enabled: no
Components: main

Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 xyz
";

    fn lines(sources: &[Source]) -> Vec<String> {
        sources.iter().map(Source::line).collect()
    }

    #[test]
    fn a_suite_comes_with_its_updates_and_security_and_without_backports() {
        assert_eq!(
            lines(&select(&parse(STANZAS), "bookworm")),
            [
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main",
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian \
                 bookworm-updates main",
                "deb http://mirror.example/debian-security bookworm-security main contrib",
            ]
        );
    }

    #[test]
    fn one_line_sources_are_read_with_their_options() {
        let text = "# x\n\ndeb-src http://a/debian bookworm main\n\
                    deb [arch=m68k] http://b/debian bookworm main\n\
                    deb [ signed-by=/k.gpg trusted=yes ] http://c/debian/ bookworm main non-free # tail\n";
        let sources = parse(text);
        assert_eq!(lines(&sources), ["deb [signed-by=/k.gpg trusted=yes] http://c/debian bookworm main non-free"]);
        assert_eq!(select(&sources, "bookworm"), sources);
    }

    #[test]
    fn another_suite_uses_the_hosts_mirror() {
        let selected = select(&parse(STANZAS), "trixie");
        let addresses: Vec<_> = selected.iter().map(|source| format!("{} {}", source.uri, source.suite)).collect();
        assert_eq!(
            addresses,
            [
                "http://mirror.example/debian trixie",
                "http://mirror.example/debian trixie-updates",
                "http://mirror.example/debian-security trixie-security"
            ]
        );
    }

    #[test]
    fn without_any_source_debians_own_stands_in() {
        let selected = select(&[], "bookworm");
        assert_eq!(selected[0].uri, FALLBACK);
        assert_eq!(selected[0].signed_by.as_deref(), Some(DEBIAN_KEYRING));
        assert_eq!(select(&[], "sid").len(), 1);
    }
}
