//! What standard error shows while a run goes on. Rendering only: it takes events that are on the disk already, and
//! ticks that may get lost.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::describe::describe;
use super::text::{self, one_line, shorten};
use super::view::View;
use crate::event::{Event, Kind, Outcome, Severity, StopCause, Verdict};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing but what went wrong.
    Quiet,
    /// A line with a timestamp for each thing that happens.
    Plain,
    /// A terminal: lines as above, and below them what is going on right now, redrawn.
    Interactive,
}

/// Something that goes on but is no fact worth keeping. Never written to the log.
#[derive(Clone, Copy, Debug)]
pub enum Tick<'a> {
    /// So many bytes of the machine's console are recorded by now.
    Console { machine: &'a str, bytes: u64 },
    /// A long piece of work has got so far; `total` where it is known.
    Work { name: &'a str, done: u64, total: Option<u64> },
    /// A long piece of work has done so many of its parts; `last` is what it said last.
    Parts { name: &'a str, done: u64, total: u64, last: &'a str },
    /// That piece of work is over.
    WorkDone { name: &'a str },
}

/// Shows a run's progress.
pub struct Progress {
    mode: Mode,
    verbose: u8,
    color: bool,
    output: Output,
}

enum Output {
    Plain(Box<dyn Write + Send>),
    Interactive(Screen),
}

impl Progress {
    /// On standard error.
    pub fn new(mode: Mode, verbose: u8, color: bool) -> Self {
        let output = match mode {
            Mode::Quiet | Mode::Plain => Output::Plain(Box::new(io::stderr())),
            Mode::Interactive => Output::Interactive(Screen::new(ProgressDrawTarget::stderr())),
        };
        Self { mode, verbose, color, output }
    }

    /// A fact that is on the disk; `view` has it folded in.
    pub fn apply(&mut self, event: &Event, view: &View) {
        if importance(&event.event, event.severity) <= self.allowed() {
            let line = self.line(event);
            match &mut self.output {
                // Nobody may be listening; the proof is elsewhere.
                Output::Plain(writer) => drop(writeln!(writer, "{line}")),
                Output::Interactive(screen) => screen.print(&line),
            }
        }
        if let Output::Interactive(screen) = &mut self.output {
            screen.apply(event, view);
        }
    }

    /// Something about the work that is no event: how an image is being built.
    pub fn say(&mut self, text: &str) {
        if self.mode != Mode::Quiet {
            self.print(&one_line(text));
        }
    }

    /// The same for what the user has to know in any case.
    pub fn warn(&mut self, text: &str) {
        self.print(&one_line(&format!("warning: {text}")));
    }

    fn print(&mut self, line: &str) {
        match &mut self.output {
            // Nobody may be listening; the proof is elsewhere.
            Output::Plain(writer) => drop(writeln!(writer, "{line}")),
            Output::Interactive(screen) => screen.print(line),
        }
    }

    pub fn tick(&mut self, tick: Tick<'_>) {
        if let Output::Interactive(screen) = &mut self.output {
            screen.tick(tick);
        }
    }

    /// Clears what is redrawn, so that the summary stands alone.
    pub fn finish(&mut self) {
        if let Output::Interactive(screen) = &mut self.output {
            screen.clear();
        }
    }

    fn allowed(&self) -> Importance {
        match (self.mode, self.verbose) {
            (Mode::Quiet, _) => Importance::Trouble,
            (Mode::Plain | Mode::Interactive, 0) => Importance::Normal,
            (Mode::Plain | Mode::Interactive, 1) => Importance::Detail,
            (Mode::Plain | Mode::Interactive, _) => Importance::Everything,
        }
    }

    fn line(&self, event: &Event) -> String {
        let line = plain_line(event);
        if !self.color {
            return line;
        }
        match tone(event) {
            Some(code) => format!("\x1b[{code}m{line}\x1b[0m"),
            None => line,
        }
    }
}

/// From what is always shown to what is shown on demand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Importance {
    Trouble,
    Normal,
    Detail,
    Everything,
}

fn importance(kind: &Kind, severity: Severity) -> Importance {
    match (kind, severity) {
        (_, Severity::Debug) => Importance::Everything,
        // The summary tells these, and tells them better.
        (Kind::RunClosed { .. }, _) => Importance::Detail,
        (_, Severity::Error) => Importance::Trouble,
        (_, Severity::Warning) => Importance::Normal,
        (kind, Severity::Info) => match kind {
            Kind::RunStarted { .. }
            | Kind::AcceleratorChosen { .. }
            | Kind::ImageReady { .. }
            | Kind::CheckpointReady { .. }
            | Kind::CheckpointUnavailable { .. }
            | Kind::CheckpointSaved { .. }
            | Kind::CheckpointRestored { .. }
            | Kind::MachineForked { .. }
            | Kind::MachineStarted { .. }
            | Kind::EpochBegan { .. }
            | Kind::FailurePatternSeen { .. }
            | Kind::ConsoleCapped { .. }
            | Kind::MachineStopped { .. }
            | Kind::StepStarted { .. }
            | Kind::ExpectationMet { .. }
            | Kind::StepFinished { .. }
            | Kind::GateDecided { .. }
            | Kind::FaultBegan { .. }
            | Kind::FaultEnded { .. }
            | Kind::RunHeld { .. }
            | Kind::RunReleased { .. }
            | Kind::Interrupted { .. }
            | Kind::DeadlinePassed { .. }
            | Kind::BudgetCrossed { .. }
            | Kind::AdmissionWaiting { .. }
            | Kind::InfrastructureFailed { .. }
            | Kind::MachineKept { .. }
            | Kind::Note { .. } => Importance::Normal,
            Kind::StepsPlanned { .. }
            | Kind::PreflightFinished { .. }
            | Kind::Admitted { .. }
            | Kind::ResourcesUsed { .. }
            | Kind::ChannelReady { .. }
            | Kind::ChannelLost { .. }
            | Kind::ForwardOpened { .. }
            | Kind::NetworkOpened { .. }
            | Kind::NetworkClosed { .. }
            | Kind::DeployerEnded { .. }
            | Kind::CommandFinished { .. }
            | Kind::AwaitEnded { .. }
            | Kind::ArtifactSaved { .. }
            | Kind::StepsEnded {}
            | Kind::RunClosed { .. } => Importance::Detail,
            // A guest can print very many of them.
            Kind::MarkerSeen { .. } => Importance::Everything,
        },
    }
}

fn tone(event: &Event) -> Option<&'static str> {
    match (&event.event, event.severity) {
        (Kind::GateDecided { outcome, .. } | Kind::StepFinished { outcome, .. }, _) => match outcome {
            Outcome::Passed => Some("32"),
            Outcome::Failed => Some("31"),
            Outcome::Skipped | Outcome::NotRun => Some("33"),
        },
        (Kind::MachineStopped { cause: StopCause::Died, .. }, _) => Some("31"),
        (Kind::RunClosed { verdict: Verdict::Passed | Verdict::Reproduced }, _) => Some("32"),
        (_, Severity::Error) => Some("31"),
        (_, Severity::Warning) => Some("33"),
        (_, Severity::Info | Severity::Debug) => None,
    }
}

/// Longest line, in characters.
const LONGEST_LINE: usize = 400;

/// `10:17:56.123 node01  marker boot`, harmless whatever a guest printed.
pub fn plain_line(event: &Event) -> String {
    let wall = one_line(&event.wall);
    let time: String = wall.split_once('T').map_or(wall.as_str(), |(_, time)| time).chars().take(12).collect();
    let machine = one_line(event.machine.as_deref().unwrap_or(""));
    let told = one_line(&describe(&event.event));
    let machine = if machine.is_empty() { machine } else { format!("{machine}  ") };
    shorten(format!("{time}  {machine}{told}").trim_end(), LONGEST_LINE)
}

/// The redrawn lines of an interactive terminal.
struct Screen {
    all: MultiProgress,
    /// What the run is doing.
    run: ProgressBar,
    machines: BTreeMap<String, ProgressBar>,
    works: BTreeMap<String, ProgressBar>,
}

/// How often a spinner turns; a thread of indicatif's own does it, so a busy run is not held up.
const TURN: Duration = Duration::from_millis(120);

/// A guest cannot make more lines than this.
const MOST_LINES: usize = 12;

impl Screen {
    fn new(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let run = all.add(ProgressBar::new_spinner().with_style(spinner("{spinner} {wide_msg} {elapsed}")));
        run.enable_steady_tick(TURN);
        Self { all, run, machines: BTreeMap::new(), works: BTreeMap::new() }
    }

    fn print(&self, line: &str) {
        // Nobody may be listening; the proof is elsewhere.
        drop(self.all.println(line));
    }

    fn apply(&mut self, event: &Event, view: &View) {
        if let Kind::StepStarted { name, action, deadline_ms, .. } = &event.event {
            self.run.reset_elapsed();
            let within = text::duration(*deadline_ms);
            self.run.set_message(one_line(&format!("step {name} ({action}), within {within}")));
        } else if view.current_step().is_none() {
            self.run.set_message(one_line(&describe(&event.event)));
        }
        let Some(name) = &event.machine else { return };
        let Some(machine) = view.machines.get(name) else { return };
        if machine.stopped.is_some() {
            if let Some(bar) = self.machines.remove(name) {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
            return;
        }
        let marker = machine.last_marker.as_ref().map_or("no marker yet", |marker| marker.text.as_str());
        let message = shorten(&one_line(&format!("{name}  epoch {}  {marker}", machine.epoch)), 120);
        if let Some(bar) = self.machine(name) {
            bar.set_message(message);
        }
    }

    fn machine(&mut self, name: &str) -> Option<&ProgressBar> {
        if !self.machines.contains_key(name) {
            if self.machines.len() >= MOST_LINES {
                return None;
            }
            let bar = ProgressBar::new(0).with_style(spinner("  {wide_msg} {bytes}"));
            self.machines.insert(name.to_owned(), self.all.add(bar));
        }
        self.machines.get(name)
    }

    /// A line for a piece of work, where it has none and there is room.
    fn work(&mut self, name: &str, style: &str, total: Option<u64>) {
        if !self.works.contains_key(name) && self.works.len() < MOST_LINES {
            let bar = ProgressBar::new(total.unwrap_or(0)).with_style(spinner(style));
            bar.set_message(one_line(name));
            self.works.insert(name.to_owned(), self.all.add(bar));
        }
    }

    fn tick(&mut self, tick: Tick<'_>) {
        match tick {
            Tick::Console { machine, bytes } => {
                if let Some(bar) = self.machines.get(machine) {
                    bar.set_position(bytes);
                }
            }
            Tick::Work { name, done, total } => {
                let style = match total {
                    Some(_) => "  {msg} {wide_bar} {bytes}/{total_bytes}",
                    None => "  {wide_msg} {bytes}",
                };
                self.work(name, style, total);
                if let Some(bar) = self.works.get(name) {
                    bar.set_position(done);
                }
            }
            Tick::Parts { name, done, total, last } => {
                let style = "  {wide_msg} {pos}/{len}";
                self.work(name, style, Some(total));
                if let Some(bar) = self.works.get(name) {
                    // It may have begun as one whose parts nobody knew.
                    bar.set_style(spinner(style));
                    bar.set_length(total);
                    bar.set_position(done);
                    bar.set_message(one_line(&format!("{name}: {last}")));
                }
            }
            Tick::WorkDone { name } => {
                if let Some(bar) = self.works.remove(name) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
        }
    }

    fn clear(&mut self) {
        for bar in self.machines.values().chain(self.works.values()).chain([&self.run]) {
            bar.finish_and_clear();
        }
        drop(self.all.clear());
    }
}

fn spinner(template: &str) -> ProgressStyle {
    // The templates are this file's own, and a test draws each of them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::sample;
    use crate::report::testing::snapshot;

    /// Keeps what was written.
    #[derive(Clone, Debug, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl indicatif::TermLike for Sink {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.clone().write_all(line.as_bytes())?;
            self.clone().write_all(b"\n")
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.clone().write_all(text.as_bytes())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn show(mut progress: Progress, events: &[Event]) {
        let mut view = View::default();
        for event in events {
            view.apply(event);
            progress.apply(event, &view);
            progress.tick(Tick::Console { machine: "node01", bytes: 4096 });
        }
        progress.tick(Tick::Work { name: "build", done: 1, total: Some(2) });
        progress.tick(Tick::Work { name: "fetch", done: 1, total: None });
        progress.tick(Tick::Parts { name: "nix", done: 1, total: 2, last: "a line" });
        progress.tick(Tick::WorkDone { name: "build" });
        progress.finish();
    }

    fn plain(mode: Mode, verbose: u8, color: bool, events: &[Event]) -> String {
        let sink = Sink::default();
        show(Progress { mode, verbose, color, output: Output::Plain(Box::new(sink.clone())) }, events);
        sink.text()
    }

    #[test]
    fn plain_lines_carry_a_timestamp_each() {
        snapshot("progress_plain", &plain(Mode::Plain, 0, false, &sample::failed_gate()));
        snapshot("progress_verbose", &plain(Mode::Plain, 2, false, &sample::failed_gate()));
        snapshot("progress_quiet", &plain(Mode::Quiet, 0, false, &sample::failed_gate()));
        assert_eq!(plain(Mode::Quiet, 0, false, &sample::passed()), "");
        assert!(plain(Mode::Plain, 0, true, &sample::passed()).contains("\x1b[32m"));
    }

    #[test]
    fn a_terminal_shows_what_is_going_on() {
        let sink = Sink::default();
        let screen = Screen::new(ProgressDrawTarget::term_like_with_hz(Box::new(sink.clone()), 255));
        show(
            Progress { mode: Mode::Interactive, verbose: 0, color: false, output: Output::Interactive(screen) },
            &sample::failed_gate(),
        );
        let text = sink.text();
        for part in
            ["step expect: expect on node01", "node01  epoch 1", "step kv (exec), within 4m 00s", "4.00 KiB", "fetch"]
        {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }
}
