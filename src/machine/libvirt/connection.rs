//! What a libvirt is asked before and after machines: what it is, and which domains of ours nobody holds any more.

use std::fs::File;
use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::Event;
use rustix::fs::{FlockOperation, flock};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error as VirtError, ErrorNumber};
use virt::sys;

use super::holder::message;
use super::host::{Host, Left};
use super::mark::{Mark, NAMESPACE};
use super::target::Target;
use crate::error::{Error, Result};

fn open(target: &Target) -> Result<Connect> {
    silence();
    Connect::open(Some(target.uri())).map_err(|error| {
        Error::blocked(format!("libvirt at `{target}` does not answer"))
            .with_source(message(&error))
            .hint("start its daemon, or name another with `--libvirt-uri`")
    })
}

fn failed(target: &Target, error: &VirtError) -> Error {
    Error::infrastructure(format!("libvirt at `{target}` failed")).with_source(message(error))
}

/// libvirt prints every error to standard error unless it is told not to: ours are said in one place.
fn silence() {
    unsafe extern "C" fn nothing(_: *mut std::ffi::c_void, _: sys::virErrorPtr) {}
    // SAFETY: the function takes what libvirt gives and uses none of it.
    unsafe { sys::virSetErrorFunc(std::ptr::null_mut(), Some(nothing)) };
}

/// Asks a libvirt what it is. Blocks.
///
/// # Errors
/// Blocked: nobody answers there.
pub fn describe(target: &Target) -> Result<Host> {
    let mut connection = open(target)?;
    let failed = |error| failed(target, &error);
    let number = |version: u32| format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000);
    let networks = match connection.list_networks() {
        Ok(networks) => Some(networks),
        Err(error) if error.code() == ErrorNumber::NoSupport => None,
        Err(_) => None,
    };
    let host = Host {
        driver: connection.get_type().map_err(failed)?,
        version: connection.get_lib_version().map(number).map_err(failed)?,
        hypervisor: connection.get_hyp_version().map(number).map_err(failed)?,
        security_models: security_models(&connection.get_capabilities().map_err(failed)?),
        networks,
    };
    let _ = connection.close();
    Ok(host)
}

/// `<capabilities><host><secmodel><model>dac</model>`
fn security_models(capabilities: &str) -> Vec<String> {
    let mut reader = Reader::from_str(capabilities);
    let (mut within, mut model, mut models) = (false, false, Vec::new());
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) if element.name().as_ref() == b"secmodel" => within = true,
            Ok(Event::End(element)) if element.name().as_ref() == b"secmodel" => within = false,
            Ok(Event::Start(element)) => model = within && element.name().as_ref() == b"model",
            Ok(Event::End(_)) => model = false,
            Ok(Event::Text(text)) if model => {
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                // `none` is the absence of one.
                if text != "none" && !text.is_empty() {
                    models.push(text);
                }
            }
            Ok(Event::Eof) | Err(_) => return models,
            Ok(_) => {}
        }
    }
}

/// Ends the domains that carry our name and the mark of a run of this work root that is over; says which. With `dry_run`
/// they are only named. Blocks.
///
/// # Errors
/// Blocked: nobody answers there. Infrastructure: a domain cannot be ended.
pub fn prune(target: &Target, work_root: &Path, dry_run: bool) -> Result<Vec<Left>> {
    let mut connection = open(target)?;
    let failed = |error| failed(target, &error);
    let mut left = Vec::new();
    for domain in connection.list_all_domains(0).map_err(failed)? {
        // A domain that ends while it is looked at is nobody's business any more.
        let Ok(name) = domain.get_name() else { continue };
        let Some(mark) = mark_of(&domain) else { continue };
        if !mark.is_ours(&name, work_root) || !is_over(&mark) {
            continue;
        }
        if !dry_run {
            match domain.destroy() {
                Ok(()) => {}
                Err(error) if matches!(error.code(), ErrorNumber::NoDomain | ErrorNumber::OperationInvalid) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        left.push(Left { domain: name, mark });
    }
    let _ = connection.close();
    Ok(left)
}

fn mark_of(domain: &Domain) -> Option<Mark> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    Mark::parse(&domain.get_metadata(kind, Some(NAMESPACE), 0).ok()?)
}

/// Nobody holds the run's folder: neither the run nor a keeper of its machines is there.
fn is_over(mark: &Mark) -> bool {
    match File::open(mark.run_folder()) {
        Ok(folder) => flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_models_are_read_from_the_capabilities() {
        let text = "<capabilities><host><cpu><model>Skylake</model></cpu><secmodel><model>none</model><doi>0</doi>\
                    </secmodel><secmodel><model>dac</model><doi>0</doi></secmodel></host></capabilities>";
        assert_eq!(security_models(text), ["dac"]);
        assert!(security_models("<capabilities>").is_empty());
    }
}
