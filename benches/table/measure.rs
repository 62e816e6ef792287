//! A row: two programs run in turn, and what came of it.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};

/// For how long the pairs of a row are repeated.
const BUDGET: Duration = Duration::from_secs(4);
/// How many pairs a row has, at least and at most.
const PAIRS: (u128, u128) = (5, 301);

/// A command line, and how it has to end.
pub(crate) struct Program {
    /// The program and its words.
    pub(crate) line: Vec<String>,
    /// The exit status that says that it did its work.
    pub(crate) status: i32,
}

impl Program {
    /// A command line that has to end with 0.
    pub(crate) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { line: words.into_iter().map(str::to_owned).collect(), status: 0 }
    }

    /// The same, that has to end with `status`.
    pub(crate) fn ending(self, status: i32) -> Self {
        Self { status, ..self }
    }
}

/// What is compared.
pub(crate) struct Row<'a> {
    /// What qus does, and what the floor does.
    pub(crate) what: String,
    pub(crate) ours: Program,
    pub(crate) floor: Program,
    /// Done before each run of either, and not measured.
    pub(crate) before: &'a dyn Fn() -> Result<()>,
    /// Looks, after each run of either, whether the work was done.
    pub(crate) after: &'a dyn Fn(Side) -> Result<()>,
}

/// Which of the two has run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// qus.
    Ours,
    /// What it is compared with.
    Floor,
}

impl Row<'_> {
    /// Measures, and prints the row.
    pub(crate) fn print(&self) -> Result<()> {
        let measured = self.measure().with_context(|| self.what.clone())?;
        writeln!(io::stdout(), "{measured}")?;
        Ok(())
    }

    fn measure(&self) -> Result<String> {
        // Not counted: they bring files into the page cache.
        let once = self.time(Side::Ours)? + self.time(Side::Floor)?;
        let wanted = BUDGET.as_micros() / once.as_micros().max(1);
        let pairs = wanted.clamp(PAIRS.0, PAIRS.1) | 1;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Who is first has the other's leavings behind it: each in turn.
            if pair % 2 == 0 {
                ours.push(self.time(Side::Ours)?);
                floor.push(self.time(Side::Floor)?);
            } else {
                floor.push(self.time(Side::Floor)?);
                ours.push(self.time(Side::Ours)?);
            }
        }
        let (ours, floor) = (median(ours)?, median(floor)?);
        let ratio = ours.as_secs_f64() / floor.as_secs_f64();
        let (our_peak, floor_peak) = (self.peak(Side::Ours)?, self.peak(Side::Floor)?);
        let [ours, floor] = [ours, floor].map(milliseconds);
        Ok(format!(
            "| {} | {ours} ms | {floor} ms | {ratio:.2} | {our_peak:.1} MB | {floor_peak:.1} MB | {pairs} |",
            self.what
        ))
    }

    fn program(&self, side: Side) -> &Program {
        match side {
            Side::Ours => &self.ours,
            Side::Floor => &self.floor,
        }
    }

    /// How long a run takes, from before the process is made until it is gone.
    fn time(&self, side: Side) -> Result<Duration> {
        let program = self.program(side);
        (self.before)()?;
        let mut command = command(&program.line)?;
        let begin = Instant::now();
        let status = command.status().with_context(|| format!("{:?}", program.line))?;
        let elapsed = begin.elapsed();
        ensure!(status.code() == Some(program.status), "{:?}: {status}", program.line);
        (self.after)(side)?;
        Ok(elapsed)
    }

    /// The most memory that a process of this program has, in megabytes.
    fn peak(&self, side: Side) -> Result<f64> {
        let program = self.program(side);
        (self.before)()?;
        let mut peak = Command::new(std::env::current_exe()?);
        let output = peak.arg("peak").args(&program.line).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let kibibytes: u32 =
            text.trim().parse().with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(f64::from(kibibytes) * 1.024 / 1000.0)
    }
}

/// Runs a program and prints its peak of memory, in kibibytes.
///
/// A process of its own, as the kernel keeps the maximum of all children, and counts what the parent had when it made
/// the child: that is small only here.
pub(crate) fn print_peak(line: &[String]) -> Result<()> {
    let _whatever_it_ends_with = command(line)?.status()?;
    writeln!(io::stdout(), "{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss())?;
    Ok(())
}

/// A silent command.
fn command(line: &[String]) -> Result<Command> {
    let Some((program, words)) = line.split_first() else { bail!("no program") };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

/// With as many digits as are worth reading.
fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    let digits = if milliseconds < 10.0 { 2 } else { usize::from(milliseconds < 100.0) };
    format!("{milliseconds:.digits$}")
}
