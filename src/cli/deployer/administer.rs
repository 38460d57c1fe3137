//! `bootproof deployer token` and `node`: what is asked of a deployer that runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::Context;
use crate::cli::lane::{pretty_json, print};
use crate::deployer::{
    ADMIN_TOKEN, ClaimRequest, Client, DesiredSystemRequest, MatchDocument, NewToken, NodeDetail, NodeList, NodeStatus,
    RegisterRequest, ReinstallRequest, TokenList, TokenRequestBody, read_token,
};
use crate::error::{Context as _, Error, Result};
use crate::lane::units::Span;
use crate::secret::Secret;
use crate::text::sanitize;

/// Where the token stands if no file is named.
const TOKEN_VARIABLE: &str = "BOOTPROOF_DEPLOYER_ADMIN_TOKEN";
const NODES: &str = "/api/v1/admin/nodes";
const TOKENS: &str = "/api/v1/admin/tokens";
/// Seconds that a deployer holds a request back at most.
const LONGEST_WAIT: u64 = 300;
const STATES: [&str; 7] = ["discovered", "claimed", "installing", "installed", "active", "failed", "retired"];

#[derive(clap::Args)]
#[command(next_help_heading = "The deployer")]
struct Server {
    /// Where the deployer is
    #[arg(
        long,
        env = "BOOTPROOF_DEPLOYER_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        global = true
    )]
    url: String,
    /// The CA of the deployer's certificate (PEM)
    #[arg(long, env = "BOOTPROOF_DEPLOYER_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// The file that holds the admin token; else it is taken from BOOTPROOF_DEPLOYER_ADMIN_TOKEN, or from `deployer` in
    /// the work root
    #[arg(long, env = "BOOTPROOF_DEPLOYER_ADMIN_TOKEN_FILE", value_name = "FILE", global = true)]
    admin_token_file: Option<PathBuf>,
    /// The same change with the same key is made once, however often it is asked for
    #[arg(long, value_name = "KEY", global = true)]
    idempotency_key: Option<String>,
    /// Answer as JSON, on standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Args)]
pub struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    server: Server,
}

#[derive(clap::Subcommand)]
enum TokenCommand {
    /// Make one, and print it on standard output: it is told once
    Create {
        /// How long it is good; else as configured
        #[arg(long, value_name = "TIME")]
        lifetime: Option<Span>,
        /// Good for many machines, not only for the first
        #[arg(long, conflicts_with = "node")]
        reusable: bool,
        /// Good for this node only
        #[arg(long)]
        node: Option<String>,
    },
    /// List them, without their values
    List,
    /// Make one good for nothing
    Revoke {
        /// As `list` shows it
        id: String,
    },
}

#[derive(clap::Args)]
pub struct NodeArguments {
    #[command(subcommand)]
    command: NodeCommand,
    #[command(flatten)]
    server: Server,
}

#[derive(clap::Subcommand)]
enum NodeCommand {
    /// List nodes and where they are
    List {
        /// Only those in this state
        #[arg(long, value_parser = PossibleValuesParser::new(STATES))]
        state: Option<String>,
    },
    /// Show a node and what led it to where it is
    Show { node: String },
    /// Wait until a node is in a state; woken by the deployer. One that fails ends it (exit 1), and so does the time
    Wait {
        node: String,
        #[arg(long, value_parser = PossibleValuesParser::new(STATES))]
        state: String,
        /// How long
        #[arg(long, value_name = "TIME", default_value = "10m")]
        within: Span,
    },
    /// Make a node known before it comes
    Register {
        node: String,
        #[arg(long)]
        class: String,
        /// Recognise it by the kernel parameter bootproof.node_id; its name is that where nothing is given
        #[arg(long)]
        node_id: Option<String>,
        /// Recognise it by its serial number
        #[arg(long)]
        serial: Option<String>,
        /// Recognise it by the MAC address of one of its cards
        #[arg(long)]
        mac: Option<String>,
        /// What it shall run; else what its class says
        #[arg(long, value_name = "SYSTEM")]
        desired_system: Option<String>,
    },
    /// Say what a node shall become that was discovered, has failed or was retired
    Claim {
        node: String,
        #[arg(long)]
        class: String,
        /// What it shall run; else what its class says
        #[arg(long, value_name = "SYSTEM")]
        desired_system: Option<String>,
    },
    /// Let a node be installed again, whatever it is; it has to boot the installer
    Reinstall {
        node: String,
        /// Another class than before
        #[arg(long)]
        class: Option<String>,
    },
    /// Let a node run another system
    SetDesired {
        node: String,
        /// One of the configuration's systems; without it, what the class says
        system: Option<String>,
    },
    /// Take a node out of service: its credential and its tokens are dead
    Retire { node: String },
}

struct Asking<'a> {
    client: Client,
    server: &'a Server,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Asking<'a> {
    fn new(context: &Context, server: &'a Server) -> Result<Self> {
        let client = Client::new(&server.url, server.ca.as_deref(), Some(admin_token(context, server)?))?;
        Ok(Self { client, server, runtime: crate::cli::runtime()? })
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(&self, method: Method, path: &str, question: Option<&Q>) -> Result<A> {
        let key = self.server.idempotency_key.as_deref();
        let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        self.runtime.block_on(self.client.ask(method, path, &headers, question))
    }

    fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        self.ask(Method::GET, path, None::<&()>)
    }

    /// One request after the other, each of which the deployer holds back as long as it does.
    fn wait(&self, node: &str, wanted: &str, within: Duration) -> Result<ExitCode> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // A second more than is left is better than many requests that ask for none.
            let wait = left.as_secs().min(LONGEST_WAIT) + u64::from(left.as_secs() < LONGEST_WAIT);
            let path = format!("{NODES}/{}?state={wanted}&wait={wait}", segment(node)?);
            let answer = self.runtime.block_on(self.client.send(Method::GET, &path, &[], Vec::new()))?;
            let status = match answer.response.status().as_u16() {
                // It has never come.
                404 => None,
                200..300 => {
                    let detail: NodeDetail = serde_json::from_slice(&answer.body)
                        .infrastructure(|| "failed to understand the deployer's answer".into())?;
                    Some(detail.node)
                }
                _ => return Err(answer.refusal()),
            };
            let is = status.as_ref().map(state);
            let over = is.as_deref() == Some(wanted) || is.as_deref() == Some("failed");
            if !over && Instant::now() < end {
                continue;
            }
            if let Some(status) = status {
                print(&if self.server.json { pretty_json(&status)? } else { node_table(&[status]) })?;
            }
            if is.as_deref() == Some(wanted) {
                return Ok(ExitCode::SUCCESS);
            }
            let is = is.map_or_else(|| "is not known".into(), |is| format!("is {is}"));
            eprintln!("node `{node}` {is}, not {wanted}");
            return Ok(ExitCode::FAILURE);
        }
    }

    fn change<Q: Serialize>(&self, method: Method, path: &str, question: Option<&Q>) -> Result<ExitCode> {
        let status: NodeStatus = self.ask(method, path, question)?;
        print(&if self.server.json { pretty_json(&status)? } else { node_table(&[status]) })
    }
}

fn admin_token(context: &Context, server: &Server) -> Result<Secret> {
    let missing = || {
        Error::blocked("the admin token is missing").hint(format!(
            "`--admin-token-file` names its file, `{ADMIN_TOKEN}` in the deployer's state folder; or set `{TOKEN_VARIABLE}`"
        ))
    };
    if let Some(path) = &server.admin_token_file {
        return read_token(path)?.ok_or_else(|| missing().with_source(format!("there is no `{}`", path.display())));
    }
    // Read here and not by the argument parser, whose help would show it.
    match std::env::var(TOKEN_VARIABLE) {
        Ok(value) if !value.trim().is_empty() => Ok(Secret::new(value.trim().to_owned())),
        _ => read_token(&context.work_root.join("deployer").join(ADMIN_TOKEN))?.ok_or_else(missing),
    }
}

/// A name as a part of a path.
fn segment(name: &str) -> Result<&str> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.is_empty() && name.bytes().all(safe) && !name.starts_with('.') {
        return Ok(name);
    }
    Err(Error::usage(format!("`{name}` cannot be a name")).hint("names are letters, digits, `-`, `_` and `.`"))
}

pub fn token(context: &Context, arguments: &TokenArguments) -> Result<ExitCode> {
    let asking = Asking::new(context, &arguments.server)?;
    match &arguments.command {
        TokenCommand::Create { lifetime, reusable, node } => {
            let body = TokenRequestBody {
                version: 1,
                lifetime: lifetime.map(|span| span.duration().as_secs()),
                reusable: reusable.then_some(true),
                node: node.clone(),
            };
            let told: NewToken = asking.ask(Method::POST, TOKENS, Some(&body))?;
            if arguments.server.json {
                return print(&pretty_json(&told)?);
            }
            if !context.quiet {
                eprintln!("token {} is good until {}", told.token.id, told.token.expires);
            }
            print(&format!("{}\n", told.value))
        }
        TokenCommand::List => {
            let list: TokenList = asking.get(TOKENS)?;
            if arguments.server.json {
                return print(&pretty_json(&list.tokens)?);
            }
            let mut rows = vec![["TOKEN", "STATE", "NODE", "EXPIRES"].map(String::from).to_vec()];
            for token in list.tokens {
                let state = match &token {
                    token if token.revoked.is_some() => "revoked",
                    token if token.spent.is_some() => "used",
                    token if token.expires <= jiff::Timestamp::now() => "expired",
                    token if token.reusable => "reusable",
                    token if token.node.is_some() => "bound",
                    _ => "unused",
                };
                rows.push(vec![token.id, state.into(), token.node.unwrap_or_default(), token.expires.to_string()]);
            }
            print(&table(&rows))
        }
        TokenCommand::Revoke { id } => {
            asking.ask::<(), ()>(Method::DELETE, &format!("{TOKENS}/{}", segment(id)?), None)?;
            if !context.quiet {
                eprintln!("revoked {id}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub fn node(context: &Context, arguments: &NodeArguments) -> Result<ExitCode> {
    let asking = Asking::new(context, &arguments.server)?;
    let path = |node: &str, what: &str| Ok::<_, Error>(format!("{NODES}/{}{what}", segment(node)?));
    match &arguments.command {
        NodeCommand::List { state } => {
            let query = state.as_ref().map(|state| format!("?state={state}")).unwrap_or_default();
            let list: NodeList = asking.get(&format!("{NODES}{query}"))?;
            print(&if arguments.server.json { pretty_json(&list.nodes)? } else { node_table(&list.nodes) })
        }
        NodeCommand::Show { node } => {
            let detail: NodeDetail = asking.get(&path(node, "")?)?;
            print(&if arguments.server.json { pretty_json(&detail)? } else { shown(&detail)? })
        }
        NodeCommand::Wait { node, state, within } => asking.wait(node, state, within.duration()),
        NodeCommand::Register { node, class, node_id, serial, mac, desired_system } => {
            let body = RegisterRequest {
                version: 1,
                node: node.clone(),
                class: class.clone(),
                matches: MatchDocument { node_id: node_id.clone(), serial: serial.clone(), mac: mac.clone() },
                desired_system: desired_system.clone(),
            };
            asking.change(Method::POST, NODES, Some(&body))
        }
        NodeCommand::Claim { node, class, desired_system } => {
            let body = ClaimRequest { version: 1, class: class.clone(), desired_system: desired_system.clone() };
            asking.change(Method::POST, &path(node, "/claim")?, Some(&body))
        }
        NodeCommand::Reinstall { node, class } => {
            let body = ReinstallRequest { version: 1, class: class.clone() };
            asking.change(Method::POST, &path(node, "/reinstall")?, Some(&body))
        }
        NodeCommand::SetDesired { node, system } => {
            let body = DesiredSystemRequest { version: 1, system: system.clone() };
            asking.change(Method::PUT, &path(node, "/desired-system")?, Some(&body))
        }
        NodeCommand::Retire { node } => asking.change(Method::POST, &path(node, "/retire")?, None::<&()>),
    }
}

fn state(status: &NodeStatus) -> String {
    format!("{:?}", status.state).to_lowercase()
}

fn node_table(nodes: &[NodeStatus]) -> String {
    let mut rows = vec![["NODE", "STATE", "CLASS", "HOSTNAME", "RUNS", "SHALL RUN", "SEEN"].map(String::from).to_vec()];
    for node in nodes {
        let or_nothing = |value: &Option<String>| plain(value.as_deref().unwrap_or("-"));
        rows.push(vec![
            node.node.clone(),
            state(node),
            or_nothing(&node.class),
            or_nothing(&node.hostname),
            or_nothing(&node.active_system),
            or_nothing(&node.desired_system),
            node.seen.map_or_else(|| "never".into(), |time| time.to_string()),
        ]);
    }
    table(&rows)
}

/// What a machine said must not act on the terminal.
fn plain(text: &str) -> String {
    sanitize(text).replace(['\n', '\t'], " ")
}

fn shown(detail: &NodeDetail) -> Result<String> {
    let mut text = node_table(std::slice::from_ref(&detail.node));
    let identity = &detail.node.identity;
    let or_nothing = |value: &Option<String>| plain(value.as_deref().unwrap_or("-"));
    text.push_str(&format!(
        "\nnode id  {}\nserial   {}\nboard    {}\ncards    {}\n\n",
        or_nothing(&identity.node_id),
        or_nothing(&identity.serial),
        or_nothing(&identity.uuid),
        identity.macs.join(" ")
    ));
    let mut rows = vec![["TIME", "STATE", "CAUSE"].map(String::from).to_vec()];
    for entry in &detail.history {
        let cause = serde_json::to_string(&entry.cause).map_err(|error| Error::infrastructure(error.to_string()))?;
        rows.push(vec![entry.time.to_string(), format!("{:?}", entry.to).to_lowercase(), plain(&cause)]);
    }
    text.push_str(&table(&rows));
    Ok(text)
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
