//! What qus costs, each time beside a floor that is measured in the same run: `cargo bench` prints one table.
//!
//! Both programs of a row run in turn, many times, and the medians are compared. Everything happens in a user and mount
//! namespace with a binfmt_misc of its own: nothing is registered on the host. The interpreters are those of
//! `$QUS_INTERPRETER_DIR`, or are fetched into `target/`, once; what is not there is skipped and told. Words behind
//! `cargo bench --` choose rows: those that contain one of them.
//!
//! The figures are worth something on a machine that does nothing else. No figure makes a run fail: a program that does
//! not do its work does.

mod floor;
mod measure;
mod rows;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use nix::sys::utsname::uname;

/// The release that is measured.
const QUS: &str = env!("CARGO_BIN_EXE_qus");
/// Where interpreters are, for qus and for this.
const INTERPRETERS: &str = "QUS_INTERPRETER_DIR";
/// The word that says that the namespaces were entered.
const INSIDE: &str = "--inside-of-the-namespaces";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_listens = writeln!(io::stderr(), "benches: {error:#}");
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
    // `cargo bench` adds it; `cargo test --all-targets` does not.
    if !words.iter().any(|word| word == "--bench") {
        return tell("benchmarks are measured by `cargo bench` only");
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
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// The distribution's interpreters, fetched as the tests do.
fn fetched() -> Result<PathBuf> {
    let directory = rows::directory().join("interpreters");
    if !directory.exists() {
        let status = Command::new(QUS).args(["fetch", "all", "--dest"]).arg(&directory).status()?;
        ensure!(status.success(), "no interpreters: set {INTERPRETERS} to a folder of them");
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

/// Tells why something is not in the table.
fn tell(text: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "benches: {text}")?)
}
