//! The deployer, over real sockets.

use std::time::Duration;

use bootproof::deployer::*;
use bootproof::provisioning::*;
use hyper::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/deployer.rs"]
mod support;

#[allow(dead_code)]
#[path = "support/network.rs"]
mod network;

use support::*;

fn with_default(class: &str) -> String {
    format!("default_class = \"{class}\"\n{CLASSES}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_phones_home_is_installed_and_becomes_active() {
    let served = Served::with(&with_default("worker")).await;
    let token = served.token().await;
    let mut watch = served.deployer.watch("node01");
    let (node, assignment) = served.assigned(&token, &machine(1)).await;
    assert_eq!(node, "node01");
    assert_eq!((assignment.plan.class.as_str(), assignment.plan.hostname.as_str()), ("worker", "worker-01"));
    assert_eq!(assignment.plan.disk.minimum_size, Some(1 << 30));
    watch.wait_for(|status| status.as_ref().is_some_and(|status| status.state == NodeState::Claimed)).await.unwrap();

    let InstallMethod::Tree { system } = &assignment.plan.method else { panic!("{:?}", assignment.plan) };
    let client = served.client(Some(&assignment.credential));
    let path = format!("{BUNDLES}/{}", system.digest);
    let whole = client.send(Method::GET, &path, &[], vec![]).await.unwrap();
    let expected = std::fs::read(served.folder.path().join("worker.tar.zst")).unwrap();
    assert_eq!((whole.response.status().as_u16(), whole.body == expected), (200, true));
    assert_eq!(whole.response.headers()["etag"].to_str().unwrap(), format!("\"{}\"", system.digest));
    let part = client.send(Method::GET, &path, &[("range", "bytes=200000-")], vec![]).await.unwrap();
    assert_eq!((part.response.status().as_u16(), part.body == expected[200_000..]), (206, true));
    assert_eq!(part.response.headers()["content-range"].to_str().unwrap(), "bytes 200000-299999/300000");
    let none = client.send(Method::GET, &path, &[("range", "bytes=300000-")], vec![]).await.unwrap();
    assert_eq!(none.response.status().as_u16(), 416);
    let other = [("range", "bytes=200000-"), ("if-range", "\"sha256:00\"")];
    let changed = client.send(Method::GET, &path, &other, vec![]).await.unwrap();
    assert_eq!((changed.response.status().as_u16(), changed.body.len()), (200, 300_000));
    let stranger = served.client(Some("nobody-has-this-one")).send(Method::GET, &path, &[], vec![]).await.unwrap();
    assert_eq!(stranger.response.status().as_u16(), 401);

    served.install(&assignment.credential).await;
    assert_eq!(served.state("node01").await, NodeState::Installed);
    let desired: DesiredSystemAnswer = client.ask(Method::GET, DESIRED_SYSTEM, &[], None::<&()>).await.unwrap();
    let system = desired.system.unwrap();
    assert_eq!((desired.generation, system.name.as_str(), system.health_check.within), (1, "web", 10));
    let active = NodeEvent::Active { system: "web".into() };
    assert_eq!(served.report(&assignment.credential, "active", active.clone()).await.status, 204);
    let status = served.deployer.wait_for("node01", |status| status.state == NodeState::Active).await.unwrap();
    assert_eq!(status.active_system.as_deref(), Some("web"));

    // The same again changes nothing; the same id with another report is refused; what cannot be is refused.
    let history = served.deployer.show("node01").await.unwrap().history;
    assert_eq!(served.report(&assignment.credential, "active", active).await.status, 204);
    let other = served.report(&assignment.credential, "active", NodeEvent::Booted).await;
    assert_eq!((other.status, other.code()), (409, "report-id-used"));
    let impossible = served.report(&assignment.credential, "again", NodeEvent::BundleDownloaded).await;
    assert_eq!((impossible.status, impossible.code()), (409, "impossible-transition"));
    assert_eq!(served.deployer.show("node01").await.unwrap().history, history);
    let states: Vec<NodeState> = history.iter().map(|entry| entry.to).collect();
    use NodeState::{Active, Claimed, Installed, Installing};
    assert_eq!(states, [Claimed, Claimed, Installing, Installing, Installing, Installed, Active]);
    // Its token opens nothing any more.
    let used = served.phone_home(Some(&token), &machine(1)).await;
    assert_eq!((used.status, used.code()), (401, "token-used"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_desired_system_wakes_whoever_waits_for_it() {
    let served = Served::with(&with_default("worker")).await;
    let token = served.token().await;
    let (_, assignment) = served.assigned(&token, &machine(1)).await;
    served.install(&assignment.credential).await;
    let client = served.client(Some(&assignment.credential));
    let path = format!("{DESIRED_SYSTEM}?known=1&wait=60");
    let waiting = tokio::spawn(async move {
        let answer: DesiredSystemAnswer = client.ask(Method::GET, &path, &[], None::<&()>).await.unwrap();
        answer
    });
    let changed = served.deployer.set_desired_system("node01", Some("broken")).await.unwrap();
    assert_eq!(changed.generation, 2);
    let answer = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert_eq!((answer.generation, answer.system.unwrap().name.as_str()), (2, "broken"));
    let rolled_back =
        NodeEvent::RolledBack { system: "broken".into(), active: Some("web".into()), reason: "sick".into() };
    assert_eq!(served.report(&assignment.credential, "back", rolled_back).await.status, 204);
    assert_eq!(served.state("node01").await, NodeState::Installed);
    // What is desired already is no change; and nothing new is an answer, too.
    assert_eq!(served.deployer.set_desired_system("node01", Some("broken")).await.unwrap().generation, 2);
    let client = served.client(Some(&assignment.credential));
    let path = format!("{DESIRED_SYSTEM}?known=2&wait=1");
    let answer: DesiredSystemAnswer = client.ask(Method::GET, &path, &[], None::<&()>).await.unwrap();
    assert_eq!(answer.generation, 2);
    let path = format!("{DESIRED_SYSTEM}?known=two");
    assert_eq!(send(&client, Method::GET, &path, &[], &json!(null)).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_good_open_nothing() {
    let served = Served::with(&with_default("worker")).await;
    let refused = async |bearer: Option<&str>, number| {
        let answered = served.phone_home(bearer, &machine(number)).await;
        (answered.status, answered.code().to_owned())
    };
    assert_eq!(refused(None, 1).await, (401, "token-missing".into()));
    assert_eq!(refused(Some("a-wrong-token-of-some-length"), 1).await, (401, "token-unknown".into()));
    let (status, value) = served.deployer.create_token(&TokenOptions::default()).await.unwrap();
    served.deployer.revoke_token(&status.id).await.unwrap();
    assert_eq!(refused(Some(value.expose()), 1).await, (401, "token-revoked".into()));
    let short = TokenOptions { lifetime: Some(Duration::from_millis(1)), ..TokenOptions::default() };
    let (status, value) = served.deployer.create_token(&short).await.unwrap();
    // Its time passes by itself.
    while jiff::Timestamp::now() <= status.expires {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(Some(value.expose()), 1).await, (401, "token-expired".into()));
    assert!(served.deployer.list(None).await.unwrap().is_empty(), "whoever was refused left something");
    // Bound to the first, and only to it.
    let token = served.token().await;
    let (_, first) = served.assigned(&token, &machine(1)).await;
    assert_eq!(refused(Some(&token), 2).await, (401, "token-used".into()));
    let (_, second) = served.assigned(&token, &machine(1)).await;
    assert_ne!(first.credential, second.credential);
    assert_eq!(first.plan, second.plan);
    let dead = served.report(&first.credential, "a", NodeEvent::BundleDownloaded).await;
    assert_eq!((dead.status, dead.code()), (401, "credential-unknown"));
    // For many, and for one from the beginning.
    let many = TokenOptions { reusable: Some(true), ..TokenOptions::default() };
    let (_, value) = served.deployer.create_token(&many).await.unwrap();
    for number in 10..13 {
        served.assigned(value.expose(), &machine(number)).await;
    }
    let one = TokenOptions { node: Some("node10".into()), ..TokenOptions::default() };
    let (_, value) = served.deployer.create_token(&one).await.unwrap();
    assert_eq!(refused(Some(value.expose()), 11).await, (401, "token-used".into()));
    served.assigned(value.expose(), &machine(10)).await;
    // A credential is no key to another node.
    let (_, credential) = served.assigned(value.expose(), &machine(10)).await;
    assert_eq!(refused(Some(&credential.credential), 11).await, (403, "wrong-node".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_state() {
    let served = Served::with(&with_default("worker")).await;
    let admin = served.admin();
    let body = json!({ "version": 1 });
    let told = send(&admin, Method::POST, "/api/v1/admin/tokens", &[("idempotency-key", "one")], &body).await;
    assert_eq!(told.status, 201, "{}", told.body);
    let token = told.body["value"].as_str().unwrap().to_owned();
    let again = send(&admin, Method::POST, "/api/v1/admin/tokens", &[("idempotency-key", "one")], &body).await;
    assert_eq!((again.status, &again.body), (201, &told.body), "the same request is answered the same");
    let (_, assignment) = served.assigned(&token, &machine(1)).await;
    assert!(!format!("{assignment:?}").contains(&assignment.credential));
    let admin_token = read_token(&served.folder.path().join("state").join(ADMIN_TOKEN)).unwrap().unwrap();
    let folder = served.stop().await;
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path().join("state")).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_type().unwrap().is_file() || entry.file_name() == ADMIN_TOKEN {
            continue;
        }
        files += 1;
        let bytes = std::fs::read(entry.path()).unwrap();
        for secret in [&token, &assignment.credential, admin_token.expose()] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{:?} holds a secret", entry.file_name());
        }
    }
    assert!(files >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_of_one_identity_are_told_apart() {
    let served = Served::with(&with_default("worker")).await;
    let token = served.token().await;
    let (_, assignment) = served.assigned(&token, &machine(1)).await;
    let before = served.deployer.show("node01").await.unwrap();
    for change in ["board", "cards"] {
        let mut other = machine(1);
        match change {
            "board" => other.identity.uuid = machine(2).identity.uuid,
            _ => other.identity.macs = machine(2).identity.macs,
        }
        let second = served.token().await;
        let refused = served.phone_home(Some(&second), &other).await;
        assert_eq!((refused.status, refused.code()), (409, "identity-conflict"), "{change}");
        // The token is still good for another.
        let good: PhoneHome =
            PhoneHome { identity: Identity { serial: Some(change.into()), ..Identity::default() }, ..machine(3) };
        served.assigned(&second, &good).await;
    }
    assert_eq!(served.deployer.show("node01").await.unwrap(), before, "the first was touched");
    assert_eq!(served.report(&assignment.credential, "a", NodeEvent::BundleDownloaded).await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_machine_is_discovered_and_waits_until_it_is_claimed() {
    let served = Served::start().await;
    let token = served.token().await;
    let answered = served.phone_home(Some(&token), &machine(1)).await;
    assert_eq!((answered.status, &answered.body["node"]), (200, &json!("node01")));
    assert!(answered.body["assignment"].is_null() && answered.body["retry_after"].is_u64(), "{}", answered.body);
    served.phone_home(Some(&token), &machine(1)).await;
    let detail = served.deployer.show("node01").await.unwrap();
    assert_eq!((detail.node.state, detail.history.len()), (NodeState::Discovered, 1), "waiting is no history");
    assert_eq!(detail.disks, machine(1).disks);
    let admin = served.admin();
    let claim = async |body: serde_json::Value| post(&admin, "/api/v1/admin/nodes/node01/claim", &body).await;
    let unknown = claim(json!({ "version": 1, "class": "wrker" })).await;
    assert_eq!((unknown.status, unknown.code()), (422, "unknown-class"));
    assert!(unknown.body["detail"].as_str().unwrap().contains("worker"));
    let claimed = claim(json!({ "version": 1, "class": "worker", "desired_system": "broken" })).await;
    assert_eq!((claimed.status, &claimed.body["state"]), (200, &json!("claimed")));
    let (_, assignment) = served.assigned(&token, &machine(1)).await;
    let client = served.client(Some(&assignment.credential));
    let desired: DesiredSystemAnswer = client.ask(Method::GET, DESIRED_SYSTEM, &[], None::<&()>).await.unwrap();
    assert_eq!(desired.system.unwrap().name, "broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_waits_with_its_request_is_woken_by_the_claim() {
    let served = Served::start().await;
    let token = served.token().await;
    let client = served.client(Some(&token));
    let mut watch = served.deployer.watch("node01");
    let path = format!("{PHONE_HOME}?wait=60");
    let waiting = tokio::spawn(async move { post(&client, &path, &serde_json::to_value(machine(1)).unwrap()).await });
    watch.wait_for(Option::is_some).await.unwrap();
    served.deployer.claim("node01", "worker", None).await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert_eq!(answered.body["assignment"]["plan"]["class"], json!("worker"), "{}", answered.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployer_that_restarts_goes_on_where_it_was() {
    let served = Served::with(&with_default("worker")).await;
    let token = served.token().await;
    let (_, assignment) = served.assigned(&token, &machine(1)).await;
    served.report(&assignment.credential, "a", NodeEvent::BundleDownloaded).await;
    let before = served.deployer.show("node01").await.unwrap();
    let served = Served::again(served.stop().await, &with_default("worker")).await;
    assert_eq!(served.deployer.show("node01").await.unwrap(), before);
    assert_eq!(served.deployer.watch("node01").borrow().as_ref().unwrap().state, NodeState::Installing);
    let InstallMethod::Tree { system } = &assignment.plan.method else { panic!("{:?}", assignment.plan) };
    let client = served.client(Some(&assignment.credential));
    let path = format!("{BUNDLES}/{}", system.digest);
    let bundle = client.send(Method::GET, &path, &[("range", "bytes=100-")], vec![]).await.unwrap();
    assert_eq!((bundle.response.status().as_u16(), bundle.body.len()), (206, 299_900));
    // Lost in the middle, it phones home again: the same node, the same plan.
    let (node, again) = served.assigned(&token, &machine(1)).await;
    assert_eq!((node.as_str(), &again.plan), ("node01", &assignment.plan));
    // What is desired is something else now.
    std::fs::write(served.folder.path().join("web/units/web.service"), "[Service]\nType=oneshot\n").unwrap();
    let served = Served::again(served.stop().await, &with_default("worker")).await;
    assert_eq!(served.deployer.show("node01").await.unwrap().node.generation, 2);
    // A bundle that was changed behind the deployer's back is not served as what it was.
    let InstallMethod::Tree { system } = &again.plan.method else { panic!("{:?}", again.plan) };
    std::fs::write(served.folder.path().join("worker.tar.zst"), "other").unwrap();
    let path = format!("{BUNDLES}/{}", system.digest);
    let changed = send(&served.client(Some(&again.credential)), Method::GET, &path, &[], &json!(null)).await;
    assert_eq!((changed.status, changed.code()), (503, "bundle-changed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_lives_until_it_is_retired_and_may_come_again() {
    let served = Served::with(&with_default("worker")).await;
    let token = served.token().await;
    let (_, assignment) = served.assigned(&token, &machine(1)).await;
    served.install(&assignment.credential).await;
    let admin = served.admin();
    let order =
        async |what: &str| post(&admin, &format!("/api/v1/admin/nodes/node01/{what}"), &json!({ "version": 1 })).await;
    // The installer alone does not install over it.
    let many = TokenOptions { reusable: Some(true), ..TokenOptions::default() };
    let (_, reusable) = served.deployer.create_token(&many).await.unwrap();
    let refused = served.phone_home(Some(reusable.expose()), &machine(1)).await;
    assert_eq!((refused.status, refused.code()), (409, "already-installed"));
    let ordered = order("reinstall").await;
    assert_eq!((ordered.status, &ordered.body["state"]), (200, &json!("claimed")));
    let old = served.report(&assignment.credential, "old", NodeEvent::Booted).await;
    assert_eq!((old.status, old.code()), (409, "impossible-transition"), "the old system is not the new one");
    let (_, second) = served.assigned(reusable.expose(), &machine(1)).await;
    // An installer that begins anew may use the same ids for its reports: they are not those of the first time.
    served.install(&second.credential).await;
    assert_eq!(served.state("node01").await, NodeState::Installed);
    assert_eq!(order("retire").await.status, 200);
    assert_eq!(order("retire").await.status, 200, "once more is nothing more");
    let dead = served.report(&second.credential, "dead", NodeEvent::Booted).await;
    assert_eq!((dead.status, dead.code()), (401, "credential-unknown"));
    let refused = served.phone_home(Some(reusable.expose()), &machine(1)).await;
    assert_eq!((refused.status, refused.code()), (403, "node-retired"));
    // Claimed anew, it may be other hardware.
    served.deployer.claim("node01", "worker", None).await.unwrap();
    let mut replaced = machine(1);
    replaced.identity.uuid = machine(2).identity.uuid;
    replaced.identity.macs = machine(2).identity.macs;
    assert_eq!(served.assigned(reusable.expose(), &replaced).await.0, "node01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_recognised_by_what_the_configuration_says() {
    let nodes = "
[nodes.by-id]
class = \"worker\"
[nodes.by-serial]
class = \"worker\"
match = { serial = \"S1\" }
desired_system = \"broken\"
[nodes.by-card]
class = \"enrolled\"
match = { mac = \"52:54:00:00:00:09\" }
";
    let served = Served::with(&format!("allow_unauthenticated = true\n{CLASSES}{nodes}")).await;
    let come = async |identity: Identity, stage: Stage| {
        let answered = served.phone_home(None, &PhoneHome { identity, stage, ..machine(1) }).await;
        (answered.status, answered.body["node"].as_str().map(str::to_owned), answered)
    };
    let id = |id: &str| Some(id.to_owned());
    let by_id = Identity { node_id: id("by-id"), serial: id("S1"), ..Identity::default() };
    assert_eq!(come(by_id, Stage::Installer).await.1, id("by-id"), "the node id overrides the serial number");
    let by_serial = Identity { serial: id("S1"), macs: vec!["52:54:00:00:00:01".into()], ..Identity::default() };
    assert_eq!(come(by_serial, Stage::Installer).await.1, id("by-serial"));
    let filler = Identity {
        serial: id("To Be Filled By O.E.M."),
        macs: vec!["52:54:00:00:00:08".into(), "52:54:00:00:00:09".into()],
        ..Identity::default()
    };
    let (status, _, answered) = come(filler.clone(), Stage::Installer).await;
    assert_eq!((status, answered.code()), (409, "nothing-to-install"));
    let (_, node, answered) = come(filler, Stage::Installed).await;
    assert_eq!(node, id("by-card"));
    let assignment: Assignment = serde_json::from_value(answered.body["assignment"].clone()).unwrap();
    assert_eq!(assignment.plan.method, InstallMethod::Existing {});
    assert_eq!(served.report(&assignment.credential, "b", NodeEvent::Booted).await.status, 204);
    let answered = come(Identity::default(), Stage::Installer).await.2;
    assert_eq!((answered.status, answered.code()), (400, "no-identity"));
    // Nothing tells what this is to become; the name that its sign makes is taken.
    let clash = Identity { serial: id("BY ID"), ..Identity::default() };
    assert_eq!(come(clash, Stage::Installer).await.1, id("by-id-2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_is_done_once() {
    let served = Served::start().await;
    let admin = served.admin();
    let register = async |key: &str, node: &str| {
        let body = json!({ "version": 1, "node": node, "class": "worker", "match": { "serial": node } });
        send(&admin, Method::POST, "/api/v1/admin/nodes", &[("idempotency-key", key)], &body).await
    };
    let first = register("a", "one").await;
    assert_eq!(first.status, 201);
    let again = register("a", "one").await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    let other = register("a", "two").await;
    assert_eq!((other.status, other.code()), (422, "idempotency-key-used"));
    let taken = register("b", "one").await;
    assert_eq!((taken.status, taken.code()), (409, "node-exists"));
    assert_eq!(register("b", "one").await.body, taken.body, "a refusal is answered the same, too");
    let served = Served::again(served.stop().await, CLASSES).await;
    let body = json!({ "version": 1, "node": "one", "class": "worker", "match": { "serial": "one" } });
    let headers = [("idempotency-key", "a")];
    let later = send(&served.admin(), Method::POST, "/api/v1/admin/nodes", &headers, &body).await;
    assert_eq!((later.status, &later.body), (201, &first.body), "after a restart");
    assert_eq!(served.deployer.list(None).await.unwrap().len(), 1);
    for bearer in [None, Some("not-the-admin-token-at-all")] {
        let refused = send(&served.client(bearer), Method::GET, "/api/v1/admin/nodes", &[], &json!(null)).await;
        assert_eq!(refused.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_a_client_that_stalls_holds_up_nobody() {
    let served = Served::with(&with_default("worker")).await;
    let token = served.token().await;
    let client = served.client(Some(&token));
    let raw = async |bytes: Vec<u8>| {
        let answer = client.send(Method::POST, PHONE_HOME, &[], bytes).await.unwrap();
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.response.status().as_u16(), problem.status);
        (problem.status, problem.code)
    };
    let secret = b"{\"version\":1,\"identity\":\"my-secret\"}".to_vec();
    for garbage in [b"".to_vec(), b"{".to_vec(), b"[1]".to_vec(), b"\xff\xfe".to_vec(), secret] {
        assert_eq!(raw(garbage).await, (400, "malformed".into()));
    }
    let mut newer = serde_json::to_value(machine(1)).unwrap();
    newer["version"] = json!(2);
    assert_eq!(raw(serde_json::to_vec(&newer).unwrap()).await, (400, "unsupported-version".into()));
    newer["version"] = json!(1);
    newer["what_a_later_machine_says"] = json!(true);
    assert_eq!(raw(vec![b' '; 300 << 10]).await, (413, "too-large".into()));
    let nowhere = send(&client, Method::GET, "/api/v1/nowhere", &[], &json!(null)).await;
    assert_eq!((nowhere.status, nowhere.code()), (404, "no-such-path"));
    let wrong = send(&client, Method::GET, PHONE_HOME, &[], &json!(null)).await;
    assert_eq!((wrong.status, wrong.code()), (405, "method-not-allowed"));
    let stranger = served.client(None);
    let basic =
        stranger.send(Method::POST, PHONE_HOME, &[("authorization", "Basic eA==")], b"{}".to_vec()).await.unwrap();
    assert_eq!(basic.response.status().as_u16(), 400);
    // Many that send half a request and no more, and one that does not read what it asked for.
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"POST /api/v1/phone-home HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
        stalled.push(stream);
    }
    let begin = std::time::Instant::now();
    let answered = post(&client, PHONE_HOME, &newer).await;
    assert_eq!(answered.status, 200, "{}", answered.body);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_machines_at_once_all_get_their_plan() {
    let served = Served::with(&with_default("worker")).await;
    let many = TokenOptions { reusable: Some(true), ..TokenOptions::default() };
    let token = served.deployer.create_token(&many).await.unwrap().1.expose().to_owned();
    let served = std::sync::Arc::new(served);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let (served, token) = (served.clone(), token.clone());
        tasks.spawn(async move { served.assigned(&token, &machine(number)).await });
    }
    let mut hostnames = std::collections::BTreeSet::new();
    let mut credentials = std::collections::BTreeSet::new();
    while let Some(assigned) = tasks.join_next().await {
        let (_, assignment) = assigned.unwrap();
        hostnames.insert(assignment.plan.hostname);
        credentials.insert(assignment.credential);
    }
    assert_eq!((hostnames.len(), credentials.len()), (1000, 1000));
    assert_eq!(served.deployer.list(Some(NodeState::Claimed)).await.unwrap().len(), 1000);
}

#[test]
fn the_openapi_document_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/deployer.openapi.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == openapi(),
        "schemas/deployer.openapi.json is not what the types say; renew it: \
         cargo run -- deployer openapi > schemas/deployer.openapi.json"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_the_openapi_document_is_served_and_answers_as_it_says() {
    let served = Served::start().await;
    let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let path = path
                .replace("{node}", "none")
                .replace("{digest}", "sha256:0")
                .replace("{token}", "none")
                .replace("{name}", "none");
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = served.client(None).send(method, &path, &[], vec![]).await.unwrap();
            let status = answer.response.status().as_u16();
            let told = operation["responses"].as_object().unwrap();
            assert!(told.contains_key(&status.to_string()), "{path} answers {status}: {told:?}");
            let code = serde_json::from_slice::<Problem>(&answer.body).map(|problem| problem.code);
            assert!(!matches!(code.as_deref(), Ok("no-such-path" | "method-not-allowed")), "{path}");
            let anybody = operation["security"].as_array().unwrap().is_empty();
            let open = anybody || path.ends_with("phone-home");
            assert!(open || status == 401, "{path} answers {status} to a stranger");
        }
    }
    assert!(operations >= 16, "{operations}");
}

#[test]
fn what_is_wrong_with_a_configuration_is_told_by_key_and_value() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let path = folder.path().join("deployer.toml");
    for (text, told) in [
        (CLASSES.replace("version = 1", "version = 2"), "version = 2"),
        (CLASSES.replace("wipe", "wype").replace("hostname", "host_name"), "host_name"),
        (CLASSES.replace("worker.tar.zst", "none.tar.zst"), "`classes.worker.bundle` is `"),
        (CLASSES.replace("\"web\"\n\n[classes", "\"wep\"\n\n[classes"), "`classes.worker.desired_system` is `wep`"),
        (CLASSES.replace("disk = { minimum_size = \"1GiB\" }", ""), "`classes.worker.disk`"),
        (CLASSES.replace("1GiB", "1GiBB"), "1GiBB"),
        (CLASSES.replace("worker-{number}", "worker {number}"), "`classes.worker.hostname` is `worker {number}`"),
        (CLASSES.replace("worker-{number}", "worker-{name}"), "`classes.worker.hostname` is `worker-{name}`"),
        (CLASSES.replace("\"quiet\"", "\"a b\""), "`classes.worker.kernel_parameters` is `a b`"),
        (CLASSES.replace("folder = \"web\"", "folder = \"none\""), "`systems.web.folder` is `"),
        (CLASSES.replace("folder = \"web\"", "store_path = \"/etc\""), "`systems.web.store_path` is `/etc`"),
        (format!("{CLASSES}folder = \"web\"\n"), "`systems.broken`"),
        (format!("default_class = \"none\"\n{CLASSES}"), "`default_class` is `none`"),
        (format!("{CLASSES}[nodes.a]\nclass = \"none\"\n"), "`nodes.a.class` is `none`"),
        (format!("{CLASSES}[nodes.a]\nclass = \"worker\"\nmatch = {{ mac = \"x\" }}\n"), "`nodes.a.match.mac` is `x`"),
        (format!("{CLASSES}[tokens]\nlifetime = \"0s\"\n"), "`tokens.lifetime` is `0s`"),
        (format!("{CLASSES}[netboot]\nkernel = \"none\"\n"), "`netboot.kernel` is `"),
        (format!("{CLASSES}[tls]\nca = \"ca.pem\"\n"), "`tls`"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let error = Configuration::load(&path, &folder.path().join("packed")).unwrap_err();
        assert!(error.chain().contains(told), "{}\nlacks {told}", error.chain());
        assert_eq!(error.kind().exit_code(), 2);
    }
    std::fs::write(&path, CLASSES).unwrap();
    Configuration::load(&path, &folder.path().join("packed")).unwrap();
}

/// As a lane has it: the network is the switch's, and no socket of the host's is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_a_lanes_network_reach_it_at_the_hosts_address() {
    use bootproof::network::{HOST, HostPort};
    let (switch, _reports) = network::switch();
    let addresses = network::addresses(1);
    let host = HostPort::join(&switch, HOST, addresses.host, addresses.subnet, 1).unwrap();
    let guest = addresses.machines[&network::name(1)];
    let guest = HostPort::join(&switch, &network::name(1), guest, addresses.subnet, 2).unwrap();
    let served = Served::with(&format!("allow_unauthenticated = true\n{}", with_default("worker"))).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = host.listen(8080, 4).unwrap();
    let deployer = served.deployer.clone();
    let serving = tokio::spawn(async move { deployer.serve(listener, async { drop(stopped.await) }).await });
    let body = serde_json::to_string(&machine(1)).unwrap();
    let mut stream = guest.connect(std::net::SocketAddrV4::new(addresses.host.ip, 8080)).await.unwrap();
    let request = format!(
        "POST {PHONE_HOME} HTTP/1.1\r\nhost: deployer\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"class\":\"worker\""), "{answer}");
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_boot_the_installer_over_the_network() {
    let netboot = "[netboot]\nkernel = \"vmlinuz\"\ninitrds = [\"initrd\"]\nparameters = [\"loglevel=4\"]\n";
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    std::fs::write(folder.path().join("vmlinuz"), "a kernel").unwrap();
    std::fs::write(folder.path().join("initrd"), "an initrd").unwrap();
    let served = Served::again(folder, &format!("{}{netboot}", with_default("worker"))).await;
    let get = async |path: &str| {
        let answer = served.client(None).send(Method::GET, path, &[], vec![]).await.unwrap();
        (answer.response.status().as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    };
    let path = "/netboot/ipxe?mac=52:54:00:00:00:01&serial=node01&uuid=11111111-0000-0000-0000-000000000001";
    let (status, unknown) = get(path).await;
    let url = served.url();
    assert_eq!(status, 200);
    assert!(unknown.starts_with("#!ipxe\n") && unknown.contains("nobody knows"), "{unknown}");
    let kernel = format!("kernel {url}/netboot/files/vmlinuz initrd=initrd bootproof.deployer_url={url} loglevel=4\n");
    assert!(unknown.contains(&kernel) && unknown.ends_with("boot\n"), "{unknown}");
    assert_eq!(get("/netboot/files/vmlinuz").await, (200, "a kernel".into()));
    assert_eq!(get("/netboot/files/initrd").await, (200, "an initrd".into()));
    for path in ["/netboot/files/deployer.toml", "/netboot/files/..%2Fdeployer.toml", "/netboot/files/none"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    let (_, assignment) = served.assigned(&served.token().await, &machine(1)).await;
    assert!(get(path).await.1.contains("the installer, for node01"));
    let events =
        [NodeEvent::BundleDownloaded, NodeEvent::DiskLayoutComplete, NodeEvent::SystemInstalled, NodeEvent::Booted];
    for (number, event) in events.into_iter().enumerate() {
        let answered = served.report(&assignment.credential, &format!("install-{number}"), event).await;
        assert_eq!(answered.status, 204, "{}", answered.body);
        // Its first reboot already is one from its disk.
        let (_, script) = get(path).await;
        let from_disk = script.contains("from its disk") && script.ends_with("exit\n");
        assert_eq!(from_disk, number >= 2, "{script}");
    }
    served.deployer.reinstall("node01", None).await.unwrap();
    assert!(get(path).await.1.contains("the installer, for node01"));
    // What is told under a host's name becomes a script.
    let hostile = [("host", "a b;reboot")];
    let refused = served.client(None).send(Method::GET, path, &hostile, vec![]).await.unwrap();
    assert_eq!(refused.response.status().as_u16(), 400);
    let none = Served::start().await;
    assert_eq!(send(&none.client(None), Method::GET, path, &[], &json!(null)).await.code(), "no-netboot");
}
