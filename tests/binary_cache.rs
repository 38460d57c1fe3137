//! `bootproof cache serve` with the real Nix as its client, and what no client of Nix would ever ask.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use bootproof::binary_cache::{self, BinaryCache, Catalog, Compression, SecretKey};
use bootproof::nix_store::NixStore;
use rustix::process::Signal;
use support::nix::{Nix, derivation, hash_part, succeeded};
use support::process::{END, Process};
use support::{bootproof, expect_status, stderr_of, stdout_of};

/// A server that is up.
struct Server {
    child: Child,
    address: String,
    public_key: String,
    complaints: PathBuf,
}

impl Server {
    fn start(nix: &Nix, arguments: &[&str]) -> Self {
        let complaints = nix.path("complaints");
        let mut command = bootproof();
        nix.surround(&mut command).args(["cache", "serve", "--port", "0"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(File::create(&complaints).unwrap());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut setting = |name: &str| match lines.next() {
            Some(Ok(line)) => line.strip_prefix(&format!("{name} = ")).expect(&line).to_owned(),
            _ => panic!("it ended: {}", fs::read_to_string(&complaints).unwrap()),
        };
        let address = setting("extra-substituters");
        let public_key = setting("extra-trusted-public-keys");
        Self { child, address, public_key, complaints }
    }

    fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address.strip_prefix("http://").unwrap()).unwrap();
        connection.set_read_timeout(Some(END)).unwrap();
        connection
    }

    /// Sends these bytes and gives back all that comes until the server ends the connection.
    fn exchange(&self, request: &str) -> Answer {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let _ = connection.read_to_end(&mut bytes);
        Answer::of(&bytes)
    }

    fn request(&self, method: &str, path: &str) -> Answer {
        self.exchange(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path)
    }

    /// The narinfo's lines.
    #[track_caller]
    fn narinfo(&self, path: &str) -> Vec<(String, String)> {
        let answer = self.get(&format!("/{}.narinfo", hash_part(path)));
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).unwrap();
        text.lines().map(|line| line.split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned())).expect(line)).collect()
    }

    #[track_caller]
    fn url_of(&self, path: &str) -> String {
        let (_, url) = self.narinfo(path).into_iter().find(|(name, _)| name == "URL").unwrap();
        format!("/{url}")
    }

    /// Most memory that it ever had, in KiB.
    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// Tells it to stop and gives its exit code.
    fn stop(&mut self) -> Option<i32> {
        let process = Process::open(self.child.id()).unwrap();
        process.kill(Signal::TERM);
        assert!(process.ends_within(END));
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer as it came, without trust in any library that might mend it.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// The body is as long as the head says, or its last chunk came.
    whole: bool,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let end =
            bytes.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {bytes:?}"));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let rest = &bytes[end + 4..];
        let mut answer = Self { status, head, body: rest.to_vec(), whole: false };
        if answer.header("transfer-encoding") == Some("chunked") {
            (answer.body, answer.whole) = unchunk(rest);
        } else {
            answer.whole = answer.header("content-length") == Some(&rest.len().to_string());
        }
        answer
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|part| part == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, rest == b"\r\n");
        }
        let Some(chunk) = rest.get(..size + 2) else { return (body, false) };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[size + 2..];
    }
}

/// A path with all that a NAR can hold, which refers to another one and to itself.
fn build_example(nix: &Nix) -> (String, String) {
    let dependency = derivation("dependency", "echo it is needed > $out");
    let script = "
        mkdir -p $out/bin $out/empty-folder
        echo ${dependency} $out > $out/references
        printf '#!/bin/sh\\necho works\\n' > $out/bin/tool
        chmod +x $out/bin/tool
        ln -s bin/tool $out/link
        : > $out/empty
        head -c 3000000 /dev/urandom > $out/random";
    let top = derivation("example", script);
    let top = nix.build(&format!("let dependency = {dependency}; in {top}"));
    let references = nix.ask(&["path-info", "--json", &top]);
    let references: serde_json::Value = serde_json::from_str(&references).unwrap();
    let needed = references[0]["references"].as_array().unwrap();
    let needed = needed.iter().map(|path| path.as_str().unwrap()).find(|path| *path != top).unwrap();
    (top.clone(), needed.to_owned())
}

/// Copies with signatures required, trusting this key alone.
fn copying(nix: &Nix, server: &Server, key: &str, path: &str, store: &str) -> Command {
    let trust = ["--option", "trusted-public-keys", key, "--option", "require-sigs", "true"];
    let mut command = nix.command(&["copy", "--from", &server.address, "--to", store]);
    command.args(trust).arg(path);
    command
}

fn copy(nix: &Nix, server: &Server, key: &str, path: &str, store: &str) -> Output {
    copying(nix, server, key, path, store).output().unwrap()
}

#[test]
fn a_real_client_copies_closures_and_verifies_them() {
    let Some(nix) = Nix::new() else { return };
    let (top, needed) = build_example(&nix);
    let key = nix.path("key");
    let mut make = bootproof();
    let made = make.args(["cache", "key", "here-1", "--output"]).arg(&key).output().unwrap();
    let public = succeeded(&made).trim().to_owned();
    let also = Command::new("nix")
        .args(["--extra-experimental-features", "nix-command", "key", "convert-secret-to-public"])
        .stdin(File::open(&key).unwrap())
        .output()
        .unwrap();
    assert_eq!(succeeded(&also).trim(), public, "Nix reads the key and finds the same public part");
    for compression in ["zstd", "none"] {
        let server = Server::start(&nix, &["--key", key.to_str().unwrap(), "--compression", compression]);
        assert_eq!(server.public_key, public);
        let store = nix.other_store(compression);
        succeeded(&copy(&nix, &server, &public, &top, &store));
        let verified = ["store", "verify", "--store", &store, "--recursive", "--sigs-needed", "1", &top];
        succeeded(&nix.command(&verified).args(["--option", "trusted-public-keys", &public]).output().unwrap());
        let arrived = nix.path(compression).join("store");
        for path in [&top, &needed] {
            let copied = arrived.join(Path::new(path).file_name().unwrap());
            let same =
                Command::new("diff").args(["--recursive", "--no-dereference", path]).arg(copied).output().unwrap();
            succeeded(&same);
        }
        let tool = arrived.join(Path::new(&top).file_name().unwrap()).join("link");
        assert_eq!(succeeded(&Command::new(tool).output().unwrap()), "works\n");

        let here = nix.ask(&["path-info", "--json", &top]);
        let there = nix.ask(&["path-info", "--json", "--store", &server.address, &top]);
        let [here, there]: [serde_json::Value; 2] = [here, there].map(|text| serde_json::from_str(&text).unwrap());
        for field in ["path", "narHash", "narSize", "references", "deriver"] {
            assert_eq!(there[0][field], here[0][field], "{field}");
        }
        // A derivation is a path like others.
        let deriver = here[0]["deriver"].as_str().unwrap();
        assert_eq!(server.narinfo(deriver)[0].1, deriver);
        let arguments = ["copy", "--from", &server.address, "--to", &store, "--derivation", deriver];
        succeeded(&nix.command(&arguments).args(["--option", "trusted-public-keys", &public]).output().unwrap());
    }
}

#[test]
fn a_client_with_another_key_is_refused_by_itself() {
    let Some(nix) = Nix::new() else { return };
    let (top, _) = build_example(&nix);
    let server = Server::start(&nix, &[]);
    let name = server.public_key.split_once(':').unwrap().0;
    let other = format!("{name}:{}", "A".repeat(43) + "=");
    let refused = copy(&nix, &server, &other, &top, &nix.other_store("wrong"));
    assert!(!refused.status.success());
    assert!(stderr_of(&refused).contains("signature"), "{}", stderr_of(&refused));
    succeeded(&copy(&nix, &server, &server.public_key, &top, &nix.other_store("right")));
}

#[test]
fn every_request_gets_its_answer() {
    let Some(nix) = Nix::new() else { return };
    let (top, needed) = build_example(&nix);
    let outside = nix.build(&derivation("outside", "echo x > $out"));
    let mut server = Server::start(&nix, &["--closure", &top]);
    let info = server.get("/nix-cache-info");
    let text = format!("StoreDir: {}\nWantMassQuery: 1\nPriority: 30\n", nix.path("store").display());
    assert_eq!((info.status, String::from_utf8(info.body).unwrap()), (200, text));

    let narinfo = format!("/{}.narinfo", hash_part(&top));
    let (got, headed) = (server.get(&narinfo), server.request("HEAD", &narinfo));
    assert_eq!((got.status, got.header("content-type")), (200, Some("text/x-nix-narinfo")));
    assert_eq!((headed.status, headed.body.len()), (200, 0));
    assert_eq!(headed.header("content-length"), got.header("content-length"));
    assert_eq!(server.narinfo(&needed)[0], ("StorePath".into(), needed.clone()));

    // What a NAR is, Nix says.
    let mut dump = Command::new("nix-store");
    let dumped = nix.surround(&mut dump).args(["--dump", &top]).output().unwrap().stdout;
    let zstd = server.url_of(&top);
    let plain = zstd.replace(".nar.zst", ".nar");
    let (got, headed) = (server.get(&plain), server.request("HEAD", &plain));
    assert!(got.whole && got.body == dumped);
    assert_eq!(headed.header("content-length"), Some(dumped.len().to_string().as_str()));
    assert_eq!((headed.status, headed.body.len()), (200, 0));
    let got = server.get(&zstd);
    assert!(got.whole && zstd::decode_all(got.body.as_slice()).unwrap() == dumped);
    let without_name = plain.split_once('?').unwrap().0;
    assert!(server.get(without_name).body == dumped, "the hash of the NAR alone does, once the path is known");

    let other_nar = plain.replace(hash_part(&top), hash_part(&needed));
    let unknown = [
        "/",
        "/nar/",
        "/nar",
        "/nothing",
        "/.narinfo",
        "/00000000000000000000000000000000.narinfo",
        "/0000000000000000000000000000000.narinfo",
        "/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee.narinfo",
        "/%2e%2e%2f%2e%2e%2fetc%2fpasswd.narinfo",
        "/../../../../etc/passwd",
        "/nar/../../../../etc/passwd",
        "/nar/..%2f..%2f..%2fetc%2fpasswd",
        "/nar/%2e%2e/%2e%2e/etc/passwd.nar",
        "//etc/passwd",
        "/nar//etc/passwd.nar",
        "/nar/0000000000000000000000000000000000000000000000000000.nar",
        "/nar/x.nar.xz",
        "/nar/x.nar?hash=../../etc/passwd",
        &other_nar,
        &format!("/{}.narinfo", hash_part(&outside)),
        &format!("/{}.narinfo", Path::new(&top).file_name().unwrap().to_str().unwrap()),
        &narinfo.to_uppercase(),
        &format!("{narinfo}/x"),
        top.as_str(),
    ];
    for path in unknown {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.len() < 10), (404, true), "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(server.request(method, &narinfo).status, 405, "{method}");
    }
    for malformed in
        ["nonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n", "GET /\0 HTTP/1.1\r\n\r\n"]
    {
        assert_eq!(server.exchange(malformed).status, 400, "{malformed:?}");
    }
    for undecodable in ["/%ff%fe.narinfo", "/nar/%ff.nar"] {
        assert_eq!(server.get(undecodable).status, 400, "{undecodable}");
    }
    assert_eq!(server.get("/nix-cache-info").status, 200, "it is still there");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn ten_clients_at_once_all_get_it_whole() {
    let Some(nix) = Nix::new() else { return };
    let (top, _) = build_example(&nix);
    let server = Server::start(&nix, &[]);
    let start = std::sync::Barrier::new(10);
    std::thread::scope(|scope| {
        for number in 0..10 {
            let (nix, server, top, start) = (&nix, &server, &top, &start);
            scope.spawn(move || {
                // Each a machine of its own: Nix is no good at making one home's caches twice at once.
                let home = nix.path(&format!("home-{number}"));
                fs::create_dir(&home).unwrap();
                let store = nix.other_store(&format!("client-{number}"));
                let mut copy = copying(nix, server, &server.public_key, top, &store);
                copy.env("HOME", &home);
                start.wait();
                succeeded(&copy.output().unwrap());
                let verify = ["store", "verify", "--store", &store, "--recursive", "--no-trust", top];
                succeeded(&nix.command(&verify).env("HOME", &home).output().unwrap());
            });
        }
    });
}

/// Reads the beginning of a NAR of 64 MB, lets something happen to the path, and reads the rest.
fn interrupted_by(compression: &str, what: impl FnOnce(&Path)) -> (Nix, Server, String, Answer) {
    let nix = Nix::new().expect("it was there a moment ago");
    let script = "mkdir $out; for number in $(seq 100 163); do head -c 1000000 /dev/urandom > $out/$number; done";
    let path = nix.build(&derivation("many", script));
    let server = Server::start(&nix, &["--compression", compression]);
    let url = server.url_of(&path);
    let mut connection = server.connect();
    write!(connection, "GET {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 100_000];
    connection.read_exact(&mut bytes).unwrap();
    what(Path::new(&path));
    let _ = connection.read_to_end(&mut bytes);
    (nix, server, path, Answer::of(&bytes))
}

#[test]
fn a_path_that_vanishes_or_changes_on_the_way_breaks_the_connection() {
    if Nix::new().is_none() {
        return;
    }
    let remove = |path: &Path| {
        let made_writable = Command::new("chmod").args(["-R", "u+w"]).arg(path).status().unwrap();
        assert!(made_writable.success());
        fs::remove_dir_all(path).unwrap();
    };
    for compression in ["none", "zstd"] {
        let (_nix, server, path, answer) = interrupted_by(compression, remove);
        assert_eq!((answer.status, answer.whole), (200, false), "{compression}");
        let complaints = fs::read_to_string(&server.complaints).unwrap();
        assert!(complaints.contains(&format!("{path} broke off: ")), "{complaints}");
        assert_eq!(server.get(&format!("/{}.narinfo", hash_part(&path))).status, 404);
    }
    let change = |path: &Path| {
        let last = path.join("163");
        let mut permissions = fs::metadata(&last).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(&last, permissions).unwrap();
        fs::write(&last, vec![b'x'; 1_000_000]).unwrap();
    };
    for compression in ["none", "zstd"] {
        let (_nix, server, _, answer) = interrupted_by(compression, change);
        assert_eq!((answer.status, answer.whole), (200, false), "{compression}");
        let complaints = fs::read_to_string(&server.complaints).unwrap();
        assert!(complaints.contains("is not what the Nix store's database says"), "{complaints}");
    }
}

#[test]
fn memory_does_not_grow_with_what_is_served() {
    let Some(nix) = Nix::new() else { return };
    const MEGABYTES: u64 = 300;
    let (small, _) = build_example(&nix);
    let big = nix.build(&derivation("big", &format!("head -c {MEGABYTES}000000 /dev/urandom > $out")));
    let server = Server::start(&nix, &[]);
    let fetch = |path: &str| {
        let mut sizes = Vec::new();
        for url in [server.url_of(path), server.url_of(path).replace(".nar.zst", ".nar")] {
            let mut connection = server.connect();
            write!(connection, "GET {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            sizes.push(std::io::copy(&mut connection, &mut std::io::sink()).unwrap());
        }
        sizes
    };
    fetch(&small);
    let before = server.peak_memory();
    let sizes = fetch(&big);
    assert!(sizes.iter().all(|size| *size > MEGABYTES * 1_000_000), "{sizes:?}");
    let grown = server.peak_memory() - before;
    println!("{MEGABYTES} MB twice: from {before} KiB by {grown} KiB");
    assert!(grown < 16 << 10, "from {before} KiB by {grown} KiB");
}

#[test]
fn a_store_below_another_root_is_served_under_its_own_names() {
    let Some(nix) = Nix::new() else { return };
    let folder = nix.path("thing");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "content").unwrap();
    let plain = |arguments: &[&str]| {
        let mut command = nix.command(arguments);
        for name in ["NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOCALSTATE_DIR", "NIX_LOG_DIR"] {
            command.env_remove(name);
        }
        command
    };
    let (from, to) = (nix.path("from"), nix.path("to"));
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let added = succeeded(&plain(&["store", "add-path", "--store", from, folder.to_str().unwrap()]).output().unwrap());
    let path = added.trim();
    assert!(path.starts_with("/nix/store/"), "{path}");
    // The server is given the store by `--store` alone; the names are Nix's ordinary ones.
    let store = format!("local?root={from}&store=/nix/store");
    let server = Server::start(&nix, &["--store", &store, "--closure", path]);
    let copied = plain(&["copy", "--from", &server.address, "--to", to, path])
        .args(["--option", "trusted-public-keys", &server.public_key])
        .output()
        .unwrap();
    succeeded(&copied);
    assert_eq!(fs::read_to_string(format!("{to}{path}/file")).unwrap(), "content");
}

#[test]
fn the_router_serves_below_a_path_of_another_one_and_what_comes_later() {
    let Some(nix) = Nix::new() else { return };
    let first = nix.build(&derivation("first", "echo x > $out"));
    let url = nix.store_by_url();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = NixStore::open(Some(&url)).unwrap();
    let cache = BinaryCache::new(
        Catalog::of_store(store),
        SecretKey::generate("nested").unwrap(),
        Compression::Zstd,
        30,
        |_| {},
    );
    let router = axum::Router::new().nest("/deep/cache", binary_cache::router(Arc::new(cache)));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = format!("http://{}/deep/cache", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = runtime.spawn(binary_cache::serve(listener, router, async { drop(stopped.await) }));
    let to = nix.other_store("to");
    let copy = |path: &str| {
        succeeded(&nix.command(&["copy", "--no-check-sigs", "--from", &address, "--to", &to, path]).output().unwrap());
    };
    copy(&first);
    for number in 0..3 {
        let later = nix.build(&derivation(&format!("later-{number}"), "echo x > $out"));
        nix.ask(&["path-info", "--store", &address, &later]);
        copy(&later);
    }
    stop.send(()).unwrap();
    runtime.block_on(serving).unwrap().unwrap();
}

#[test]
fn what_cannot_be_served_is_told_at_once() {
    let refused = |arguments: &[&str], status: i32, part: &str| {
        let output = bootproof().args(["cache", "serve", "--port", "0"]).args(arguments).output().unwrap();
        expect_status(&output, status);
        assert!(stderr_of(&output).contains(part), "{}", stderr_of(&output));
        assert_eq!(stdout_of(&output), "");
    };
    refused(&["--store", "ssh-ng://elsewhere"], 2, "are not on this host");
    refused(&["--store", "/nowhere"], 3, "there is no Nix store at `/nowhere/nix/store`");
    refused(&["--key", "Cargo.toml"], 2, "holds no secret key of Nix");
    refused(&["--key", "/nowhere"], 2, "failed to read the key");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("nix/store")).unwrap();
    let mut command = bootproof();
    command.args(["cache", "serve", "--port", "0", "--store"]).arg(folder.path()).env("PATH", "/nowhere");
    let output = command.output().unwrap();
    expect_status(&output, 3);
    assert!(stderr_of(&output).contains("`nix` is not installed"), "{}", stderr_of(&output));
    let Some(nix) = Nix::new() else { return };
    let missing = nix.path("store/00000000000000000000000000000000-missing");
    let mut command = bootproof();
    let output = nix.surround(&mut command).args(["cache", "serve", "--port", "0", "--closure"]).arg(missing).output();
    let output = output.unwrap();
    expect_status(&output, 2);
    assert!(stderr_of(&output).contains("is not in the Nix store"), "{}", stderr_of(&output));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = bootproof();
    let output = nix.surround(&mut command).args(["cache", "serve", "--port", &port]).output().unwrap();
    expect_status(&output, 3);
    assert!(stderr_of(&output).contains("failed to listen"), "{}", stderr_of(&output));
}
