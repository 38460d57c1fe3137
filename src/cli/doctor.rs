//! `bootproof doctor`: what this host can do, and what to do about what it cannot.

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::image;
use crate::lane::units::Size;
use crate::machine::{capabilities, qemu};
use crate::plan::model::ImageSource;
use crate::preflight::accelerator::{self, HostKey};
use crate::preflight::host;

#[derive(clap::Args)]
pub struct Arguments {
    /// As JSON, on standard output
    #[arg(long)]
    json: bool,
    /// Tell what each backend can do instead, as a table
    #[arg(long, conflicts_with = "json")]
    backends: bool,
}

/// One thing that was looked at.
#[derive(serde::Serialize)]
struct Examined {
    check: &'static str,
    state: State,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Good,
    /// Some lanes cannot run here; those that need it say so.
    Limited,
    /// No machine can be started.
    Missing,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    if arguments.backends {
        print!("{}", capabilities::markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let examined = examine(context);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&examined).expect("findings are plain data"));
    } else {
        print!("{}", render(&examined));
    }
    let usable = examined.iter().all(|one| one.state != State::Missing);
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn examine(context: &Context) -> Vec<Examined> {
    let mut examined = Vec::new();
    let program = qemu::program();
    let version = crate::preflight::qemu_version(&context.work_root);
    examined.push(match &version {
        Some(line) => good("qemu", line.clone()),
        None => Examined {
            check: "qemu",
            state: State::Missing,
            found: format!("`{}` was not found", program.display()),
            remedy: Some("apt-get install qemu-system-x86 (or `make setup`)".into()),
        },
    });
    examined.push(examine_accelerator(context, version.as_deref()));
    examined.push(match qemu::firmware::uefi() {
        Some((code, _)) => good("uefi", code.display().to_string()),
        None => limited("uefi", "no OVMF firmware was found".into(), "apt-get install ovmf"),
    });
    examined.push(match qemu::firmware::network_rom() {
        Some(rom) => good("network-boot", rom.display().to_string()),
        None => {
            limited("network-boot", "no iPXE for QEMU's network cards was found".into(), "apt-get install ipxe-qemu")
        }
    });
    examined.push(match image::agent_binary() {
        Ok(path) => good("agent", path.display().to_string()),
        Err(error) => Examined {
            check: "agent",
            state: State::Missing,
            found: error.to_string(),
            remedy: error.hints().first().cloned(),
        },
    });
    for (check, source) in
        [("images-tiny", ImageSource::Tiny), ("images-debian", ImageSource::Debian), ("images-nix", ImageSource::Nix)]
    {
        let missing = image::missing_tools(source);
        examined.push(if missing.is_empty() {
            good(check, "every tool is there".into())
        } else {
            let said: Vec<String> = missing.iter().map(|finding| finding.message.clone()).collect();
            let remedies: Vec<String> = missing.iter().filter_map(|finding| finding.remedy.clone()).collect();
            limited(check, said.join("; "), &remedies.join("; "))
        });
    }
    examined.push(good("processors", format!("{} of `{}`", host::cpu_count(), host::cpu_model())));
    if let Some(bytes) = host::available_memory() {
        examined.push(good("memory", format!("{} available", Size(bytes >> 20 << 20))));
    }
    examined.push(match host::free_disk(&context.work_root) {
        Some(bytes) => {
            good("disk", format!("{} free under `{}`", Size(bytes >> 20 << 20), context.work_root.display()))
        }
        None => limited(
            "disk",
            format!("`{}` cannot be measured", context.work_root.display()),
            "choose another `--work-root`",
        ),
    });
    examined
}

/// Looks at what is known and starts nothing: the proof itself is made by the first run.
fn examine_accelerator(context: &Context, qemu_version: Option<&str>) -> Examined {
    let tcg = "machines run under TCG, and deadlines are stretched";
    if let Err(reason) = host::kvm_device() {
        return limited(
            "kvm",
            format!("{reason}: {tcg}"),
            "load the KVM module, or join the group that owns `/dev/kvm`",
        );
    }
    let Some(version) = qemu_version else {
        return limited("kvm", "`/dev/kvm` opens, and there is no QEMU to prove it with".into(), "install QEMU");
    };
    match accelerator::cached(&context.work_root, &HostKey::of_this_host(version)) {
        Some(proof) if proof.kvm_works => good("kvm", proof.detail),
        Some(proof) => limited(
            "kvm",
            format!("{}: {tcg}", proof.detail),
            "lanes run all the same; for speed, take a host whose KVM boots a guest",
        ),
        None => good("kvm", "`/dev/kvm` opens; whether a guest boots under it is unproven until the first run".into()),
    }
}

fn good(check: &'static str, found: String) -> Examined {
    Examined { check, state: State::Good, found, remedy: None }
}

fn limited(check: &'static str, found: String, remedy: &str) -> Examined {
    Examined { check, state: State::Limited, found, remedy: Some(remedy.into()) }
}

fn render(examined: &[Examined]) -> String {
    let width = examined.iter().map(|one| one.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for one in examined {
        let state = match one.state {
            State::Good => "good   ",
            State::Limited => "limited",
            State::Missing => "missing",
        };
        text.push_str(&format!("{state}  {:<width$}  {}\n", one.check, one.found));
        if let Some(remedy) = &one.remedy {
            text.push_str(&format!("{:width$}           hint: {remedy}\n", ""));
        }
    }
    text
}
