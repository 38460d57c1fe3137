//! The guest's program; see `bootproof::agent`.

fn main() -> std::process::ExitCode {
    bootproof::agent::main()
}
