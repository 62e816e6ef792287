//! Measures the cost of qus. `cargo bench` prints one table, in which each row has a floor that is measured in the same
//! run.
//!
//! Both programs of a row run alternately, many times, and the medians are compared. Everything runs in a user and
//! mount namespace with its own binfmt_misc, so nothing is registered on the host. The interpreters are in
//! `$QUS_INTERPRETER_DIR`, or are fetched once into `target/`. A row without its tools is skipped, with a message.
//! Arguments after `cargo bench --` select the rows that contain one of them.
//!
//! The numbers are only useful on an idle machine. No number makes a run fail, but a program that does not do its work
//! does.

mod floor;
mod measure;
mod rows;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use nix::sys::utsname::uname;

/// Path of the release executable that is measured.
const QUS: &str = env!("CARGO_BIN_EXE_qus");
/// Variable that names the directory of interpreters, for qus and for the benchmarks.
const INTERPRETERS: &str = "QUS_INTERPRETER_DIR";
/// Argument of the process that runs inside of the namespaces.
const INSIDE: &str = "--inside-of-the-namespaces";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(io::stderr(), "benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    match words.split_first() {
        Some((word, rest)) if word == "floor" => return floor::play(rest),
        Some((word, rest)) if word == "peak" => return measure::print_peak(rest),
        Some((word, rest)) if word == INSIDE => return table(rest),
        _ => {}
    }
    // `cargo bench` adds this argument, and `cargo test --all-targets` does not.
    if !words.iter().any(|word| word == "--bench") {
        return report("benchmarks run only with `cargo bench`");
    }
    let interpreters = match std::env::var_os(INTERPRETERS) {
        Some(directory) => std::path::absolute(PathBuf::from(directory))?,
        None => fetched()?,
    };
    rows::download()?;
    let filters = words.iter().filter(|word| !word.starts_with("--"));
    let mut inside = Command::new("unshare");
    inside.arg("-Urm").arg(std::env::current_exe()?).arg(INSIDE).args(filters);
    let status = inside.env(INTERPRETERS, interpreters).status().context("cannot start unshare")?;
    ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(())
}

/// Returns the directory of the distribution's interpreters, after fetching them if necessary.
fn fetched() -> Result<PathBuf> {
    let directory = rows::directory().join("interpreters");
    if !directory.exists() {
        let status = Command::new(QUS).args(["fetch", "all", "--dest"]).arg(&directory).status()?;
        ensure!(status.success(), "no interpreters: set {INTERPRETERS} to a directory of interpreters");
    }
    Ok(directory)
}

/// Prints the table.
fn table(filters: &[String]) -> Result<()> {
    qus::binfmt::instance::Instance::mount(Path::new(qus::binfmt::instance::DEFAULT_PATH))?;
    let (system, processors) = (uname()?, std::thread::available_parallelism()?);
    let size = std::fs::metadata(QUS)?.len();
    let mut output = io::stdout();
    writeln!(
        output,
        "qus {}, an executable of {size} bytes; Linux {}, {}, {processors} processors\n",
        env!("CARGO_PKG_VERSION"),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy(),
    )?;
    writeln!(output, "| what qus does; its floor | qus | floor | ratio | memory | of the floor | pairs |")?;
    writeln!(output, "|---|---|---|---|---|---|---|")?;
    rows::print(filters)
}

/// Reports why a row is missing from the table.
fn report(text: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "benches: {text}")?)
}
