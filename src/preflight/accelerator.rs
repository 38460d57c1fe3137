//! The accelerator is proven, not assumed.
//!
//! `/dev/kvm` can open and still hang or abort a guest: on some hosts the firmware runs under it and a stock kernel never
//! does. So KVM counts only where a guest has booted under it to its first marker, within a bound. The answer is kept
//! for this host: kernel, KVM modules, CPU and QEMU together are its key, and when one of them changes it is asked again.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::host;
use super::probe::{ProbeGuest, boot_under_kvm};
use crate::error::{Context, Error, Result};
use crate::image::{Boot, ImageProgress, ImageRequest, ImageStore};
use crate::plan::model::{Accelerator, AcceleratorRequest};

const PROOF_VERSION: u32 = 1;

/// Deadlines in lane files are meant for KVM; under TCG everything takes a multiple of that.
pub fn deadline_factor(accelerator: Accelerator) -> f64 {
    match accelerator {
        Accelerator::Kvm => 1.0,
        Accelerator::Tcg => 4.0,
    }
}

/// What an answer holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    pub kernel: String,
    pub kvm_modules: Vec<String>,
    pub cpu: String,
    pub qemu: String,
}

impl HostKey {
    pub fn of_this_host(qemu_version: &str) -> Self {
        Self {
            kernel: host::kernel_release(),
            kvm_modules: host::kvm_modules(),
            cpu: host::cpu_model(),
            qemu: qemu_version.into(),
        }
    }
}

/// What booting a probe guest under KVM showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceleratorProof {
    version: u32,
    pub key: HostKey,
    pub kvm_works: bool,
    /// What happened, for people.
    pub detail: String,
    /// RFC 3339.
    pub proven: String,
    pub probe_ms: u64,
}

fn cache_path(work_root: &Path) -> PathBuf {
    work_root.join("host").join("accelerator.json")
}

/// The remembered answer, if it holds for this host as it is now.
pub fn cached(work_root: &Path, key: &HostKey) -> Option<AcceleratorProof> {
    let bytes = std::fs::read(cache_path(work_root)).ok()?;
    let proof: AcceleratorProof = serde_json::from_slice(&bytes).ok()?;
    (proof.version == PROOF_VERSION && proof.key == *key).then_some(proof)
}

fn remember(work_root: &Path, proof: &AcceleratorProof) -> Result<()> {
    let path = cache_path(work_root);
    let folder = path.parent().expect("the path has a folder");
    std::fs::create_dir_all(folder).infrastructure(|| format!("failed to create `{}`", folder.display()))?;
    let file =
        tempfile::NamedTempFile::new_in(folder).infrastructure(|| "failed to remember the accelerator".into())?;
    serde_json::to_writer_pretty(&file, proof).infrastructure(|| "failed to remember the accelerator".into())?;
    file.persist(&path).map(drop).infrastructure(|| format!("failed to write `{}`", path.display()))
}

/// What to run machines with, and how that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub mode: Accelerator,
    /// `probe-guest`, `cached-probe`, `requested`, `no-device`.
    pub proven_by: &'static str,
    /// For people.
    pub detail: String,
    /// KVM would have been taken and does not work: the user has to be told.
    pub fell_back: bool,
}

impl Choice {
    /// No machine needs an accelerator.
    pub fn unneeded() -> Self {
        Self { mode: Accelerator::Tcg, proven_by: "requested", detail: "no machine needs one".into(), fell_back: false }
    }

    fn of_proof(proof: &AcceleratorProof, proven_by: &'static str) -> Self {
        let mode = if proof.kvm_works { Accelerator::Kvm } else { Accelerator::Tcg };
        Self { mode, proven_by, detail: proof.detail.clone(), fell_back: !proof.kvm_works }
    }
}

/// What a proof takes where there is none yet.
pub struct Prober<'a> {
    pub work_root: &'a Path,
    pub project_root: &'a Path,
    pub store: &'a ImageStore,
    /// First line of `qemu --version`.
    pub qemu_version: &'a str,
    pub progress: &'a dyn ImageProgress,
    pub cancel: &'a CancellationToken,
}

/// Takes what was asked for; `auto` and `kvm` need a proof, which is made when it is not remembered. A host where KVM does
/// not work gives TCG in any case: whether that will do is preflight's to say.
pub async fn choose(request: AcceleratorRequest, prober: &Prober<'_>) -> Choice {
    if request == AcceleratorRequest::Tcg {
        let detail = "TCG was asked for".into();
        return Choice { mode: Accelerator::Tcg, proven_by: "requested", detail, fell_back: false };
    }
    if let Err(detail) = host::kvm_device() {
        return Choice { mode: Accelerator::Tcg, proven_by: "no-device", detail, fell_back: true };
    }
    let key = HostKey::of_this_host(prober.qemu_version);
    if let Some(proof) = cached(prober.work_root, &key) {
        return Choice::of_proof(&proof, "cached-probe");
    }
    prober.progress.stage("tiny", "booting a probe guest under KVM");
    let proven = async {
        let image = ImageRequest::tiny(prober.project_root.into());
        let image = prober.store.ensure(&image, prober.progress, prober.cancel.clone()).await?;
        let Boot::Kernel { kernel, initramfs, .. } = image.boot else {
            return Err(Error::infrastructure("the probe's image has no kernel of its own"));
        };
        prove(prober.work_root, key, &ProbeGuest { kernel, initramfs }).await
    };
    tokio::select! {
        proof = proven => match proof {
            Ok(proof) => Choice::of_proof(&proof, "probe-guest"),
            Err(error) => {
                let detail = format!("KVM could not be proven: {}", error.chain());
                Choice { mode: Accelerator::Tcg, proven_by: "probe-guest", detail, fell_back: true }
            }
        },
        () = prober.cancel.cancelled() => {
            let detail = "the run was stopped before KVM was proven".into();
            Choice { mode: Accelerator::Tcg, proven_by: "probe-guest", detail, fell_back: true }
        }
    }
}

/// Boots a guest under KVM and remembers what came of it.
async fn prove(work_root: &Path, key: HostKey, guest: &ProbeGuest) -> Result<AcceleratorProof> {
    let began = Instant::now();
    let outcome = boot_under_kvm(work_root, guest).await;
    let proof = AcceleratorProof {
        version: PROOF_VERSION,
        key,
        kvm_works: outcome.is_ok(),
        detail: outcome.unwrap_or_else(|reason| reason),
        proven: crate::event::wall_clock(),
        probe_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    remember(work_root, &proof)?;
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(qemu: &str) -> AcceleratorProof {
        AcceleratorProof {
            version: PROOF_VERSION,
            key: HostKey::of_this_host(qemu),
            kvm_works: true,
            detail: "it did".into(),
            proven: "2026-01-01T00:00:00Z".into(),
            probe_ms: 300,
        }
    }

    #[test]
    fn an_answer_holds_only_for_the_host_it_was_given_on() {
        let work = tempfile::tempdir().unwrap();
        let key = HostKey::of_this_host("QEMU 10");
        assert_eq!(cached(work.path(), &key), None);
        remember(work.path(), &proof("QEMU 10")).unwrap();
        assert_eq!(cached(work.path(), &key), Some(proof("QEMU 10")));
        assert_eq!(cached(work.path(), &HostKey::of_this_host("QEMU 11")), None, "another QEMU is another host");
    }

    #[test]
    fn a_damaged_memory_is_no_answer() {
        let work = tempfile::tempdir().unwrap();
        remember(work.path(), &proof("QEMU 10")).unwrap();
        std::fs::write(cache_path(work.path()), "{").unwrap();
        assert_eq!(cached(work.path(), &HostKey::of_this_host("QEMU 10")), None);
    }
}
