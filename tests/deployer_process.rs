//! The deployer as a process: killed, ended, damaged, backed up, under TLS, asked from the command line.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bootproof::deployer::*;
use bootproof::provisioning::*;
use bootproof::secret::Secret;
use hyper::Method;
use serde_json::json;
use tokio::sync::Notify;

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/deployer.rs"]
mod support;

use support::{CLASSES, configuration, machine, post, send, write_files};

/// What it said to standard error, read while it runs so that it never waits for us.
struct Server {
    child: Child,
    addresses: Vec<String>,
    log: Option<std::thread::JoinHandle<String>>,
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootproof"));
    command.current_dir(folder).env_remove("BOOTPROOF_DEPLOYER_URL");
    command
}

impl Server {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = command(folder);
        command.args(["-v", "-v", "deployer", "serve", "--config", "deployer.toml"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            text
        });
        let mut addresses = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in arguments.iter().filter(|argument| argument.starts_with("--listen")) {
            let Some(line) = lines.next() else { panic!("it ended: {}", log.join().unwrap()) };
            addresses.push(line.unwrap().strip_prefix("listening on ").unwrap().to_owned());
        }
        Self { child, addresses, log: Some(log) }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit code and what it said.
    fn wait(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    std::fs::write(folder.path().join("deployer.toml"), text).unwrap();
    folder
}

fn admin_token(folder: &Path) -> Secret {
    read_token(&folder.join("work/deployer").join(ADMIN_TOKEN)).unwrap().unwrap()
}

fn admin(folder: &Path, url: &str) -> Client {
    Client::new(url, None, Some(admin_token(folder))).unwrap()
}

fn client(url: &str, bearer: &str) -> Client {
    Client::new(url, None, Some(Secret::new(bearer.to_owned()))).unwrap()
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What was acknowledged before the kill.
#[derive(Clone)]
struct Acknowledged {
    number: u32,
    node: String,
    credential: String,
    reported: bool,
}

/// Machines phone home and report, until the server is gone.
async fn load(url: String, token: String, first: u32, count: Arc<(AtomicUsize, Notify)>) -> Vec<Acknowledged> {
    let mut done: Vec<Acknowledged> = Vec::new();
    for number in first.. {
        let body = serde_json::to_vec(&machine(number)).unwrap();
        let Ok(answer) = client(&url, &token).send(Method::POST, PHONE_HOME, &[], body).await else { return done };
        assert_eq!(answer.response.status().as_u16(), 200, "{:?}", answer.body);
        let answer: PhoneHomeAnswer = serde_json::from_slice(&answer.body).unwrap();
        let credential = answer.assignment.unwrap().credential;
        done.push(Acknowledged { number, node: answer.node, credential: credential.clone(), reported: false });
        count.0.fetch_add(1, Ordering::SeqCst);
        count.1.notify_waiters();
        let report = NodeEventReport { version: 1, id: format!("r{number}"), report: NodeEvent::BundleDownloaded };
        let body = serde_json::to_vec(&report).unwrap();
        let Ok(answer) = client(&url, &credential).send(Method::POST, NODE_EVENTS, &[], body).await else {
            return done;
        };
        assert_eq!(answer.response.status().as_u16(), 204, "{:?}", answer.body);
        done.last_mut().unwrap().reported = true;
        count.0.fetch_add(1, Ordering::SeqCst);
        count.1.notify_waiters();
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_survives_a_kill_at_any_moment() {
    let moments: u32 = std::env::var("BOOTPROOF_CRASH_MOMENTS").map_or(6, |text| text.parse().unwrap());
    let folder = folder(&format!("default_class = \"worker\"\n{CLASSES}"));
    let mut server = Server::start(folder.path(), &["--listen=127.0.0.1:0"]);
    let options = json!({ "version": 1, "reusable": true });
    let told = post(&admin(folder.path(), &server.addresses[0]), "/api/v1/admin/tokens", &options).await;
    let token = told.body["value"].as_str().unwrap().to_owned();
    let mut all: Vec<Acknowledged> = Vec::new();
    // Moments are counted in what was acknowledged: no clock decides.
    let mut wanted = 7;
    for moment in 0..moments {
        let count = Arc::new((AtomicUsize::new(0), Notify::new()));
        let loads: Vec<_> = (0..4)
            .map(|lane| {
                let first = (moment * 4 + lane) * 10_000;
                tokio::spawn(load(server.addresses[0].clone(), token.clone(), first, count.clone()))
            })
            .collect();
        loop {
            let notified = count.1.notified();
            if count.0.load(Ordering::SeqCst) >= wanted {
                break;
            }
            notified.await;
        }
        server.child.kill().unwrap();
        server.wait();
        for load in loads {
            all.extend(load.await.unwrap());
        }
        wanted = (wanted * 31 + 17) % 120 + 1;
        server = Server::start(folder.path(), &["--listen=127.0.0.1:0"]);
        let url = &server.addresses[0];
        for known in &all {
            let detail: NodeDetail = admin(folder.path(), url)
                .ask(Method::GET, &format!("/api/v1/admin/nodes/{}", known.node), &[], None::<&()>)
                .await
                .unwrap();
            if known.reported {
                assert_eq!(detail.node.state, NodeState::Installing, "{} lost its report", known.node);
            }
            let desired = client(url, &known.credential).send(Method::GET, DESIRED_SYSTEM, &[], vec![]).await.unwrap();
            assert_eq!(desired.response.status().as_u16(), 200, "{} lost its credential", known.node);
            // What was not acknowledged is sent again, whether or not it was done.
            let report =
                NodeEventReport { version: 1, id: format!("r{}", known.number), report: NodeEvent::BundleDownloaded };
            let again =
                post(&client(url, &known.credential), NODE_EVENTS, &serde_json::to_value(report).unwrap()).await;
            assert_eq!(again.status, 204, "{}", again.body);
        }
        all.iter_mut().for_each(|known| known.reported = true);
    }
    assert!(all.len() > moments as usize, "{}", all.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_in_order_and_its_log_holds_no_secret() {
    let folder = folder(&format!("default_class = \"worker\"\n{CLASSES}"));
    let server = Server::start(folder.path(), &["--listen=127.0.0.1:0"]);
    let url = server.addresses[0].clone();
    let told = post(&admin(folder.path(), &url), "/api/v1/admin/tokens", &json!({ "version": 1 })).await;
    let token = told.body["value"].as_str().unwrap().to_owned();
    let home = post(&client(&url, &token), PHONE_HOME, &serde_json::to_value(machine(1)).unwrap()).await;
    let credential = home.body["assignment"]["credential"].as_str().unwrap().to_owned();
    let wrong =
        post(&client(&url, "a-wrong-token-in-a-request"), PHONE_HOME, &serde_json::to_value(machine(2)).unwrap()).await;
    assert_eq!(wrong.code(), "token-unknown");
    let waits = client(&url, &credential);
    let waiting = tokio::spawn(async move {
        send(&waits, Method::GET, &format!("{DESIRED_SYSTEM}?known=1&wait=300"), &[], &json!(null)).await
    });
    // The next answer on the same thread of work comes after the wait began, or the wait finds the server ending.
    post(&client(&url, &token), PHONE_HOME, &json!({ "version": 1 })).await;
    server.signal(rustix::process::Signal::TERM);
    // Answered, or never taken; not left hanging.
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("it hangs");
    if let Ok(answered) = waited {
        assert_eq!(answered.status, 200);
    }
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("node01") && log.contains("token-unknown"), "{log}");
    let admin = admin_token(folder.path());
    for secret in [&token, &credential, admin.expose(), "a-wrong-token-in-a-request"] {
        assert!(!log.contains(secret), "the log holds a secret");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_deployer_is_restored_elsewhere() {
    let folder = folder(&format!("default_class = \"worker\"\n{CLASSES}"));
    let path = folder.path();
    let server = Server::start(path, &["--listen=127.0.0.1:0"]);
    let url = server.addresses[0].clone();
    let register = |node: &str| {
        let output = run(path, &["deployer", "node", "register", node, "--class", "worker", "--url", &url]);
        assert!(output.status.success(), "{}", said(&output));
    };
    register("one");
    let output = run(path, &["deployer", "backup", "backup.sqlite"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(run(path, &["deployer", "backup", "backup.sqlite"]).status.code(), Some(2), "it was overwritten");
    register("two");
    let running = run(path, &["deployer", "restore", "backup.sqlite"]);
    assert_eq!(running.status.code(), Some(3), "{}", said(&running));
    assert!(said(&running).contains("a deployer is using it"));
    server.signal(rustix::process::Signal::TERM);
    server.wait();
    let output = run(path, &["deployer", "restore", "backup.sqlite"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(path.join("work/deployer/deployer.sqlite.before-restore").exists());
    let server = Server::start(path, &["--listen=127.0.0.1:0"]);
    let output = run(path, &["deployer", "node", "list", "--json", "--url", &server.addresses[0]]);
    let nodes: Vec<NodeStatus> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["one"]);
    drop(server);
    // One that a later program wrote is refused, and so is what is none.
    let newer = rusqlite::Connection::open(path.join("backup.sqlite")).unwrap();
    newer.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    drop(newer);
    let refused = run(path, &["deployer", "restore", "backup.sqlite"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(said(&refused).contains(&format!("has version {}", SCHEMA_VERSION + 1)), "{}", said(&refused));
    std::fs::write(path.join("garbage"), vec![7; 10_000]).unwrap();
    let refused = run(path, &["deployer", "restore", "garbage"]);
    assert_eq!((refused.status.code(), said(&refused).contains("damaged")), (Some(3), true), "{}", said(&refused));
}

#[test]
fn a_damaged_database_is_said_and_not_used() {
    let folder = folder(CLASSES);
    let server = Server::start(folder.path(), &["--listen=127.0.0.1:0"]);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    let database = folder.path().join("work/deployer/deployer.sqlite");
    let whole = std::fs::read(&database).unwrap();
    let mut page = whole.clone();
    let middle = page.len() / 2 / 4096 * 4096;
    page[middle..middle + 4096].fill(0xa5);
    for damaged in [page, b"this is no database at all, it is a text of some length".to_vec()] {
        std::fs::write(&database, &damaged).unwrap();
        let output = run(folder.path(), &["deployer", "serve", "--config", "deployer.toml", "--listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(
            said(&output).contains("is damaged") && said(&output).contains("bootproof deployer restore"),
            "{}",
            said(&output)
        );
        assert_eq!(std::fs::read(&database).unwrap(), damaged, "what is damaged was changed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_tls_with_a_ca_of_its_own() {
    let tls = "[tls]\nca = \"ca/ca.pem\"\nca_key = \"ca/ca.key\"\nnames = [\"localhost\", \"127.0.0.1\"]\n";
    let folder = folder(&format!("allow_unauthenticated = true\ndefault_class = \"worker\"\n{CLASSES}{tls}"));
    let path = folder.path();
    let made = run(path, &["deployer", "ca", "--out", "ca"]);
    assert!(made.status.success(), "{}", said(&made));
    let pin = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert_eq!(pin.len(), 64);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(path.join("ca/ca.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(path, &["deployer", "ca", "--out", "ca"]).status.code(), Some(2), "it was overwritten");
    let server = Server::start(path, &["--listen=127.0.0.1:0", "--listen-tls=127.0.0.1:0"]);
    let [plain, tls] = &server.addresses[..] else { panic!("{:?}", server.addresses) };
    // Over plain HTTP there is only what is public.
    let public = Client::new(plain, None, None).unwrap();
    let pem = public.send(Method::GET, "/ca.pem", &[], vec![]).await.unwrap().body;
    assert_eq!(pem, std::fs::read(path.join("ca/ca.pem")).unwrap());
    let body = serde_json::to_value(machine(1)).unwrap();
    let refused = post(&public, PHONE_HOME, &body).await;
    assert_eq!((refused.status, refused.code()), (403, "tls-required"));
    let ca: PathBuf = path.join("ca/ca.pem");
    let trusting = Client::new(tls, Some(&ca), None).unwrap();
    assert_eq!(post(&trusting, PHONE_HOME, &body).await.status, 200);
    // Another CA is not believed.
    let other = make_ca(&path.join("other"), "another").unwrap();
    let mistaken = Client::new(tls, Some(&other.certificate), None).unwrap();
    let error = mistaken.send(Method::GET, "/ca.pem", &[], vec![]).await.unwrap_err();
    assert!(error.chain().contains("certificate"), "{}", error.chain());
    // Whoever speaks no TLS to it is let go, and nobody else minds.
    let address = tls.strip_prefix("https://").unwrap();
    let garbage = Client::new(&format!("http://{address}"), None, None).unwrap();
    assert!(garbage.send(Method::GET, "/ca.pem", &[], vec![]).await.is_err());
    assert_eq!(post(&trusting, PHONE_HOME, &body).await.status, 200);
}

/// As in lanes: machines fetch the CA where they will then speak TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_one_address_with_tls_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_files(path);
    let ca = make_ca(&path.join("ca"), "a run's").unwrap().certificate;
    let tls = "[tls]\nca = \"ca/ca.pem\"\nca_key = \"ca/ca.key\"\nnames = [\"127.0.0.1\"]\n";
    let text = format!("allow_unauthenticated = true\ndefault_class = \"worker\"\n{CLASSES}{tls}");
    let deployer = Deployer::open(configuration(path, &text), &path.join("state")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (router, public, tls) = (deployer.router(), deployer.public_router(), deployer.tls().unwrap().unwrap());
    let server = tokio::spawn(serve_both(listener, tls, router, public, async {
        let _ = stopped.await;
    }));
    // Whoever says nothing holds up nobody.
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let plain = Client::new(&format!("http://{address}"), None, None).unwrap();
    let pem = plain.send(Method::GET, "/ca.pem", &[], vec![]).await.unwrap().body;
    assert_eq!(pem, std::fs::read(&ca).unwrap());
    let body = serde_json::to_value(machine(1)).unwrap();
    let refused = post(&plain, PHONE_HOME, &body).await;
    assert_eq!((refused.status, refused.code()), (403, "tls-required"));
    let trusting = Client::new(&format!("https://{address}"), Some(&ca), None).unwrap();
    assert_eq!(post(&trusting, PHONE_HOME, &body).await.status, 200);
    drop(stop);
    server.await.unwrap().unwrap();
}

#[test]
fn administrators_ask_from_the_command_line() {
    let folder = folder(CLASSES);
    let path = folder.path();
    let server = Server::start(path, &["--listen=127.0.0.1:0"]);
    let url = server.addresses[0].clone();
    let ask = |arguments: &[&str]| {
        let output = run(path, &[&["deployer"], arguments, &["--url", &url]].concat());
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, token, errors) = ask(&["token", "create", "--lifetime", "10m"]);
    assert_eq!((code, token.trim().len()), (0, 64), "{errors}");
    let (_, list, _) = ask(&["token", "list"]);
    assert!(list.contains("unused") && !list.contains(token.trim()), "{list}");
    let id = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert_eq!(ask(&["token", "revoke", &id]).0, 0);
    assert!(ask(&["token", "list"]).1.contains("revoked"));
    let register = ["node", "register", "one", "--class", "worker", "--serial", "S1", "--idempotency-key", "k"];
    let (code, first, errors) = ask(&register);
    assert_eq!(code, 0, "{errors}");
    assert!(first.contains("claimed"), "{first}");
    assert_eq!(ask(&register).1, first);
    let (code, _, errors) = ask(&["node", "register", "one", "--class", "worker"]);
    assert_eq!(code, 2);
    assert!(errors.contains("`node-exists`"), "{errors}");
    let (code, table, _) = ask(&["node", "set-desired", "one", "broken"]);
    assert!(code == 0 && table.contains("broken"), "{table}");
    let (_, shown, _) = ask(&["node", "show", "one"]);
    assert!(shown.contains("desired-system-changed") && shown.contains("S1"), "{shown}");
    assert!(ask(&["node", "retire", "one"]).1.contains("retired"));
    assert_eq!(ask(&["node", "list", "--state", "claimed"]).1.lines().count(), 1);
    let (code, _, errors) = ask(&["node", "claim", "../one", "--class", "worker"]);
    assert!(code == 2 && errors.contains("cannot be a name"), "{errors}");
    drop(server);
    let (code, _, errors) = ask(&["node", "list"]);
    assert!(code == 4 && errors.contains("hint: ") && errors.contains("--url"), "{code} {errors}");
    let (code, _, errors) = ask(&["node", "list", "--admin-token-file", "none"]);
    assert!(code == 3 && errors.contains("the admin token is missing"), "{code} {errors}");
}
