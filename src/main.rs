//! The `bootproof` command. All it does is hand over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bootproof::cli::main()
}
