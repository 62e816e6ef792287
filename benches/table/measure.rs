//! A row of the table: two programs that run alternately, and the result.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};

/// Time for all pairs of a row.
const BUDGET: Duration = Duration::from_secs(4);
/// Minimum and maximum number of pairs in a row.
const PAIRS: (u128, u128) = (5, 301);

/// A command line and its expected exit status.
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) line: Vec<String>,
    /// Exit status that shows success.
    pub(crate) status: i32,
    /// Name of an environment variable that the program does not get.
    pub(crate) without: Option<&'static str>,
}

impl Program {
    /// Creates a command line that must exit with 0.
    pub(crate) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { line: words.into_iter().map(str::to_owned).collect(), status: 0, without: None }
    }

    /// Sets another expected exit status.
    pub(crate) fn ending(self, status: i32) -> Self {
        Self { status, ..self }
    }

    /// Removes a variable from the program's environment.
    pub(crate) fn without(self, variable: &'static str) -> Self {
        Self { without: Some(variable), ..self }
    }
}

/// A comparison of two programs.
pub(crate) struct Row<'a> {
    /// Description of the work of qus and of the floor.
    pub(crate) what: String,
    pub(crate) ours: Program,
    pub(crate) floor: Program,
    /// Prepares each run of either program. Its time is not measured.
    pub(crate) before: &'a dyn Fn() -> Result<()>,
    /// Checks after each run that the program did its work.
    pub(crate) after: &'a dyn Fn(Side) -> Result<()>,
}

/// One of the two programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// qus.
    Ours,
    /// The program that qus is compared with.
    Floor,
}

impl Row<'_> {
    /// Measures both programs, and prints the row.
    pub(crate) fn print(&self) -> Result<()> {
        let measured = self.measure().with_context(|| self.what.clone())?;
        writeln!(io::stdout(), "{measured}")?;
        Ok(())
    }

    fn measure(&self) -> Result<String> {
        // The first runs are not counted, because they load the files into the page cache.
        let once = self.time(Side::Ours)? + self.time(Side::Floor)?;
        let wanted = BUDGET.as_micros() / once.as_micros().max(1);
        let pairs = wanted.clamp(PAIRS.0, PAIRS.1) | 1;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // The programs alternate in going first, because each run has side effects on the next one.
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

    /// Returns the time of a run, from the creation of the process until its end.
    fn time(&self, side: Side) -> Result<Duration> {
        let program = self.program(side);
        (self.before)()?;
        let mut command = command(&program.line)?;
        program.without.map(|variable| command.env_remove(variable));
        let begin = Instant::now();
        let status = command.status().with_context(|| format!("{:?}", program.line))?;
        let elapsed = begin.elapsed();
        ensure!(status.code() == Some(program.status), "{:?}: {status}", program.line);
        (self.after)(side)?;
        Ok(elapsed)
    }

    /// Returns the peak memory use of the program, in megabytes.
    fn peak(&self, side: Side) -> Result<f64> {
        let program = self.program(side);
        (self.before)()?;
        let mut peak = Command::new(std::env::current_exe()?);
        program.without.map(|variable| peak.env_remove(variable));
        let output = peak.arg("peak").args(&program.line).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let kibibytes: u32 =
            text.trim().parse().with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(f64::from(kibibytes) * 1.024 / 1000.0)
    }
}

/// Runs a program and prints its peak memory use in KiB.
///
/// Runs in a separate process, because the kernel reports the maximum over all children. A child also starts with the
/// memory of its parent, which is small in this process.
pub(crate) fn print_peak(line: &[String]) -> Result<()> {
    let _whatever_it_ends_with = command(line)?.status()?;
    writeln!(io::stdout(), "{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss())?;
    Ok(())
}

/// Creates a command without input and output.
fn command(line: &[String]) -> Result<Command> {
    let Some((program, words)) = line.split_first() else { bail!("no program") };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Returns the median.
fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

/// Formats a time in milliseconds, with two or three significant digits.
fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    let digits = if milliseconds < 10.0 { 2 } else { usize::from(milliseconds < 100.0) };
    format!("{milliseconds:.digits$}")
}
