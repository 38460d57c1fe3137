//! `bootproof ps`: the machines that are up.

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::lane::units::Size;
use crate::machine::registry::{self, MachineRecord};

#[derive(clap::Args)]
pub struct Arguments {
    /// As JSON, on standard output
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let records = registry::live(&context.work_root)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&records).expect("records are plain data"));
    } else if records.is_empty() {
        if !context.quiet {
            eprintln!("no machine is up");
        }
    } else {
        print!("{}", table(&records));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(records: &[MachineRecord]) -> String {
    let mut rows = vec![["MACHINE", "LANE", "STATE", "PID", "MEMORY", "STARTED", "PORTS"].map(String::from)];
    for record in records {
        let ports: Vec<String> =
            record.forwards.iter().map(|(guest, host)| format!("{guest}->127.0.0.1:{host}")).collect();
        rows.push([
            format!("{}/{}", record.run, record.machine),
            record.lane.clone(),
            if record.kept { "kept" } else { "running" }.into(),
            record.qemu_pid.to_string(),
            Size(record.memory).to_string(),
            record.started.clone(),
            ports.join(" "),
        ]);
    }
    let widths: Vec<usize> = (0..7).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
