//! `bootproof hardware`: what an operator needs to boot the installer's medium on machines that no lane drives.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Context;
use super::lane::{LaneArguments, print};
use crate::error::{Context as _, Error, Result};
use crate::lane::model::{Action, Expected, Lane, MarkerRules, Step};

const AFTER_HELP: &str = "\
Examples:
  bootproof hardware kernel-params --deployer-url https://deployer.example:8443 --ca-cert ca.pem
  bootproof hardware expected-markers baremetal-iso --machine worker";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the kernel parameters that the installer's boot menu needs
    KernelParams(Box<KernelParams>),
    /// Print the markers that a lane expects on a machine's console, in their order
    ExpectedMarkers {
        #[command(flatten)]
        lane: LaneArguments,
        /// Only this machine's
        #[arg(long, value_name = "NAME")]
        machine: Option<String>,
    },
}

#[derive(clap::Args)]
struct KernelParams {
    /// Where the deployer is, as machines see it: http:// or https://
    #[arg(long, value_name = "URL")]
    deployer_url: String,
    /// The CA of the deployer's certificate (PEM): its digest is pinned
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Where machines fetch that CA; the deployer's `/ca.pem` over plain HTTP when left out
    #[arg(long, value_name = "URL", requires = "ca_cert")]
    ca_cert_url: Option<String>,
    /// A file with the bootstrap token, which is then part of what is printed
    #[arg(long, value_name = "FILE", conflicts_with = "token_reference")]
    token_file: Option<PathBuf>,
    /// Where the machine finds the token itself: `@smbios` (an OEM string) or `@fw_cfg:NAME`
    #[arg(long, value_name = "REFERENCE")]
    token_reference: Option<String>,
    /// Where built Nix packages come from
    #[arg(long, value_name = "URL")]
    binary_cache_url: Option<String>,
    /// The machine's identity, in place of its serial number
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// The host name to ask for
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// One line for the boot menu, or the file `bootproof.cfg` of a volume labelled BOOTPROOF
    #[arg(long, value_enum, default_value = "line")]
    format: Format,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Format {
    Line,
    Cfg,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::KernelParams(arguments) => print(&kernel_params(&arguments)?),
        Command::ExpectedMarkers { lane, machine } => {
            print(&expected_markers(&lane.load(context)?, machine.as_deref())?)
        }
    }
}

fn kernel_params(arguments: &KernelParams) -> Result<String> {
    let url = arguments.deployer_url.trim_end_matches('/');
    let Some((scheme, authority)) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))
    else {
        return Err(
            Error::usage(format!("`{url}` is no address of a deployer")).hint("it begins with `http://` or `https://`")
        );
    };
    let mut parameters = vec![("deployer_url", url.to_owned())];
    if let Some(file) = &arguments.ca_cert {
        let place = match &arguments.ca_cert_url {
            Some(url) => url.clone(),
            // A deployer that serves HTTPS shows its CA over plain HTTP too, where it listens there.
            None if scheme == "https" => {
                return Err(Error::usage("where machines fetch the CA is not said").hint(format!(
                    "`--ca-cert-url http://{}/ca.pem`, wherever the deployer listens for plain HTTP",
                    host(authority)
                )));
            }
            None => format!("{url}/ca.pem"),
        };
        parameters.push(("ca_cert_url", format!("{place}#sha256={}", pin(file)?)));
    }
    match (&arguments.token_file, &arguments.token_reference) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).usage(|| format!("failed to read `{}`", file.display()))?;
            parameters.push(("bootstrap_token", text.trim().to_owned()));
        }
        (None, Some(reference)) if reference == "@smbios" || reference.starts_with("@fw_cfg:") => {
            parameters.push(("bootstrap_token", reference.clone()));
        }
        (None, Some(reference)) => {
            return Err(Error::usage(format!("`{reference}` refers to nothing"))
                .hint("a reference is `@smbios` or `@fw_cfg:NAME`; `--token-file` takes the token itself"));
        }
        (None, None) => {}
    }
    let optional = [
        ("binary_cache_url", &arguments.binary_cache_url),
        ("node_id", &arguments.node_id),
        ("hostname", &arguments.hostname),
    ];
    parameters.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let mut words = Vec::new();
    for (name, value) in parameters {
        // What stands in a boot menu is taken apart by GRUB and by the kernel.
        if value.is_empty()
            || value.contains(|character: char| character.is_whitespace() || "\"'$;\\".contains(character))
        {
            return Err(Error::usage(format!("`{value}` cannot be a kernel parameter's value"))
                .hint("blanks, quotes, `$`, `;` and backslashes mean something to the boot loader"));
        }
        words.push(format!("bootproof.{name}={value}"));
    }
    let line = words.join(" ");
    Ok(match arguments.format {
        Format::Line => format!("{line}\n"),
        Format::Cfg => format!("set parameters=\"{line}\"\n"),
    })
}

fn host(authority: &str) -> &str {
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// The SHA-256 of a certificate's DER, as machines compare it.
fn pin(file: &Path) -> Result<String> {
    use sha2::{Digest, Sha256};
    let said = || format!("failed to read the certificate `{}`", file.display());
    let certificate = CertificateDer::from_pem_file(file).usage(said)?;
    Ok(crate::proof::digest::hexadecimal(&Sha256::digest(&certificate)))
}

/// A line for each, under its machine's name where it is not the only one.
fn expected_markers(lane: &Lane, machine: Option<&str>) -> Result<String> {
    if let Some(name) = machine
        && !lane.machines.contains_key(name)
    {
        let names: Vec<&str> = lane.machines.keys().map(String::as_str).collect();
        return Err(
            Error::usage(format!("the lane has no machine `{name}`")).hint(format!("it has {}", names.join(", ")))
        );
    }
    let mut text = String::new();
    for name in lane.machines.keys().filter(|name| machine.is_none_or(|machine| machine == *name)) {
        for line in markers_of(&lane.steps, &lane.markers, name) {
            text.push_str(&format!("{line}\n"));
        }
    }
    Ok(text)
}

fn markers_of(steps: &[Step], rules: &MarkerRules, machine: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for step in steps {
        match &step.action {
            Action::Expect { expectations, .. } if step.on.iter().any(|on| on == machine) => {
                for expectation in expectations {
                    if let Expected::Marker { name, arguments } = &expectation.what {
                        // A product's own name is what stands on the console.
                        let theirs =
                            rules.aliases.iter().find(|(_, ours)| *ours == name).map_or(name, |(theirs, _)| theirs);
                        let arguments: String =
                            arguments.iter().map(|(key, value)| format!(" {key}={value}")).collect();
                        lines.push(format!("{} {theirs}.{machine}{arguments}", rules.prefix));
                    }
                }
            }
            Action::Parallel { steps } => lines.extend(markers_of(steps, rules, machine)),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: KernelParams,
    }

    fn parameters(arguments: &[&str]) -> Result<String> {
        let all = ["kernel-params", "--deployer-url"].iter().chain(arguments);
        kernel_params(&Line::try_parse_from(all).unwrap().arguments)
    }

    #[test]
    fn what_the_boot_menu_needs_is_one_line() {
        assert_eq!(
            parameters(&["http://10.0.2.1:8080/", "--node-id", "rack-4", "--token-reference", "@smbios"]).unwrap(),
            "bootproof.deployer_url=http://10.0.2.1:8080 bootproof.bootstrap_token=@smbios bootproof.node_id=rack-4\n"
        );
        assert_eq!(
            parameters(&["http://deployer", "--format", "cfg"]).unwrap(),
            "set parameters=\"bootproof.deployer_url=http://deployer\"\n"
        );
    }

    #[test]
    fn a_ca_is_pinned_by_what_machines_compare() {
        let folder = tempfile::tempdir().unwrap();
        let made = crate::deployer::make_ca(folder.path(), "a test's").unwrap();
        let file = folder.path().join("ca.pem");
        let file = file.to_str().unwrap();
        let line = parameters(&["https://d:8443", "--ca-cert", file, "--ca-cert-url", "http://d/ca.pem"]).unwrap();
        let pin = line.split("#sha256=").nth(1).unwrap().trim();
        assert_eq!(pin, made.pin);
        let unsaid = parameters(&["https://d:8443", "--ca-cert", file]).unwrap_err();
        assert!(unsaid.to_string().contains("is not said"), "{unsaid}");
    }

    #[test]
    fn what_a_boot_loader_would_take_apart_is_refused() {
        for wrong in [
            &["ftp://d"][..],
            &["http://d", "--hostname", "two words"],
            &["http://d", "--node-id", "$(reboot)"],
            &["http://d", "--token-reference", "secret"],
        ] {
            assert_eq!(parameters(wrong).unwrap_err().kind().exit_code(), 2, "{wrong:?}");
        }
    }
}
