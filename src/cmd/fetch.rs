//! `qus fetch`: static interpreters, from the distribution's package or from a source that was named, into a folder.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::own_head;
use crate::arch::{ARCHES, Arch};
use crate::cli::{Common, Fetch, named};
use crate::folders;
use crate::interpreter::{Interpreter, emulated_by};
use crate::output::{Output, Status, columns, path_text};
use crate::package::{
    Apt, Extraction, Manager, ManagerError, Outcome, Package, PackageError, PackageInfo, Progress, Selection,
    Sha256, Web, WebError, fetch_with_apt, scheme,
};
use crate::problem::{Problem, shell_word};

/// What is to be fetched.
pub(super) struct Order<'a> {
    /// `None`: all that the source has.
    pub(super) arches: Option<Vec<&'static Arch>>,
    /// A file, a folder, `-` or an address; `None`: the distribution's package.
    pub(super) from: Option<&'a Path>,
    /// What that has to be.
    pub(super) sha256: Option<Sha256>,
    /// Where to put it; `None`: the folder of this user.
    pub(super) dest: Option<&'a Path>,
}

/// What was fetched.
#[derive(Serialize)]
pub(super) struct Fetched {
    pub(super) dest: PathBuf,
    pub(super) files: Vec<File>,
    pub(super) refused: Vec<Refused>,
    /// Asked for, and not in the source.
    pub(super) missing: Vec<&'static str>,
}

#[derive(Serialize)]
pub(super) struct File {
    pub(super) arch: &'static str,
    path: PathBuf,
    /// In bytes.
    size: u64,
    outcome: &'static str,
    package: Option<String>,
    version: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Refused {
    pub(super) arch: &'static str,
    pub(super) reason: String,
}

pub(super) fn run(args: &Fetch, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let order = Order {
        arches: named(&args.arches),
        from: args.from.as_deref(),
        sha256: args.sha256,
        dest: args.dest.as_deref(),
    };
    let fetched = fetch(&order, common.quiet)?;
    output.data(&fetched, || text(&fetched))?;
    if let Some(problem) = fetched.problem() {
        output.problem(&problem)?;
        return Ok(Status::Failed);
    }
    Ok(Status::Done)
}

impl Fetched {
    /// What was asked for and did not come.
    pub(super) fn problem(&self) -> Option<Problem> {
        if self.missing.is_empty() && !self.files.is_empty() {
            return None;
        }
        let reasons = self.refused.iter().map(|refused| format!("\n{}: {}", refused.arch, refused.reason));
        let what = if self.missing.is_empty() { "anything".to_owned() } else { self.missing.join(" ") };
        let message =
            format!("the source has no static interpreter for {what}{}", reasons.collect::<String>());
        let missing = if self.missing.is_empty() { "all".to_owned() } else { self.missing.join(" ") };
        Some(Problem::new(message).cure(format!("qus fetch --from PACKAGE {missing}")))
    }
}

/// Gets the interpreters of `order` into their folder.
pub(super) fn fetch(order: &Order<'_>, quiet: bool) -> Result<Fetched, Problem> {
    let home = || Problem::new("this user has no home to put interpreters in").cure("qus fetch --dest DIR …");
    let dest = match order.dest {
        Some(dest) => {
            std::path::absolute(dest).map_err(|error| Problem::new(format!("{}: {error}", dest.display())))?
        }
        None => folders::fetched().ok_or_else(home)?,
    };
    let mut wanted = Wanted {
        host: own_head()?,
        arches: order.arches.as_ref().map(|arches| arches.iter().map(|arch| arch.name).collect()),
        done: BTreeSet::new(),
    };
    let bar = Bar::new(quiet);
    let mut packages: Vec<(Option<PackageInfo>, Extraction)> = Vec::new();
    let fetched = match order.from {
        Some(source) => {
            from_source(source, order.sha256, &mut wanted, &dest, &bar).map(|one| packages.push(one))
        }
        None => from_distribution(&mut wanted, &dest, &bar).map(|some| packages.extend(some)),
    };
    bar.0.finish_and_clear();
    fetched?;
    let missing =
        order.arches.iter().flatten().map(|arch| arch.name).filter(|name| !wanted.done.contains(name));
    let mut fetched = Fetched { dest, files: Vec::new(), refused: Vec::new(), missing: missing.collect() };
    for (info, extraction) in packages {
        fetched.add(info.as_ref(), extraction);
    }
    fetched.files.sort_by_key(|file| file.arch);
    Ok(fetched)
}

impl Fetched {
    fn add(&mut self, info: Option<&PackageInfo>, extraction: Extraction) {
        let arch = |name: &str| emulated_by(name.as_bytes()).map_or("", |arch| arch.name);
        self.files.extend(extraction.placed.into_iter().map(|placed| File {
            arch: arch(&placed.name),
            path: placed.path,
            size: placed.size,
            outcome: match placed.outcome {
                Outcome::New => "fetched",
                Outcome::Same => "unchanged",
                Outcome::Replaced => "replaced",
            },
            package: info.map(|info| info.name.clone()),
            version: info.map(|info| info.version.clone()),
        }));
        let refused = extraction.refused.into_iter();
        self.refused.extend(refused.map(|file| Refused { arch: arch(&file.name), reason: file.reason }));
    }
}

fn from_source(
    source: &Path,
    sha256: Option<Sha256>,
    wanted: &mut Wanted,
    dest: &Path,
    bar: &Bar,
) -> Result<(Option<PackageInfo>, Extraction), Problem> {
    let arches = wanted.arches.as_ref().map(|arches| arches.iter().copied().collect::<Vec<_>>().join(" "));
    let arches = arches.unwrap_or_else(|| "all".to_owned());
    let failed = |error: PackageError| match error {
        PackageError::Write { .. } => chain(&error).cure(format!("qus fetch --dest DIR {arches}")),
        _ => chain(&error).cure(format!("qus fetch {arches} (from the distribution's package)")),
    };
    let package = if let Some(scheme) = scheme(source) {
        from_web(source, scheme, sha256, &arches, bar)?
    } else if source.as_os_str() == "-" {
        let path = Path::new("standard input");
        Package::of_stream(&mut std::io::stdin().lock(), path, sha256).map_err(failed)?
    } else if let Some(sha256) = sha256 {
        Package::open_only(source, sha256).map_err(failed)?
    } else {
        Package::open(source).map_err(failed)?
    };
    let info = package.info().cloned();
    let extraction = package.extract(wanted, dest, bar).map_err(failed)?;
    Ok((info, extraction))
}

/// Downloads a source. Without a digest only `https` says that it came from where it should.
fn from_web(
    source: &Path,
    scheme: &str,
    sha256: Option<Sha256>,
    arches: &str,
    bar: &Bar,
) -> Result<Package, Problem> {
    let address = source.to_string_lossy();
    let command = |more: &str| format!("qus fetch --from {}{more} {arches}", shell_word(&address));
    if scheme == "http" && sha256.is_none() {
        let problem = Problem::new(format!("{address} could be changed by anybody on the way"));
        return Err(problem.cure(command(" --sha256 HEX")));
    }
    let file = Web::default().download(&address, bar).map_err(|error| {
        let problem = chain(&error);
        match error {
            WebError::NoTool(_) => problem.cure("sudo apt-get install curl"),
            _ => problem,
        }
    })?;
    let package = Package::of_file(file, source, sha256).map_err(|error| chain(&error))?;
    if sha256.is_none() && !bar.1 {
        let digest = package.sha256().map_err(|error| chain(&error))?;
        tracing::warn!("nothing but the server's certificate vouches for it; next time: --sha256 {digest}");
    }
    Ok(package)
}

/// The distribution's package, through its own package manager.
fn from_distribution(
    wanted: &mut Wanted,
    dest: &Path,
    bar: &Bar,
) -> Result<Vec<(Option<PackageInfo>, Extraction)>, Problem> {
    let Some(manager) = Manager::of_this_machine() else { return from_apt(wanted, dest, bar) };
    let arches = match &wanted.arches {
        Some(arches) => arches.iter().copied().collect(),
        None => ARCHES.iter().map(|arch| arch.name).collect::<Vec<_>>(),
    };
    let fetched = manager.fetch(&arches, wanted, dest, bar).map_err(|error| {
        let problem = chain(&error);
        match error {
            ManagerError::Unsigned { .. } => problem.cure("sudo rpmkeys --import /etc/pki/rpm-gpg/KEY"),
            _ => problem.cure("qus fetch --from PACKAGE … (a package with qemu-user, from anywhere)"),
        }
    })?;
    Ok(fetched.into_iter().map(|package| (Some(package.info), package.extraction)).collect())
}

fn from_apt(
    wanted: &mut Wanted,
    dest: &Path,
    bar: &Bar,
) -> Result<Vec<(Option<PackageInfo>, Extraction)>, Problem> {
    let temporary;
    let cache = if let Some(folder) = folders::cache() {
        folder
    } else {
        temporary = tempfile::tempdir().map_err(|error| chain(&error))?;
        temporary.path().to_owned()
    };
    let apt = Apt::new(cache.join("apt"));
    let fetched = fetch_with_apt(&apt, wanted, dest, bar).map_err(|error| {
        chain(&error).cure("qus fetch --from PACKAGE … (a Debian package with qemu-user, from anywhere)")
    })?;
    Ok(fetched.packages.into_iter().map(|package| (Some(package.info), package.extraction)).collect())
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> Problem {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    Problem::new(message)
}

/// Interpreters of the wanted architectures, each once, stored as `qemu-ARCH-static`.
struct Wanted {
    host: Vec<u8>,
    arches: Option<BTreeSet<&'static str>>,
    done: BTreeSet<&'static str>,
}

impl Selection for Wanted {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        let arch = emulated_by(file_name)?.name;
        let asked_for = self.arches.as_ref().is_none_or(|arches| arches.contains(arch));
        (asked_for && !self.done.contains(arch)).then(|| format!("qemu-{arch}-static"))
    }

    fn complete(&self) -> bool {
        self.arches.as_ref().is_some_and(|arches| arches.is_subset(&self.done))
    }

    fn accept(&mut self, stored_name: &str, file: &Path) -> Result<(), String> {
        Interpreter::check(file, &self.host).map_err(|unfit| unfit.to_string())?;
        self.done.extend(emulated_by(stored_name.as_bytes()).map(|arch| arch.name));
        Ok(())
    }
}

/// A bar on a terminal; nothing in a pipe.
/// The second says whether nothing is to be said.
struct Bar(ProgressBar, bool);

impl Bar {
    fn new(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}") {
            bar.set_style(style);
        }
        Self(bar, quiet)
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
        self.0.set_position(0);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn message(&self, text: &str) {
        self.0.set_message(text.to_owned());
        self.0.tick();
    }
}

fn text(fetched: &Fetched) -> String {
    let row = |file: &File| {
        let from = file.package.as_ref().zip(file.version.as_ref());
        let from = from.map(|(name, version)| format!("from {name} {version}")).unwrap_or_default();
        vec![file.arch.to_owned(), file.outcome.to_owned(), path_text(&file.path), from]
    };
    columns(&fetched.files.iter().map(row).collect::<Vec<_>>())
}
