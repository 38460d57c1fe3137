//! The deployer, over real sockets.

use std::time::Duration;

use bootproof::deployer::*;
use bootproof::provisioning::*;
use hyper::Method;
use serde_json::json;

#[allow(dead_code)] // each test binary uses a part of it
#[path = "support/deployer.rs"]
mod support;

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
