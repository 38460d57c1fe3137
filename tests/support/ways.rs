//! One guest that every way leads into at once: the agent's port, the backdoor on hvc0, logins on serial ports of its own, SSH by a
//! forwarded port, qemu-guest-agent's port.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bootproof::channel::ssh::{ByteStream, SshChannel, SshKey, SshLogin, SshPublicKey, SshSettings};
use bootproof::channel::{
    AgentChannel, Answer, Channel, ChannelError, Greeting, GuestAgentChannel, LineChannel, LineOptions,
};
use bootproof::image::{Boot, ImageRequest, ImageStore, Silent};
use bootproof::lane::model::{ChannelKind, DebianImage, Image};
use bootproof::lane::units::Size;
use bootproof::plan::model::ImageSource;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::{TcpStream, UnixStream};

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
const LINES: [(&str, &str); 6] = [
    // The guest numbers its ports in this order: ttyS1, ttyS2; hvc0, hvc1.
    ("login", SERIAL_PORT),
    ("wrong-login", SERIAL_PORT),
    ("backdoor", "virtconsole"),
    ("nobody", "virtconsole"),
    ("agent", "virtserialport,name=bootproof.agent.0"),
    ("guest-agent", "virtserialport,name=org.qemu.guest_agent.0"),
];

/// A bound on everything that a guest is asked for: only so that what hangs is told.
pub const LONG: Duration = Duration::from_secs(300);

/// A guest, and its QEMU, which ends with the test.
pub struct Guest {
    qemu: Child,
    folder: tempfile::TempDir,
    /// Who logs in by SSH, and what the server shows.
    key: SshKey,
    host_key: SshPublicKey,
    /// The host's port that leads to the guest's SSH server, once QEMU has told it.
    forwarded: Arc<OnceLock<u16>>,
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

/// What systemd-tmpfiles writes before the server starts.
fn tmpfiles(key: &SshKey, host_key: &SshKey) -> String {
    let file =
        |path: &str, mode: &str, content: &str| format!("f+~ {path} {mode} root root - {}\n", BASE64.encode(content));
    [
        "d /root/.ssh 0700 root root -\n".to_owned(),
        file("/root/.ssh/authorized_keys", "0600", &format!("{}\n", key.public().to_line())),
        file("/etc/ssh/ssh_host_ed25519_key", "0600", &host_key.to_openssh().unwrap()),
        file("/etc/ssh/ssh_host_ed25519_key.pub", "0644", &format!("{}\n", host_key.public().to_line())),
    ]
    .concat()
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
        command.args(["-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"]);
        command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        // As a run hands keys in.
        let (key, host_key) = (SshKey::generate("test").unwrap(), SshKey::generate("ways").unwrap());
        let credential = folder.path().join("credential");
        std::fs::write(&credential, tmpfiles(&key, &host_key)).unwrap();
        command
            .arg("-fw_cfg")
            .arg(format!("name=opt/io.systemd.credentials/tmpfiles.extra,file={}", credential.display()));
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
        Self { qemu, folder, key, host_key: host_key.public(), forwarded: Arc::default() }
    }

    async fn line(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.folder.path().join(name)).await.unwrap()
    }

    /// Lets the guest run, once its lines are taken.
    pub async fn go(&self) {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut monitor = BufReader::new(self.line("qmp").await);
        let forwards = r#"human-monitor-command", "arguments": {"command-line": "info usernet"}, "id": "1"#;
        for command in ["qmp_capabilities", forwards, "cont"] {
            monitor.get_mut().write_all(format!("{{\"execute\": \"{command}\"}}\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            while !answer.contains("\"return\"") {
                answer.clear();
                monitor.read_line(&mut answer).await.unwrap();
            }
            if command == forwards {
                // `TCP[HOST_FORWARD]  12  127.0.0.1  42423  10.0.2.15  22  0  0`
                let words = answer.split_once("HOST_FORWARD").unwrap().1.split_whitespace();
                self.forwarded.set(words.skip(3).find_map(|word| word.parse().ok()).unwrap()).unwrap();
            }
        }
    }

    /// SSH by the forwarded port, as root.
    pub fn ssh(&self) -> Arc<dyn Channel> {
        let (forwarded, host_key) = (self.forwarded.clone(), self.host_key.clone());
        let connector = move || {
            let port = *forwarded.get().expect("the guest goes on first");
            Box::pin(async move {
                // QEMU listens for as long as it lives.
                let gone = |error| match error {
                    error if std::io::Error::kind(&error) != std::io::ErrorKind::ConnectionRefused => error,
                    _ => std::io::Error::other(ChannelError::Closed { reason: "QEMU is gone".into() }),
                };
                let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(gone)?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            }) as _
        };
        Arc::new(SshChannel::new(SshSettings {
            connector: Arc::new(connector),
            login: SshLogin { user: "root".into(), key: self.key.clone(), handshake: LONG, keepalive: LONG },
            host_key: Arc::new(move || Some(host_key.clone())),
            within: LONG,
            place: "the forwarded port 22".into(),
        }))
    }

    pub async fn guest_agent(&self) -> Arc<dyn Channel> {
        Arc::new(GuestAgentChannel::start(self.line("guest-agent").await, LONG, LONG))
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
