//! A deployer over real sockets, and machines that talk to it.

use std::net::SocketAddr;
use std::path::Path;

use bootproof::deployer::*;
use bootproof::provisioning::*;
use bootproof::secret::Secret;
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const CLASSES: &str = r#"
version = 1

[classes.worker]
bundle = "worker.tar.zst"
disk = { minimum_size = "1GiB" }
hostname = "worker-{number}"
kernel_parameters = ["quiet"]
desired_system = "web"

[classes.enrolled]
desired_system = "web"

[systems.web]
folder = "web"
health_check = { argv = ["true"], within = "10s" }

[systems.broken]
bundle = "broken.tar.zst"
"#;

/// The files that `CLASSES` names.
pub fn write_files(folder: &Path) {
    std::fs::write(folder.join("worker.tar.zst"), (0..300_000u32).map(|at| (at * 7) as u8).collect::<Vec<u8>>())
        .unwrap();
    std::fs::write(folder.join("broken.tar.zst"), "broken").unwrap();
    std::fs::create_dir_all(folder.join("web/units")).unwrap();
    std::fs::write(folder.join("web/units/web.service"), "[Service]\n").unwrap();
}

pub fn configuration(folder: &Path, text: &str) -> Configuration {
    let path = folder.join("deployer.toml");
    std::fs::write(&path, text).unwrap();
    Configuration::load(&path, &folder.join("state/packed")).unwrap()
}

pub struct Served {
    pub folder: tempfile::TempDir,
    pub deployer: Deployer,
    pub address: SocketAddr,
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(CLASSES).await
    }

    pub async fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path());
        Self::again(folder, text).await
    }

    /// On a folder that may hold a state.
    pub async fn again(folder: tempfile::TempDir, text: &str) -> Self {
        let deployer = Deployer::open(configuration(folder.path(), text), &folder.path().join("state")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = deployer.clone();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            // Also when it is only dropped.
            let _ = stopped.await;
        };
        let task = tokio::spawn(async move { serving.serve(listener, stopped).await.unwrap() });
        Self { folder, deployer, address, task, stop }
    }

    /// Ends it, and gives its folder.
    pub async fn stop(self) -> tempfile::TempDir {
        drop(self.stop);
        self.task.await.unwrap();
        drop(self.deployer);
        self.folder
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn client(&self, bearer: Option<&str>) -> Client {
        Client::new(&self.url(), None, bearer.map(|bearer| Secret::new(bearer.to_owned()))).unwrap()
    }

    pub fn admin(&self) -> Client {
        let token = read_token(&self.folder.path().join("state").join(ADMIN_TOKEN)).unwrap().unwrap();
        Client::new(&self.url(), None, Some(token)).unwrap()
    }

    pub async fn token(&self) -> String {
        self.deployer.create_token(&TokenOptions::default()).await.unwrap().1.expose().to_owned()
    }

    pub async fn phone_home(&self, bearer: Option<&str>, request: &PhoneHome) -> Answered {
        post(&self.client(bearer), PHONE_HOME, &serde_json::to_value(request).unwrap()).await
    }

    /// Phones home and is given a plan.
    pub async fn assigned(&self, bearer: &str, request: &PhoneHome) -> (String, Assignment) {
        let answered = self.phone_home(Some(bearer), request).await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        let answer: PhoneHomeAnswer = serde_json::from_value(answered.body).unwrap();
        (answer.node, answer.assignment.unwrap())
    }

    pub async fn report(&self, credential: &str, id: &str, report: NodeEvent) -> Answered {
        let body = NodeEventReport { version: 1, id: id.into(), report };
        post(&self.client(Some(credential)), NODE_EVENTS, &serde_json::to_value(body).unwrap()).await
    }

    /// All that an installation reports.
    pub async fn install(&self, credential: &str) {
        let events =
            [NodeEvent::BundleDownloaded, NodeEvent::DiskLayoutComplete, NodeEvent::SystemInstalled, NodeEvent::Booted];
        for (number, event) in events.into_iter().enumerate() {
            let answered = self.report(credential, &format!("install-{number}"), event).await;
            assert_eq!(answered.status, 204, "{}", answered.body);
        }
    }

    pub async fn state(&self, node: &str) -> NodeState {
        self.deployer.show(node).await.unwrap().node.state
    }
}

#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub body: Value,
}

impl Answered {
    /// A refusal's code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }
}

pub async fn send(client: &Client, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Answered {
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let answer = client.send(method, path, headers, bytes).await.unwrap();
    let status = answer.response.status();
    if !status.is_success() {
        let kind = answer.response.headers().get("content-type").map(|kind| kind.to_str().unwrap());
        assert_eq!(kind, Some("application/problem+json"), "{status}");
    }
    let body = if answer.body.is_empty() { json!(null) } else { serde_json::from_slice(&answer.body).unwrap() };
    Answered { status: status.as_u16(), body }
}

pub async fn post(client: &Client, path: &str, body: &Value) -> Answered {
    send(client, Method::POST, path, &[], body).await
}

/// A machine of its own: serial number, board and card follow from the number.
pub fn machine(number: u32) -> PhoneHome {
    PhoneHome {
        version: 1,
        identity: Identity {
            node_id: None,
            serial: Some(format!("node{number:02}")),
            uuid: Some(format!("11111111-0000-0000-0000-{number:012}")),
            macs: vec![format!("52:54:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 0xff, number & 0xff)],
        },
        stage: Stage::Installer,
        firmware: Firmware::Uefi,
        hostname: None,
        disks: vec![Disk {
            by_id: vec![format!("virtio-disk-{number}")],
            size: 8 << 30,
            model: None,
            serial: None,
            rotational: false,
            removable: false,
            signatures: vec![],
        }],
        memory: 1 << 30,
        agent_version: "0.1.0".into(),
    }
}
