//! From arguments to a resolved request. Each subcommand has a file of its own, with its arguments and a `run`.
//!
//! What always holds: standard output carries the answer and nothing else; everything said about the work goes to
//! standard error; an error is printed in one place, here, and its kind alone decides the exit code.

mod attached;
mod backend;
mod budget;
mod cache;
mod checkpoint;
mod clean;
mod completions;
mod console;
mod context;
mod debug;
mod deployer;
mod doctor;
mod exec;
mod fresh;
mod guard;
mod hardware;
mod image;
mod lane;
mod libvirt;
mod logs;
mod man;
mod naming;
mod plan;
mod planning;
mod print;
mod proof;
mod ps;
mod relay;
mod run;
mod ssh;
mod status;
mod stop;

use std::process::ExitCode;

use clap::Parser;

pub use context::{Context, GlobalArguments};
use print::print_error;

use crate::error::{Context as _, Result};

const AFTER_HELP: &str = "\
Start here:
  bootproof doctor                 what this host can do
  bootproof run smoke              the smallest lane: a machine boots, executes and powers off
  bootproof proof show latest      what came of it

Exit codes: 0 passed or reproduced, 1 failed, 2 wrong arguments or an invalid lane, 3 blocked,
4 infrastructure, 5 budget, 130 interrupted.";

#[derive(Parser)]
#[command(
    name = "bootproof",
    version,
    about = "Proves that real machines come up, and leaves the proof",
    after_help = AFTER_HELP,
    max_term_width = 100
)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List, show and check lanes, and start new ones
    Lane(lane::Arguments),
    /// Tell what a run would do: images, machines, steps, deadlines, disk; nothing is started
    Plan(plan::Arguments),
    /// Boot a lane's machines, do its steps, and leave the proof
    Run(run::Arguments),
    /// Run a lane, and stand still where it fails, with the machines up
    Debug(debug::Arguments),
    /// Boot an image, run one command in it, give back its output and exit status
    Exec(exec::Arguments),
    /// List and build images, and renew the lock of the versions they are made from
    Image(image::Arguments),
    /// List the checkpoints that machines are forked from, and make room
    Checkpoint(checkpoint::Arguments),
    /// Tell what the work root takes and may take
    Budget(budget::Arguments),
    /// List, show, verify and replay proofs
    Proof(proof::Arguments),
    /// Serve what Nix has built on this host to machines that install themselves
    Cache(cache::Arguments),
    /// Tell what an operator needs to boot the installer's medium on hardware
    Hardware(hardware::Arguments),
    /// Tell whether the project keeps what its profiles promise; boots nothing
    Guard(guard::Arguments),
    /// Serve machines that phone home to be installed, and administer them
    Deployer(deployer::Arguments),
    /// Tell what this host can do, and what to do about what it cannot
    Doctor(doctor::Arguments),
    /// List the machines that are up
    Ps(ps::Arguments),
    /// Tell how the runs that go on stand, and what came of the last one of each lane
    Status(status::Arguments),
    /// Show what a machine prints on its console
    Logs(logs::Arguments),
    /// Open a shell, or run a command, in a machine that is up
    Ssh(ssh::Arguments),
    /// Connect the terminal to the console of a machine that is up
    Console(console::Arguments),
    /// End machines that are up
    Stop(stop::Arguments),
    /// Remove what is left over of runs that are gone; never a proof
    Clean(clean::Arguments),
    /// Print a script by which a shell completes our command lines
    Completions(completions::Arguments),
    /// Print the manual page, or write one for each command
    Man(man::Arguments),
    /// Holds one QEMU for a run; not for people
    #[command(hide = true)]
    Keeper,
    /// Administer what is left behind at a libvirt
    Libvirt(libvirt::Arguments),
    /// Holds one domain of libvirt's for a run; not for people
    #[command(hide = true)]
    LibvirtHolder {
        /// The listening socket that it inherits.
        socket: std::os::fd::RawFd,
    },
    /// Carries one connection of a guest to a declared service; not for people
    #[command(hide = true)]
    Relay(relay::Arguments),
}

/// The command line as it is read, for whoever wants to know whether one would be understood.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Parses the process's arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let context = Context::new(&arguments.global);
    let outcome = match arguments.command {
        Command::Lane(arguments) => lane::run(&context, arguments),
        Command::Plan(arguments) => plan::run(&context, arguments),
        Command::Image(arguments) => image::run(&context, arguments),
        Command::Checkpoint(arguments) => checkpoint::run(&context, arguments),
        Command::Proof(arguments) => proof::run(&context, arguments),
        Command::Run(arguments) => run::run(&context, arguments),
        Command::Debug(arguments) => debug::run(&context, arguments),
        Command::Exec(arguments) => exec::run(&context, arguments),
        Command::Budget(arguments) => budget::run(&context, arguments),
        Command::Cache(arguments) => cache::run(&context, arguments),
        Command::Hardware(arguments) => hardware::run(&context, arguments),
        Command::Guard(arguments) => guard::run(&context, arguments),
        Command::Deployer(arguments) => deployer::run(&context, arguments),
        Command::Doctor(arguments) => doctor::run(&context, arguments),
        Command::Ps(arguments) => ps::run(&context, arguments),
        Command::Status(arguments) => status::run(&context, arguments),
        Command::Logs(arguments) => logs::run(&context, arguments),
        Command::Ssh(arguments) => ssh::run(&context, arguments),
        Command::Console(arguments) => console::run(&context, arguments),
        Command::Stop(arguments) => stop::run(&context, arguments),
        Command::Clean(arguments) => clean::run(&context, arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Man(arguments) => man::run(arguments),
        Command::Libvirt(arguments) => libvirt::run(&context, arguments),
        Command::LibvirtHolder { socket } => return crate::machine::libvirt::hold(socket),
        Command::Keeper => return crate::machine::keeper::main(),
        Command::Relay(arguments) => relay::run(arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            print_error(&context, &error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// The runtime that machines are driven on.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .infrastructure(|| "failed to start the runtime".into())
}
