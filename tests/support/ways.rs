//! One guest that every way leads into at once: the agent's port, the backdoor on hvc0, logins on serial ports of its own.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bootproof::channel::{AgentChannel, Answer, Channel, Greeting, LineChannel, LineOptions};
use bootproof::image::{Boot, ImageRequest, ImageStore, Silent};
use bootproof::lane::model::{ChannelKind, DebianImage, Image};
use bootproof::lane::units::Size;
use bootproof::plan::model::ImageSource;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::UnixStream;

/// What root logs in with.
pub const PASSWORD: &str = "correct horse";

/// The image's packages; those of ways that are added are added here.
const PACKAGES: [&str; 2] = ["openssh-server", "qemu-guest-agent"];

/// Everything that a Debian needs so that each way leads in.
const COMMANDS: [&str; 2] = [
    "echo 'root:correct horse' | chpasswd",
    "systemctl mask serial-getty@hvc0.service serial-getty@ttyS0.service; \
     systemctl enable backdoor.service serial-getty@ttyS1.service serial-getty@ttyS2.service",
];

const SERIAL_PORT: &str = "serial";
/// Lines of the guest's that lead somewhere, by the names of their sockets, with the device that each is.
const LINES: [(&str, &str); 5] = [
    // The guest numbers its ports in this order: ttyS1, ttyS2; hvc0, hvc1.
    ("login", SERIAL_PORT),
    ("wrong-login", SERIAL_PORT),
    ("backdoor", "virtconsole"),
    ("nobody", "virtconsole"),
    ("agent", "virtserialport,name=bootproof.agent.0"),
];

/// A bound on everything that a guest is asked for: only so that what hangs is told.
pub const LONG: Duration = Duration::from_secs(300);

/// A guest, and its QEMU, which ends with the test.
pub struct Guest {
    qemu: Child,
    folder: tempfile::TempDir,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The recipe, for lanes too.
pub fn image() -> DebianImage {
    DebianImage {
        suite: "bookworm".into(),
        packages: PACKAGES.map(str::to_owned).to_vec(),
        files: Some(PathBuf::from("tests/fixtures/ways")),
        commands: COMMANDS.map(str::to_owned).to_vec(),
        kernel: None,
        size: Size::gibibytes(2),
    }
}

impl Guest {
    /// Boots one; what it prints goes to a file.
    pub async fn boot() -> Self {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let store = ImageStore::open(&super::work_root(), project).unwrap();
        let request = ImageRequest {
            name: "ways".into(),
            image: Image { debian: Some(image()), ..Image::default() },
            source: ImageSource::Debian,
            base_directory: project.into(),
            locked: false,
        };
        let built = store.ensure(&request, Arc::new(Silent).as_ref(), Default::default()).await.unwrap();
        let Boot::Kernel { kernel, uncompressed_kernel, initramfs, parameters } = built.boot else {
            panic!("a Debian image has a kernel")
        };
        let folder = tempfile::tempdir().unwrap();
        let disk = built.disk.unwrap();
        let mut command = Command::new(bootproof::machine::qemu::program());
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,usb=off,vmport=off"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G"]);
        command.arg("-kernel").arg(uncompressed_kernel.unwrap_or(kernel)).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(format!("console=ttyS0 bootproof.node=ways {}", parameters.join(" ")));
        let format = disk.format.as_str();
        command.arg("-drive").arg(format!("id=root,if=none,snapshot=on,format={format},file={}", disk.path.display()));
        command.args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
        command.args([
            "-object",
            "rng-random,id=entropy,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=entropy",
        ]);
        command.args(["-device", "virtio-serial-pci,id=ports"]);
        command.arg("-serial").arg(format!("file:{}", folder.path().join("console.log").display()));
        // QEMU inherits sockets that listen already: connecting never has to be tried twice.
        let mut listening = Vec::new();
        let mut socket = |command: &mut Command, name: &str| {
            let listener = UnixListener::bind(folder.path().join(name)).unwrap();
            fcntl_setfd(&listener, FdFlags::empty()).unwrap();
            let fd = listener.as_raw_fd();
            command.arg("-chardev").arg(format!("socket,id={name},fd={fd},server=on,wait=off"));
            listening.push(listener);
        };
        for (name, device) in LINES {
            socket(&mut command, name);
            if device == SERIAL_PORT {
                command.arg("-serial").arg(format!("chardev:{name}"));
            } else {
                command.arg("-device").arg(format!("{device},chardev={name}"));
            }
        }
        // It goes on once everybody listens.
        socket(&mut command, "qmp");
        command.args(["-S", "-mon", "chardev=qmp,mode=control"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: between fork and exec only one async-signal-safe system call happens: prctl.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                    .map_err(Into::into)
            });
        }
        let qemu = command.spawn().unwrap();
        drop(listening);
        Self { qemu, folder }
    }

    async fn line(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.folder.path().join(name)).await.unwrap()
    }

    /// Lets the guest run, once its lines are taken.
    pub async fn go(&self) {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut monitor = BufReader::new(self.line("qmp").await);
        for command in ["qmp_capabilities", "cont"] {
            monitor.get_mut().write_all(format!("{{\"execute\": \"{command}\"}}\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            while !answer.contains("\"return\"") {
                answer.clear();
                monitor.read_line(&mut answer).await.unwrap();
            }
        }
    }

    pub async fn agent(&self) -> Arc<dyn Channel> {
        let (channel, mut events) = AgentChannel::start(self.line("agent").await);
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        Arc::new(channel)
    }

    /// The shell that greets on a virtio console, or nobody, within a bound.
    pub async fn backdoor(&self, line: &str, within: Duration) -> Arc<dyn Channel> {
        let options = LineOptions {
            kind: ChannelKind::Backdoor,
            device: "hvc0".into(),
            greeting: Greeting::Backdoor,
            within,
            input_chunk: LineOptions::VIRTIO_CHUNK,
        };
        Arc::new(LineChannel::start(self.line(line).await, options))
    }

    /// A login on a serial port, as a lane has it that says no more than the password.
    pub async fn login(&self, line: &str, password: &str) -> Arc<dyn Channel> {
        let answer = |expect: &str, send: &str| Answer { expect: expect.into(), send: send.to_owned().into() };
        let options = LineOptions {
            kind: ChannelKind::Serial,
            device: "ttyS1".into(),
            greeting: Greeting::Dialogue {
                answers: vec![answer("login: ", "root"), answer("assword: ", password)],
                prompts: vec!["# ".into(), "$ ".into()],
                refusals: vec!["Login incorrect".into()],
            },
            within: LONG,
            input_chunk: LineOptions::SERIAL_CHUNK,
        };
        Arc::new(LineChannel::start(self.line(line).await, options))
    }

    /// As the power goes.
    pub fn kill(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }

    /// What the guest printed, for a failure's message.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("console.log")).unwrap_or_default()
    }
}

/// The ways by name, as they are tried.
pub type Ways = BTreeMap<&'static str, Arc<dyn Channel>>;
