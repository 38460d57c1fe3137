//! The built-in failure patterns: what a console shows when a machine will not get any further.
//!
//! Anchored so that a program that merely talks about a panic does not cause one: a kernel's message begins the line or
//! follows a printk timestamp (which may come in the middle of what user space was printing); everything else begins
//! the line. The expressions keep to what POSIX extended regular expressions share with ours, so that `grep -E` can
//! be given the same ones.

/// A kernel message: at the line's beginning or after a timestamp, with the caller where the kernel prints it.
macro_rules! kernel {
    ($message:literal) => {
        concat!(r"(^|\[ *[0-9]+\.[0-9]+\](\[ *[TC][0-9]+\])? )", $message)
    };
}

/// A failure that every lane watches for unless it silences the name.
#[derive(Clone, Copy, Debug)]
pub struct BuiltInPattern {
    pub name: &'static str,
    /// For people: what has happened.
    pub summary: &'static str,
    /// A regular expression over one decoded console line.
    pub expression: &'static str,
}

const PATTERNS: &[BuiltInPattern] = &[
    BuiltInPattern {
        name: "kernel-panic",
        summary: "the kernel panicked",
        expression: kernel!("Kernel panic - not syncing"),
    },
    BuiltInPattern {
        name: "kernel-bug",
        summary: "the kernel hit a bug of its own",
        expression: kernel!(
            r"(BUG: unable to handle |BUG: kernel NULL pointer dereference|kernel BUG at .*!$|Oops: .*\[#[0-9]+\]|general protection fault.*\[#[0-9]+\]|Internal error: Oops)"
        ),
    },
    BuiltInPattern {
        name: "emergency-shell",
        summary: "systemd gave up and offers an emergency shell",
        expression: r"^(You are in emergency mode|Cannot open access to console, the root account is locked|Entering emergency mode\.|Give root password for maintenance|Press Enter for maintenance)",
    },
    BuiltInPattern {
        name: "initramfs-prompt",
        summary: "the initramfs did not find the root file system and offers a shell",
        expression: r"^(\(initramfs\)( |$)|ALERT! .*Dropping to a shell|initramfs emergency recovery shell launched|dracut:/[^ ]*# )",
    },
    BuiltInPattern {
        name: "grub-rescue",
        summary: "GRUB found nothing to boot and offers its prompt",
        expression: r"^(grub rescue>|grub>|Entering rescue mode\.\.\.)",
    },
    BuiltInPattern {
        name: "no-bootable-device",
        summary: "the firmware found nothing to boot",
        expression: r"^(No bootable device\.|BdsDxe: No bootable option or device was found)",
    },
    BuiltInPattern {
        name: "network-boot",
        summary: "the firmware (iPXE) got nothing to boot from the network",
        // A BIOS breaks lines after 80 columns. What is not known for that reason ends as `no-bootable-device`. That there are
        // no more network devices is also said by a machine that was told to boot its disk.
        expression: r"^((https?|tftp)://[^ ]+\.\.\.|Could not (select|boot|boot image):|Nothing to boot:|Configuring \(net[0-9]+ [0-9a-f:]+\)\.+|Waiting for link-up on net[0-9]+\.+) .+ \(http:",
    },
    BuiltInPattern {
        name: "uefi-shell",
        summary: "the firmware found nothing to boot and started the UEFI shell",
        expression: r"^(UEFI Interactive Shell v|Shell>( |$)|Press ESC in [0-9]+ seconds to skip startup\.nsh)",
    },
    BuiltInPattern {
        name: "out-of-memory",
        summary: "the kernel ran out of memory and killed something",
        expression: kernel!(
            "(.{1,16} invoked oom-killer: |oom-kill:constraint=|Out of memory: Kill|Memory cgroup out of memory: Kill)"
        ),
    },
    BuiltInPattern {
        name: "io-error",
        summary: "a disk or a file system failed",
        // Removable drives that are merely empty (fd0, sr0) complain in the same words and are not listed.
        expression: kernel!(
            r"(((blk_update_request: |print_req_error: )?(I/O|critical [a-z ]+) error, dev|Buffer I/O error on dev(ice)?) (sd|vd|nvme|xvd|hd|dm-|md|mmcblk|nbd|loop|pmem)|EXT4-fs error \(device |EXT4-fs \([^)]+\): Remounting filesystem read-only|Aborting journal on device |XFS \([^)]+\): (metadata I/O error|log I/O error|Metadata corruption detected)|BTRFS (error|critical) \(device )"
        ),
    },
    BuiltInPattern {
        name: "failed-unit",
        summary: "a systemd unit failed",
        expression: r"(^\[FAILED\] Failed to |(^|\[ *[0-9]+\.[0-9]+\](\[ *[TC][0-9]+\])? )systemd\[1\]: Failed to start )",
    },
    BuiltInPattern {
        name: "soft-lockup",
        summary: "a CPU of the guest is stuck",
        expression: kernel!(
            r"((NMI )?watchdog: (BUG: soft lockup|Watchdog detected hard LOCKUP)|BUG: soft lockup - CPU)"
        ),
    },
    BuiltInPattern {
        name: "hung-task",
        summary: "a task of the guest is stuck",
        expression: kernel!("INFO: task .+ blocked for more than [0-9]+ seconds"),
    },
    BuiltInPattern {
        name: "agent-failed",
        summary: "the guest's agent could not set the guest up",
        expression: "^bootproof-agent: stage 1 failed",
    },
];

/// All built-in failure patterns, in a fixed order.
pub fn built_in_failure_patterns() -> &'static [BuiltInPattern] {
    PATTERNS
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::marker::literals::required_literals;

    fn matching(line: &str) -> Vec<&'static str> {
        PATTERNS.iter().filter(|one| Regex::new(one.expression).unwrap().is_match(line)).map(|one| one.name).collect()
    }

    /// Lines as real consoles printed them.
    const SAMPLES: &[(&str, &str)] = &[
        (
            "kernel-panic",
            "[    1.306953] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        ("kernel-panic", "[    2.1][    T1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"),
        ("kernel-panic", "Kernel panic - not syncing: No working init found."),
        ("kernel-panic", "Starting serv[    5.000001] Kernel panic - not syncing: sysrq triggered crash"),
        ("kernel-bug", "[   31.415926] BUG: kernel NULL pointer dereference, address: 0000000000000000"),
        ("kernel-bug", "[   31.415926] BUG: unable to handle page fault for address: ffffc90000000000"),
        ("kernel-bug", "[   31.415930] Oops: 0002 [#1] PREEMPT SMP PTI"),
        (
            "kernel-bug",
            "[   40.0] Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
        ),
        ("kernel-bug", "[   12.0] kernel BUG at fs/ext4/inode.c:2720!"),
        ("emergency-shell", "You are in emergency mode. After logging in, type \"journalctl -xb\" to view"),
        ("emergency-shell", "Cannot open access to console, the root account is locked."),
        ("emergency-shell", "Press Enter for maintenance"),
        ("emergency-shell", "Entering emergency mode. Exit the shell to continue."),
        ("initramfs-prompt", "(initramfs) "),
        ("initramfs-prompt", "(initramfs)"),
        ("initramfs-prompt", "ALERT!  LABEL=root does not exist.  Dropping to a shell!"),
        ("initramfs-prompt", "dracut:/# "),
        ("grub-rescue", "grub rescue> "),
        ("grub-rescue", "Entering rescue mode..."),
        ("grub-rescue", "grub> "),
        ("no-bootable-device", "No bootable device."),
        ("no-bootable-device", "No bootable device.  Retrying in 60 seconds."),
        ("no-bootable-device", "BdsDxe: No bootable option or device was found."),
        ("network-boot", "http://10.77.0.1:8080/netboot/nothing... No such file or directory (http://ipxe."),
        ("network-boot", "http://10.77.0.1:9/nothing... Connection reset (http://ipxe.org/0f0a6039)"),
        ("network-boot", "Could not select: Exec format error (http://ipxe.org/2e008001)"),
        ("network-boot", "Could not boot image: Exec format error (http://ipxe.org/2e008001)"),
        ("uefi-shell", "UEFI Interactive Shell v2.2"),
        ("uefi-shell", "Shell> "),
        ("uefi-shell", "Press ESC in 5 seconds to skip startup.nsh or any other key to continue."),
        (
            "out-of-memory",
            "[   93.7] postgres invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0",
        ),
        (
            "out-of-memory",
            "[   93.8] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom",
        ),
        (
            "out-of-memory",
            "[   93.9] Out of memory: Killed process 412 (stress) total-vm:1052680kB, anon-rss:801212kB, file-rss:4kB",
        ),
        ("out-of-memory", "[   93.9] Memory cgroup out of memory: Killed process 412 (etcd) total-vm:1052680kB"),
        ("io-error", "[   17.2] blk_update_request: I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x0"),
        ("io-error", "[   17.2] I/O error, dev vdb, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2"),
        ("io-error", "[   17.2] critical medium error, dev sda, sector 8 op 0x0:(READ) flags 0x0"),
        ("io-error", "[   17.3] Buffer I/O error on dev vda1, logical block 0, lost sync page write"),
        ("io-error", "[   17.3] Buffer I/O error on device dm-0, logical block 3"),
        (
            "io-error",
            "[   17.4] EXT4-fs error (device vda1): ext4_journal_check_start:83: comm systemd: Detected aborted journal",
        ),
        ("io-error", "[   17.4] EXT4-fs (vda1): Remounting filesystem read-only"),
        ("io-error", "[   17.4] Aborting journal on device vda1-8."),
        ("failed-unit", "[FAILED] Failed to start etcd.service - etcd - highly-available key value store."),
        ("failed-unit", "[FAILED] Failed to mount /data."),
        ("failed-unit", "[    4.2] systemd[1]: Failed to start systemd-modules-load.service - Load Kernel Modules."),
        ("soft-lockup", "[   52.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]"),
        ("soft-lockup", "[   52.1] NMI watchdog: Watchdog detected hard LOCKUP on cpu 1"),
        ("hung-task", "[  242.6] INFO: task jbd2/vda1-8:147 blocked for more than 120 seconds."),
        ("agent-failed", "bootproof-agent: stage 1 failed: no virtio port"),
    ];

    #[test]
    fn each_pattern_knows_its_real_samples_and_only_those() {
        for (name, line) in SAMPLES {
            assert_eq!(matching(line), [*name], "{line}");
        }
        for pattern in PATTERNS {
            assert!(SAMPLES.iter().any(|(name, _)| *name == pattern.name), "`{}` has no sample", pattern.name);
        }
    }

    #[test]
    fn talk_of_failures_is_no_failure() {
        for line in [
            "app[312]: the runbook says: Kernel panic - not syncing",
            "Oops: that did not work",
            "etcd: Failed to start listening",
            "[  OK  ] Started etcd.service - failed units are listed by systemctl --failed.",
            "[FAILED] Failed unmounting /var.",
            "[    0.2] blk_update_request: I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0",
            "[    0.2] I/O error, dev sr0, sector 0 op 0x0:(READ) flags 0x80700",
            "[    1.1] EXT4-fs (vda1): mounted filesystem with ordered data mode. Quota mode: none.",
            "[    1.1] traps: app[99] general protection fault ip:55d sp:7ff error:0 in app[55d+1000]",
            "http://10.77.0.1:8080/netboot/ipxe... ok",
            "Configuring (net0 52:54:00:5b:b6:4d)... ok",
            "Filename: http://10.77.0.1:8080/netboot/nothing",
            "No more network devices",
            "  Booting `Debian GNU/Linux'",
            "see grub rescue> in the manual",
            "type exit at the (initramfs) prompt",
            "Boot failed: not a bootable disk",
            "update-initramfs: Generating /boot/initrd.img-6.1.0-37-amd64",
            "[    0.1] Out of memory handling is on",
            "reading BUG: soft lockup - CPU#0 in a log",
        ] {
            assert_eq!(matching(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn every_pattern_has_literals_to_look_for_first() {
        for pattern in PATTERNS {
            let literals = required_literals(pattern.expression);
            assert!(literals.is_some(), "`{}` would be tried on every line", pattern.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = PATTERNS.iter().map(|pattern| pattern.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PATTERNS.len());
    }
}
