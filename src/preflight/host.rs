//! Facts of this host, read from where the kernel and the tools tell them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether a command is in the search path (with the system folders that a user's path may lack).
pub fn find_command(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return is_executable(Path::new(name)).then(|| name.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// `uname -r`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `uname -m`.
pub fn architecture() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned())
}

/// Processors that this process may use.
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `MemAvailable` in bytes.
pub fn available_memory() -> Option<u64> {
    memory_figure("MemAvailable:")
}

/// `MemTotal` in bytes.
pub fn total_memory() -> Option<u64> {
    memory_figure("MemTotal:")
}

fn memory_figure(name: &str) -> Option<u64> {
    figure(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

fn figure(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The most bytes of memory that a process has had.
pub fn most_memory(process: u32) -> Option<u64> {
    figure(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmHWM:")
}

/// Bytes that this user may still write below `path`, which need not exist yet.
pub fn free_disk(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let facts = rustix::fs::statvfs(there).ok()?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// What `program --version` says on its first line.
pub fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// `(major, minor)` out of `QEMU emulator version 10.0.2 (...)`.
pub fn parse_qemu_version(line: &str) -> Option<(u32, u32)> {
    let number = line.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The KVM modules that are loaded, by name: they decide how a guest fares as much as the kernel does.
pub fn kvm_modules() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/module") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut modules: Vec<String> = names.filter(|name| name == "kvm" || name.starts_with("kvm_")).collect();
    modules.sort();
    modules
}

/// Whether `/dev/kvm` is there and may be opened by this user: `Ok`, or why not.
pub fn kvm_device() -> Result<(), String> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`/dev/kvm`: {error}")),
    }
}

/// Whether guests of this host could start guests under KVM.
pub fn nested_kvm() -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| {
        fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
            .is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_versions_are_read_in_their_usual_forms() {
        assert_eq!(parse_qemu_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some((10, 0)));
        assert_eq!(parse_qemu_version("QEMU emulator version 7.2.22"), Some((7, 2)));
        assert_eq!(parse_qemu_version("no number here"), None);
    }

    #[test]
    fn this_host_has_facts() {
        assert!(available_memory().unwrap() > 1 << 20 && total_memory() >= available_memory());
        assert!(most_memory(std::process::id()).unwrap() > 1 << 16);
        assert!(free_disk(Path::new("/nowhere/at/all")).is_some());
        assert!(find_command("sh").is_some());
        assert!(find_command("surely-no-such-command").is_none());
    }
}
