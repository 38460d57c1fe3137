//! QEMU's command line for a machine: a pure function of what the machine is (and, where its clock is wrong, of the time),
//! so that it can be printed and compared.

use std::path::{Path, PathBuf};

use super::devices::{Plugged, port_options};
use super::disk_server::DiskServer;
use super::write_log::WriteLog;
use crate::lane::model::{ConsoleDevice, Firmware, LoginDevice, Network};
use crate::lane::units::{Shift, Size};
use crate::machine::FirstBoot;
use crate::plan::model::Accelerator;
use jiff::{SignedDuration, Timestamp};

/// Everything that decides the command line.
#[derive(Clone, Debug)]
pub struct QemuDefinition {
    pub name: String,
    pub accelerator: Accelerator,
    pub cpus: u32,
    pub memory: Size,
    pub firmware: Firmware,
    /// Code and variable store, for UEFI; the store is this machine's own copy.
    pub uefi: Option<(PathBuf, PathBuf)>,
    pub direct_kernel: Option<DirectKernel>,
    /// In boot order.
    pub disks: Vec<AttachedDisk>,
    /// A CD, which the firmware boots where no disk does.
    pub medium: Option<PathBuf>,
    pub identity: Identity,
    /// How wrong the hardware clock is.
    pub clock: Option<Shift>,
    pub network: Network,
    /// Places in the lane's networks.
    pub links: Vec<AttachedLink>,
    pub console: ConsoleDevice,
    /// The device that leads to a shell, where one does.
    pub line: Option<LoginDevice>,
    /// It has the port of QEMU's own agent beside ours.
    pub guest_agent: bool,
    /// Folders of the host that the guest reads, by the tags that it mounts them by.
    pub shares: Vec<(String, PathBuf)>,
    /// A program that carries one guest connection to a service on the host (`program relay ADDRESS`).
    pub relay: PathBuf,
    /// Cards and data disks sit behind ports of their own, so that they can be plugged in while the guest runs.
    pub pluggable: bool,
    /// The guest's memory where it is a file: while a checkpoint is made of it, and after it was forked from one.
    pub memory_file: Option<MemoryFile>,
}

/// A file that is the guest's memory.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    pub path: PathBuf,
    /// What the guest writes goes into the file. Otherwise it stays the guest's own, and the file as it is.
    pub shared: bool,
}

/// What the machine finds of itself in its firmware's tables; nothing where the serial number is empty.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// DMI's serial number of the product.
    pub serial: String,
    /// DMI's number of the product, in the form of a UUID.
    pub uuid: String,
    /// A file with DMI's OEM string: the kernel parameters that the medium's boot loader hands on.
    pub oem_string: Option<PathBuf>,
    /// Files that the guest finds below `/sys/firmware/qemu_fw_cfg/by_name`, by name: what no command line may hold.
    pub secrets: Vec<(String, PathBuf)>,
}

#[derive(Clone, Debug)]
pub struct DirectKernel {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Besides the console's, which follow from the definition.
    pub parameters: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct AttachedDisk {
    /// Becomes the serial number: `/dev/disk/by-id/virtio-<serial>`.
    pub serial: String,
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    /// The server that plays the disk; QEMU opens the file itself when absent.
    pub server: Option<DiskServer>,
    /// Every write is logged, so that a power cut can take some of them back.
    pub log: Option<WriteLog>,
}

impl AttachedDisk {
    pub(super) fn device_id(&self) -> String {
        format!("disk-{}", self.serial)
    }

    /// By which the monitor knows what the device reads and writes through: virtio's own half of it.
    pub fn backend_path(&self) -> String {
        format!("/machine/peripheral/{}/virtio-backend", self.device_id())
    }
}

/// A network card whose cable ends in a unix socket.
#[derive(Clone, Debug)]
pub struct AttachedLink {
    pub network: String,
    pub mac: String,
    /// Somebody listens there already.
    pub socket: PathBuf,
    /// The card's place in the firmware's boot order; `None`: nothing boots from it.
    pub boot_index: Option<usize>,
}

/// Names of the sockets that QEMU inherits; `{fd:NAME}` in the arguments.
const SOCKETS: [&str; 4] = ["qmp", "console", "console-hvc0", "agent"];
/// That of the serial port on which somebody logs in.
pub const LOGIN_SOCKET: &str = "login";
/// That of the port of QEMU's own agent.
pub const GUEST_AGENT: &str = "guest-agent";

impl QemuDefinition {
    /// The arguments after the program's name, for a machine that is switched on now.
    pub fn arguments(&self, first: FirstBoot, now: Timestamp) -> Vec<String> {
        let mut arguments = Arguments(Vec::new());
        arguments.pair("-name", &format!("{},debug-threads=on", self.name));
        arguments.flag("-nodefaults");
        arguments.flag("-no-user-config");
        arguments.pair("-display", "none");
        // Started paused: every console has its reader before the first byte.
        arguments.flag("-S");
        // A declared service needs a helper process for each connection; nothing else may start one.
        let helpers = if self.network.services.is_empty() { "deny" } else { "allow" };
        // libslirp lets each begin a session of its own, which QEMU counts among what elevates privileges: it would be killed.
        let sandbox = format!("on,obsolete=deny,elevateprivileges={helpers},spawn={helpers},resourcecontrol=deny");
        arguments.pair("-sandbox", &sandbox);
        // Without a screen of its own a BIOS writes to the serial port: what became of booting from the network is told there.
        let to_serial = self.boots_from_network() && self.uefi.is_none();
        let graphics = if to_serial { ",graphics=off" } else { "" };
        let options = format!("q35,usb=off,vmport=off,dump-guest-core=off,memory-backend=ram{graphics}");
        arguments.pair("-machine", &options);
        self.push_memory(&mut arguments, first);
        match self.accelerator {
            Accelerator::Kvm => {
                arguments.pair("-accel", "kvm");
                arguments.pair("-cpu", "host");
            }
            Accelerator::Tcg => {
                arguments.pair("-accel", "tcg,thread=multi");
                arguments.pair("-cpu", "max");
            }
        }
        arguments.pair("-smp", &self.cpus.to_string());
        arguments.pair("-m", &format!("{}B", self.memory.bytes()));
        self.push_firmware(&mut arguments);
        self.push_identity(&mut arguments);
        if let Some(clock) = self.clock {
            arguments.pair("-rtc", &format!("base={}", hardware_clock(now, clock)));
        }
        self.push_channels(&mut arguments);
        // Numbers that the firmware goes by; none is given twice.
        let medium_index = if first == FirstBoot::Medium { 1 } else { self.medium_last() };
        if let Some(medium) = &self.medium {
            let file = escape(medium);
            let medium = format!("node-name=medium,read-only=on,driver=raw,file.driver=file,file.filename={file}");
            arguments.pair("-blockdev", &medium);
            arguments.pair("-device", &format!("ide-cd,id=medium,bus=ide.0,drive=medium,bootindex={medium_index}"));
        }
        for port in 0..self.ports() {
            arguments.pair("-device", &port_options(port));
        }
        // Of what can be plugged in a checkpoint knows nothing: that follows once the guest's memory is there.
        let plugged = if first == FirstBoot::Forked { Plugged::Later } else { Plugged::FromTheStart };
        for (index, disk) in self.disks.iter().enumerate() {
            if plugged == Plugged::FromTheStart || !self.is_pluggable(disk) {
                arguments.pair("-blockdev", &self.block_options(index, disk));
                arguments.pair("-device", &self.disk_options(index, disk));
            }
        }
        if plugged == Plugged::FromTheStart {
            for card in self.cards() {
                arguments.pair("-netdev", &card.backend);
                arguments.pair("-device", &card.device);
            }
        }
        for (index, (tag, folder)) in self.shares.iter().enumerate() {
            // Read-only whatever the guest tries, and no number of a file is there twice where file systems meet.
            let options = "security_model=none,readonly=on,multidevs=remap";
            arguments.pair("-fsdev", &format!("local,id=share{index},path={},{options}", escape(folder)));
            arguments.pair("-device", &format!("virtio-9p-pci,fsdev=share{index},mount_tag={tag}"));
        }
        arguments.pair("-object", "rng-random,id=entropy,filename=/dev/urandom");
        arguments.pair("-device", "virtio-rng-pci,rng=entropy");
        arguments.0
    }

    /// The names of the sockets that QEMU inherits.
    pub fn sockets(&self) -> impl Iterator<Item = &'static str> + use<> {
        let login = (self.line == Some(LoginDevice::Serial)).then_some(LOGIN_SOCKET);
        SOCKETS.into_iter().chain(login).chain(self.guest_agent.then_some(GUEST_AGENT))
    }

    fn boots_from_network(&self) -> bool {
        self.links.iter().any(|link| link.boot_index.is_some())
    }

    /// What QEMU tells the kernel; `None` where a boot loader does.
    pub fn command_line(&self) -> Option<String> {
        self.direct_kernel.as_ref().map(|direct| self.kernel_command_line(&direct.parameters))
    }

    /// The medium's place in the boot order after all disks.
    pub fn medium_last(&self) -> usize {
        self.disks.len() + 2
    }

    /// The block nodes of disks that the lane may make fail.
    pub fn fallible_nodes(&self) -> Vec<String> {
        let fallible = |disk: &AttachedDisk| disk.server.as_ref().is_some_and(|server| server.fallible);
        let nodes = self.disks.iter().enumerate().filter(|(_, disk)| fallible(disk));
        nodes.map(|(index, _)| format!("disk{index}")).collect()
    }

    fn push_firmware(&self, arguments: &mut Arguments) {
        if let Some((code, variables)) = &self.uefi {
            let code = escape(code);
            let variables = escape(variables);
            arguments.pair("-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
            arguments.pair("-drive", &format!("if=pflash,unit=1,format=raw,file={variables}"));
        }
        if let Some(direct) = &self.direct_kernel {
            arguments.pair("-kernel", &direct.kernel.to_string_lossy());
            arguments.pair("-initrd", &direct.initramfs.to_string_lossy());
            arguments.pair("-append", &self.kernel_command_line(&direct.parameters));
        }
    }

    fn push_identity(&self, arguments: &mut Arguments) {
        let Identity { serial, uuid, oem_string, secrets } = &self.identity;
        if !serial.is_empty() {
            arguments.pair("-smbios", &format!("type=1,serial={serial},uuid={uuid}"));
        }
        if let Some(file) = oem_string {
            arguments.pair("-smbios", &format!("type=11,path={}", escape(file)));
        }
        for (name, file) in secrets {
            arguments.pair("-fw_cfg", &format!("name={name},file={}", escape(file)));
        }
    }

    /// The last `console=` is the guest's `/dev/console`: markers go there.
    fn kernel_command_line(&self, parameters: &[String]) -> String {
        let mut line = String::from(console_parameters(self.console));
        for parameter in parameters {
            line.push(' ');
            line.push_str(parameter);
        }
        line
    }

    fn push_channels(&self, arguments: &mut Arguments) {
        for socket in self.sockets() {
            arguments.pair("-chardev", &format!("socket,id={socket},fd={{fd:{socket}}},server=on,wait=off"));
        }
        arguments.pair("-mon", "chardev=qmp,mode=control");
        arguments.pair("-serial", "chardev:console");
        if self.line == Some(LoginDevice::Serial) {
            arguments.pair("-serial", &format!("chardev:{LOGIN_SOCKET}"));
        }
        arguments.pair("-device", "virtio-serial-pci,id=channels");
        arguments.pair("-device", "virtconsole,bus=channels.0,chardev=console-hvc0");
        arguments.pair("-device", "virtserialport,bus=channels.0,chardev=agent,name=bootproof.agent.0");
        if self.guest_agent {
            let port = "virtserialport,bus=channels.0,chardev=guest-agent,name=org.qemu.guest_agent.0";
            arguments.pair("-device", port);
        }
    }

    fn push_memory(&self, arguments: &mut Arguments, first: FirstBoot) {
        let size = self.memory.bytes();
        // The same name whatever it is made of: it stands in what is saved.
        let object = match &self.memory_file {
            Some(MemoryFile { path, shared }) if *shared || first == FirstBoot::Forked => {
                let share = if *shared { "on" } else { "off" };
                format!("memory-backend-file,id=ram,size={size},mem-path={},share={share}", escape(path))
            }
            _ => format!("memory-backend-ram,id=ram,size={size}"),
        };
        arguments.pair("-object", &object);
        if matches!(first, FirstBoot::Forked | FirstBoot::Restored) {
            arguments.pair("-incoming", "defer");
        }
    }
}

/// What tells a kernel where its console is.
pub fn console_parameters(console: ConsoleDevice) -> &'static str {
    match console {
        ConsoleDevice::Serial => "console=ttyS0",
        ConsoleDevice::Virtio => "console=ttyS0 console=hvc0",
    }
}

struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn pair(&mut self, name: &str, value: &str) {
        self.flag(name);
        self.0.push(value.into());
    }
}

/// What a clock shows that is so wrong, as QEMU reads it: UTC, to the second.
fn hardware_clock(now: Timestamp, wrong_by: Shift) -> String {
    let shown = now.checked_add(SignedDuration::from_millis(wrong_by.0)).unwrap_or(now);
    shown.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// A path inside an option list: commas are doubled.
pub(super) fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The command line as a person would type it, with sockets by name.
pub fn render(program: &Path, arguments: &[String]) -> String {
    let mut text = quote(&program.to_string_lossy());
    for argument in arguments {
        text.push_str(if argument.starts_with('-') { " \\\n  " } else { " " });
        text.push_str(&quote(argument));
    }
    text.push('\n');
    text
}

fn quote(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=,@+{}".contains(character);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn definition() -> QemuDefinition {
        QemuDefinition {
            name: "node01".into(),
            accelerator: Accelerator::Tcg,
            cpus: 2,
            memory: Size::gibibytes(1),
            firmware: Firmware::Bios,
            uefi: None,
            direct_kernel: Some(DirectKernel {
                kernel: "/k".into(),
                initramfs: "/i".into(),
                parameters: vec!["panic=-1".into()],
            }),
            disks: vec![AttachedDisk {
                serial: "root".into(),
                path: "/a,b.qcow2".into(),
                format: "qcow2".into(),
                server: None,
                log: None,
            }],
            medium: None,
            identity: Identity { serial: "node01".into(), uuid: "u".into(), ..Identity::default() },
            clock: None,
            links: Vec::new(),
            network: Network { forward: vec![22], ..Network::default() },
            console: ConsoleDevice::Serial,
            line: None,
            guest_agent: false,
            shares: vec![("store".into(), "/s,t".into())],
            relay: "/bin/bootproof".into(),
            pluggable: false,
            memory_file: None,
        }
    }

    fn value_of<'a>(arguments: &'a [String], name: &str) -> Vec<&'a str> {
        arguments.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn a_guest_is_hermetic_unless_the_lane_asks_for_more() {
        let mut machine = definition();
        assert!(value_of(&machine.arguments(FirstBoot::Disk, NOW), "-netdev")[0].contains("restrict=on"));
        assert!(
            value_of(&machine.arguments(FirstBoot::Disk, NOW), "-sandbox")[0]
                .contains("elevateprivileges=deny,spawn=deny")
        );
        machine.network.internet = true;
        assert!(value_of(&machine.arguments(FirstBoot::Disk, NOW), "-netdev")[0].contains("restrict=off"));
        machine.network.none = true;
        assert!(value_of(&machine.arguments(FirstBoot::Disk, NOW), "-netdev").is_empty());
    }

    #[test]
    fn ports_are_picked_by_qemu_and_paths_are_escaped() {
        let arguments = definition().arguments(FirstBoot::Disk, NOW);
        assert!(value_of(&arguments, "-netdev")[0].contains("hostfwd=tcp:127.0.0.1:0-:22"));
        assert!(value_of(&arguments, "-blockdev")[0].contains("file.filename=/a,,b.qcow2"));
        assert!(value_of(&arguments, "-device").iter().any(|device| device.contains("serial=root")));
    }

    #[test]
    fn what_a_guest_reads_of_the_host_it_cannot_write() {
        let arguments = definition().arguments(FirstBoot::Disk, NOW);
        assert_eq!(value_of(&arguments, "-fsdev").len(), 1);
        let share = value_of(&arguments, "-fsdev")[0];
        assert!(share.contains("path=/s,,t,") && share.contains("readonly=on"), "{share}");
        assert!(value_of(&arguments, "-device").iter().any(|device| device.contains("mount_tag=store")));
    }

    #[test]
    fn a_medium_is_booted_after_the_disks_or_before_them_and_secrets_are_files() {
        let mut machine = definition();
        machine.direct_kernel = None;
        machine.medium = Some("/i,so".into());
        machine.identity.oem_string = Some("/oem".into());
        machine.identity.secrets = vec![("opt/org.bootproof/token".into(), "/secret".into())];
        let index = |arguments: &[String], device: &str| -> u32 {
            let devices = value_of(arguments, "-device");
            let device = devices.iter().find(|text| text.starts_with(device)).unwrap();
            device.rsplit_once("bootindex=").unwrap().1.parse().unwrap()
        };
        let arguments = machine.arguments(FirstBoot::Disk, NOW);
        assert!(index(&arguments, "ide-cd") > index(&arguments, "virtio-blk"));
        assert!(value_of(&arguments, "-blockdev")[0].ends_with("file.filename=/i,,so"));
        assert_eq!(value_of(&arguments, "-smbios"), ["type=1,serial=node01,uuid=u", "type=11,path=/oem"]);
        assert_eq!(value_of(&arguments, "-fw_cfg"), ["name=opt/org.bootproof/token,file=/secret"]);
        let arguments = machine.arguments(FirstBoot::Medium, NOW);
        assert!(index(&arguments, "ide-cd") < index(&arguments, "virtio-blk"));
    }

    #[test]
    fn from_the_network_boots_who_is_to_and_tells_of_it() {
        let mut machine = definition();
        machine.direct_kernel = None;
        let link = AttachedLink { network: "lan".into(), mac: "m".into(), socket: "/s".into(), boot_index: None };
        machine.links = vec![link.clone()];
        let card = |arguments: &[String]| {
            let devices = value_of(arguments, "-device");
            devices.iter().find(|device| device.contains("netdev=link0")).unwrap().to_string()
        };
        let arguments = machine.arguments(FirstBoot::Disk, NOW);
        assert!(card(&arguments).ends_with("mac=m,romfile="));
        assert!(!value_of(&arguments, "-machine")[0].contains("graphics"));
        machine.links = vec![AttachedLink { boot_index: Some(1), ..link }];
        let arguments = machine.arguments(FirstBoot::Disk, NOW);
        assert!(card(&arguments).ends_with("mac=m,bootindex=1"));
        assert!(value_of(&arguments, "-machine")[0].ends_with("graphics=off"));
        machine.uefi = Some(("/c".into(), "/v".into()));
        assert!(!value_of(&machine.arguments(FirstBoot::Disk, NOW), "-machine")[0].contains("graphics"));
    }

    #[test]
    fn a_fork_gets_later_what_a_boot_has_from_the_start() {
        let mut machine = definition();
        machine.pluggable = true;
        machine.memory_file = Some(MemoryFile { path: "/m".into(), shared: false });
        machine.disks.push(AttachedDisk { serial: "data".into(), path: "/d".into(), ..machine.disks[0].clone() });
        machine.links = vec![AttachedLink {
            network: "lan".into(),
            mac: "52:54:00:00:00:01".into(),
            socket: "/l".into(),
            boot_index: None,
        }];
        let now = Timestamp::UNIX_EPOCH;
        let (boot, fork) = (machine.arguments(FirstBoot::Disk, now), machine.arguments(FirstBoot::Forked, now));
        let of = |arguments: &[String], name: &str, start: &str| {
            value_of(arguments, name).iter().filter(|value| value.starts_with(start)).count()
        };
        assert_eq!((of(&boot, "-device", "virtio-net"), of(&fork, "-device", "virtio-net")), (2, 0));
        assert_eq!((of(&boot, "-device", "virtio-blk"), of(&fork, "-device", "virtio-blk")), (2, 1));
        assert_eq!(of(&boot, "-device", "pcie-root-port"), of(&fork, "-device", "pcie-root-port"));
        assert_eq!(of(&boot, "-object", "memory-backend-ram"), 1, "what it boots into is its own");
        assert_eq!(value_of(&fork, "-incoming"), ["defer"]);
        assert!(value_of(&fork, "-object").iter().any(|object| object.ends_with("mem-path=/m,share=off")));
        assert_eq!((machine.plugs().len(), machine.ports_wanted()), (6, 3), "a backend and a device each");
        let place = |start: &str| boot.iter().position(|argument| argument.starts_with(start)).unwrap();
        assert!(
            place("pcie-root-port") < place("virtio-blk-pci,id=disk-data"),
            "a port is there before what sits in it"
        );
        assert!(machine.macs().contains(&"52:54:00:00:00:01".to_owned()));
    }

    #[test]
    fn the_console_that_is_asked_for_comes_last() {
        let mut machine = definition();
        machine.console = ConsoleDevice::Virtio;
        assert_eq!(
            value_of(&machine.arguments(FirstBoot::Disk, NOW), "-append"),
            ["console=ttyS0 console=hvc0 panic=-1"]
        );
    }

    #[test]
    fn a_login_has_a_serial_port_of_its_own() {
        let mut machine = definition();
        let ports = |machine: &QemuDefinition| {
            let arguments = machine.arguments(FirstBoot::Disk, NOW);
            value_of(&arguments, "-serial").into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(ports(&machine), ["chardev:console"]);
        machine.line = Some(LoginDevice::Virtio);
        assert_eq!(ports(&machine), ["chardev:console"], "hvc0 is there anyway");
        machine.line = Some(LoginDevice::Serial);
        assert_eq!(ports(&machine), ["chardev:console", "chardev:login"]);
        assert!(machine.sockets().any(|socket| socket == "login"));
    }

    #[test]
    fn qemus_own_agent_has_a_port_where_it_is_asked_for() {
        let mut machine = definition();
        let has_it = |machine: &QemuDefinition| {
            machine.arguments(FirstBoot::Disk, NOW).iter().any(|word| word.contains("org.qemu.guest_agent.0"))
        };
        assert!(!has_it(&machine));
        machine.guest_agent = true;
        assert!(has_it(&machine) && machine.sockets().any(|socket| socket == "guest-agent"));
    }

    #[test]
    fn a_clock_that_is_wrong_is_wrong_by_so_much_whenever_the_machine_is_switched_on() {
        let mut machine = definition();
        assert!(value_of(&machine.arguments(FirstBoot::Disk, NOW), "-rtc").is_empty());
        machine.clock = Some("-365d".parse().unwrap());
        let later = NOW + SignedDuration::from_hours(400 * 24);
        assert_eq!(value_of(&machine.arguments(FirstBoot::Disk, later), "-rtc"), ["base=1970-02-05T00:00:00"]);
        machine.clock = Some("+1h 30m".parse().unwrap());
        assert_eq!(value_of(&machine.arguments(FirstBoot::Disk, NOW), "-rtc"), ["base=1970-01-01T01:30:00"]);
    }

    #[test]
    fn the_rendered_command_line_can_be_pasted() {
        assert_eq!(render(Path::new("/q"), &["-append".into(), "a b".into()]), "/q \\\n  -append 'a b'\n");
    }
}
