//! Booting the installer over the network: an iPXE script, and the files that it names.
//!
//! Whoever asks is answered: firmware has no secrets. So no token is in a script, unless an operator puts one into
//! `netboot.parameters` himself.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio_util::io::ReaderStream;

use super::bundles::set;
use crate::deployer::configuration::Netboot;
use crate::deployer::identity::{is_placeholder_serial, normalised_mac};
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::service::Deployer;
use crate::provisioning::Identity;

pub fn router() -> Router<Deployer> {
    Router::new().route("/netboot/ipxe", get(script)).route("/netboot/files/{name}", get(file))
}

#[derive(Deserialize)]
struct Machine {
    mac: Option<String>,
    serial: Option<String>,
    uuid: Option<String>,
}

fn netboot(deployer: &Deployer) -> Outcome<&Netboot> {
    let none = || Refusal::new(404, "no-netboot", "this deployer has nothing to boot from");
    deployer.0.rules.configuration.netboot.as_ref().ok_or_else(none)
}

async fn script(
    State(deployer): State<Deployer>,
    query: Result<Query<Machine>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Outcome<Response> {
    let Query(machine) = query.map_err(|_| Refusal::malformed("`mac` and `serial` are texts"))?;
    let netboot = netboot(&deployer)?;
    // Where the machine came to is where it finds the rest.
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) if is_host(host) => Some(host),
        _ => None,
    };
    let host = host.ok_or_else(|| Refusal::malformed("the header `Host` has to be the deployer's address"))?;
    let macs = machine.mac.as_deref().and_then(normalised_mac).into_iter().collect();
    let serial = machine.serial.filter(|serial| !serial.is_empty() && !is_placeholder_serial(serial));
    let identity = Identity { node_id: None, serial, uuid: machine.uuid.map(|uuid| uuid.to_lowercase()), macs };
    let known = deployer.recognise(identity).await?;
    let text = match known {
        // It has its system: it boots that, until it is told to be installed again.
        Some((node, true)) => format!("#!ipxe\necho bootproof: {node} boots from its disk\nexit\n"),
        Some((node, false)) => boot(netboot, host, &node),
        // The same installer: it phones home, is discovered, and waits.
        None => boot(netboot, host, "a machine that nobody knows yet"),
    };
    tracing::info!(mac = machine.mac, known = ?known_name(&text), "netboot");
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], text)
        .into_response())
}

fn known_name(script: &str) -> &str {
    script.lines().nth(1).unwrap_or_default()
}

fn boot(netboot: &Netboot, host: &str, node: &str) -> String {
    let files = format!("http://{host}/netboot/files");
    let mut text = format!("#!ipxe\necho bootproof: the installer, for {node}\n");
    let given = netboot.parameters.iter().any(|parameter| parameter.starts_with("bootproof.deployer_url="));
    // First: of what is given twice the last counts, and a parameter may be a setting of iPXE's that says another.
    let ours = (!given).then(|| format!("bootproof.deployer_url=http://{host}"));
    // UEFI's kernels find what was loaded by these names.
    let initrds: Vec<String> = netboot.initrds.iter().map(|name| format!("initrd={name}")).collect();
    let words: Vec<&str> = initrds.iter().chain(&ours).chain(&netboot.parameters).map(String::as_str).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "kernel {files}/{} {}", netboot.kernel, words.join(" "));
    for name in &netboot.initrds {
        let _ = writeln!(text, "initrd --name {name} {files}/{name}");
    }
    text.push_str("boot\n");
    text
}

/// A host, with a port or without. What is told here becomes a line of a script.
fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    !text.is_empty() && text.bytes().all(allowed)
}

async fn file(State(deployer): State<Deployer>, Path(name): Path<String>) -> Outcome<Response> {
    let netboot = netboot(&deployer)?;
    let unknown = || Refusal::new(404, "unknown-file", "there is no such file to boot from");
    let path = netboot.files.get(&name).ok_or_else(unknown)?;
    let unreadable = |error: std::io::Error| {
        tracing::error!(%error, path = %path.display(), "failed to read a file to boot from");
        Refusal::new(503, "file-unreadable", "the file cannot be read")
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let size = file.metadata().await.map_err(unreadable)?.len();
    let body = axum::body::Body::from_stream(ReaderStream::with_capacity(file, 128 << 10));
    let mut response = body.into_response();
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    // iPXE wants to know how much comes.
    set(&mut response, header::CONTENT_LENGTH, &size.to_string());
    Ok(response)
}
