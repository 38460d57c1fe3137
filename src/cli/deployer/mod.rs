//! `bootproof deployer`: the server that machines phone home to, and what administrators ask of it.

mod administer;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use super::lane::print;
use crate::deployer::{back_up, make_ca, openapi, restore};
use crate::error::Result;

const AFTER_HELP: &str = "\
An example, for one machine:
  bootproof deployer serve --config deployer.toml --listen 0.0.0.0:8080
  bootproof deployer token create          # for the kernel parameter bootproof.bootstrap_token
  bootproof deployer node list

The commands `token` and `node` ask a deployer that runs, at --url. They show it the admin token, which
stands in the file `admin-token` of its state folder: give the file with --admin-token-file, or the token in
BOOTPROOF_DEPLOYER_ADMIN_TOKEN. docs/deployer.md tells the rest.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve machines that phone home, until Ctrl-C or SIGTERM
    Serve(serve::Arguments),
    /// Make a private CA for HTTPS: ca.pem and ca.key, and the pin for bootproof.ca_cert_url
    Ca {
        /// The folder for the two files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What the CA calls itself
        #[arg(long, default_value = "bootproof deployer CA")]
        name: String,
    },
    /// Make, list and revoke bootstrap tokens
    Token(administer::TokenArguments),
    /// List, show, register, claim, redirect, reinstall and retire nodes
    Node(administer::NodeArguments),
    /// Print the OpenAPI document of the API
    Openapi,
    /// Write the state into one file, also while the deployer runs
    Backup {
        #[command(flatten)]
        state: State,
        /// The file to write
        file: PathBuf,
    },
    /// Put a backup in the place of the state; no deployer may be using it
    Restore {
        #[command(flatten)]
        state: State,
        /// A file that `backup` wrote
        file: PathBuf,
    },
}

#[derive(clap::Args)]
struct State {
    /// Where the deployer keeps its state; else `deployer` in the work root
    #[arg(long, env = "BOOTPROOF_DEPLOYER_STATE", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl State {
    fn folder(&self, context: &Context) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| context.work_root.join("deployer"))
    }
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(context, &arguments),
        Command::Ca { out, name } => {
            let files = make_ca(&out, &name)?;
            if !context.quiet {
                eprintln!("wrote {} and {}", files.certificate.display(), files.key.display());
                eprintln!("machines: bootproof.ca_cert_url=http://DEPLOYER/ca.pem#sha256=PIN, with this pin:");
            }
            print(&format!("{}\n", files.pin))
        }
        Command::Token(arguments) => administer::token(context, &arguments),
        Command::Node(arguments) => administer::node(context, &arguments),
        Command::Openapi => print(&openapi()),
        Command::Backup { state, file } => {
            back_up(&state.folder(context), &file)?;
            if !context.quiet {
                eprintln!("wrote {}", file.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Restore { state, file } => {
            restore(&state.folder(context), &file)?;
            if !context.quiet {
                eprintln!("restored {}; what was there before is kept beside it", file.display());
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
