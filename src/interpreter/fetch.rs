//! Fetching (`qus fetch`): copies interpreters from a package or another source into a directory, and writes a record
//! of the origin next to each interpreter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ArchFilter;
use super::self_exe_header;
use super::store::{self, Stored};
use crate::arch::{ARCHES, Arch};
use crate::base::error::Diagnostic;
use crate::base::order::{self, ByArch};
use crate::base::shell::shell_word;
use crate::interpreter::progress::StepProgress;
use crate::interpreter::provenance::{Origin, Provenance};
use crate::interpreter::{Interpreter, SearchResult, VersionReq, arch_from_file_name, version_in};
use crate::package::{
    Apt, Downloader, Extraction, FromPackage, Manager, ManagerError, Outcome, Package, PackageError,
    PackageInfo, Progress as _, Sha256, WebError, fetch_with_apt, scheme,
};
use crate::system::temp_dir::TempDir;

/// Request to fetch interpreters.
pub(crate) struct FetchRequest<'a> {
    /// The requested architectures; `None` fetches the interpreters of all architectures that the source has.
    pub(crate) arches: Option<Vec<&'static Arch>>,
    /// The source: a file, a directory, a URL, or `-` for standard input. `None` means the distribution's package.
    pub(crate) from: Option<&'a Path>,
    /// SHA-256 that the source must have; `None` accepts any content.
    pub(crate) sha256: Option<Sha256>,
    /// Directory that receives the interpreters. `None` means this user's directory, in which each QEMU version has its
    /// own subdirectory.
    pub(crate) dest: Option<&'a Path>,
    /// True if the user named `dest`.
    pub(crate) is_dest_named: bool,
    /// QEMU version that the interpreters must have; `None` accepts any version.
    pub(crate) version: Option<&'a VersionReq>,
}

/// Result of `qus fetch`: the fetched and the refused files.
#[derive(Serialize)]
pub(crate) struct Fetched {
    pub(crate) dest: PathBuf,
    pub(crate) files: Vec<File>,
    pub(crate) refused: Vec<Refused>,
    /// Requested architectures for which the source has no interpreter.
    pub(crate) missing: Vec<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct File {
    pub(crate) arch: &'static str,
    pub(crate) path: PathBuf,
    /// Size of the file, in bytes.
    size: u64,
    pub(crate) outcome: &'static str,
    pub(crate) package: Option<String>,
    pub(crate) version: Option<String>,
    provenance: Provenance,
}

#[derive(Serialize)]
pub(crate) struct Refused {
    pub(crate) arch: &'static str,
    pub(crate) reason: String,
}

impl Fetched {
    /// Returns an error that lists the requested architectures without an interpreter. Returns `None` if none is
    /// missing and at least one file was fetched.
    pub(crate) fn problem(&self) -> Option<Diagnostic> {
        if self.missing.is_empty() && !self.files.is_empty() {
            return None;
        }
        let reasons = self.refused.iter().map(|refused| format!("\n{}: {}", refused.arch, refused.reason));
        let what = if self.missing.is_empty() { "anything".to_owned() } else { self.missing.join(" ") };
        let message =
            format!("the source has no static interpreter for {what}{}", reasons.collect::<String>());
        let missing = if self.missing.is_empty() { "all".to_owned() } else { self.missing.join(" ") };
        Some(
            Diagnostic::new(message)
                .with_hint(format!("name a package that has them: qus fetch --from PACKAGE {missing}")),
        )
    }

    /// Checks the fetched interpreters, and returns the results like a search in a directory does.
    pub(crate) fn found(&self, host: &[u8]) -> ByArch<SearchResult> {
        let mut found = ByArch::<SearchResult>::new();
        for file in &self.files {
            let found = found.entry(file.arch).or_default();
            match Interpreter::check(&file.path, host) {
                Ok(interpreter) => found.interpreter = Some(interpreter),
                Err(unfit) => found.unfit.push((file.path.clone(), unfit)),
            }
        }
        found
    }
}

/// Result of fetching from one source.
enum SourceResult {
    Extracted(Origin, Extraction),
    /// An earlier fetch from the same source has stored all requested interpreters, and they are unchanged. The source
    /// was not read again.
    Known(Vec<Stored>),
}

impl SourceResult {
    fn of_package(
        source: &str,
        sha256: Option<Sha256>,
        info: Option<&PackageInfo>,
        extraction: Extraction,
    ) -> Self {
        let package = info.map(|info| (info.name.clone(), info.version.clone()));
        let origin = Origin { source: source.to_owned(), source_sha256: sha256, package, all: None };
        Self::Extracted(origin, extraction)
    }
}

/// Fetches the interpreters that `request` describes. With `quiet`, no progress is printed.
pub(crate) fn fetch(request: &FetchRequest<'_>, quiet: bool) -> Result<Fetched, Diagnostic> {
    let dest = store::destination(request.dest)?;
    let mut requested = ArchFilter {
        host: self_exe_header()?,
        arches: request.arches.as_ref().map(|arches| arches.iter().map(|arch| arch.name).collect()),
        version: request.version.cloned(),
        by_version: request.dest.is_none(),
        done: BTreeSet::new(),
    };
    let progress = StepProgress::new(quiet);
    let parts = match request.from {
        Some(source) => from_source(source, request, &mut requested, &dest, &progress).map(|part| vec![part]),
        None => from_distribution(&mut requested, &dest, &progress),
    };
    progress.finish();
    let mut fetched = Fetched { dest, files: Vec::new(), refused: Vec::new(), missing: Vec::new() };
    for part in parts? {
        match part {
            SourceResult::Known(stored) => {
                fetched.files.extend(stored.into_iter().filter_map(File::of_stored));
            }
            SourceResult::Extracted(mut origin, extraction) => {
                origin.all = requested.arches.is_none().then_some(extraction.placed.len());
                fetched.add(&origin, extraction)?;
            }
        }
    }
    order::sort_by_key(&mut fetched.files, |file| file.arch);
    let is_there = |arch: &&str| fetched.files.iter().any(|file| file.arch == *arch);
    let asked_for = request.arches.iter().flatten().map(|arch| arch.name);
    fetched.missing = asked_for.filter(|arch| !is_there(arch)).collect();
    Ok(fetched)
}

impl File {
    fn of_stored(stored: Stored) -> Option<Self> {
        let (path, provenance) = (stored.path, stored.provenance?);
        Some(Self {
            arch: stored.arch.name,
            path,
            size: provenance.size,
            outcome: "unchanged",
            package: provenance.package.clone(),
            version: provenance.package_version.clone(),
            provenance,
        })
    }
}

impl Fetched {
    /// Adds the files that were extracted from a source, and writes a record of the origin next to each of them.
    fn add(&mut self, origin: &Origin, extraction: Extraction) -> Result<(), Diagnostic> {
        let arch = |name: &str| arch_from_file_name(name.as_bytes()).map_or("", |arch| arch.name);
        for placed in extraction.placed {
            let arch = arch(&placed.name);
            let recorded = Provenance::record(
                &placed.path,
                version_in(&placed.path, arch).map(|version| version.to_string()),
                origin.clone(),
            );
            let provenance = recorded.map_err(|error| {
                let path = placed.path.display();
                Diagnostic::new(format!("cannot write the record of {path}: {error}"))
            })?;
            self.files.push(File {
                arch,
                path: placed.path,
                size: placed.size,
                outcome: match placed.outcome {
                    Outcome::New => "fetched",
                    Outcome::Same => "unchanged",
                    Outcome::Replaced => "replaced",
                },
                package: provenance.package.clone(),
                version: provenance.package_version.clone(),
                provenance,
            });
        }
        let refused = extraction.refused.into_iter();
        self.refused.extend(refused.map(|file| Refused { arch: arch(&file.name), reason: file.reason }));
        Ok(())
    }
}

/// Fetches from the source that the user named with `--from`. If `request` has a SHA-256, the source is not read if an
/// earlier fetch has already stored all requested interpreters of a source with this SHA-256.
fn from_source(
    source: &Path,
    request: &FetchRequest<'_>,
    requested: &mut ArchFilter,
    dest: &Path,
    progress: &StepProgress,
) -> Result<SourceResult, Diagnostic> {
    let sha256 = request.sha256;
    if let Some(stored) = sha256.and_then(|digest| store::known(dest, requested).remove(&digest)) {
        return Ok(SourceResult::Known(stored));
    }
    let arches = requested.words();
    let kept = request.dest.filter(|_| request.is_dest_named);
    let kept = kept.map(|dest| format!("--dest {} ", shell_word(dest))).unwrap_or_default();
    let failed = |error: PackageError| match error {
        PackageError::Write { .. } => with_causes(&error)
            .with_hint(format!("name a directory that can be written: qus fetch --dest DIR {arches}")),
        _ => with_causes(&error)
            .with_command(format!("qus fetch {kept}{arches}"))
            .with_hint("this command fetches the distribution's package"),
    };
    let (package, name) = if let Some(scheme) = scheme(source) {
        (from_web(source, scheme, sha256, &arches, progress)?, source.to_string_lossy().into_owned())
    } else if source.as_os_str() == "-" {
        progress.message("reading standard input");
        let path = Path::new("standard input");
        let package = Package::of_stream(&mut std::io::stdin().lock(), path, sha256).map_err(failed)?;
        (package, "standard input".to_owned())
    } else {
        let package = match sha256 {
            Some(sha256) => Package::open_only(source, sha256),
            None => Package::open(source),
        };
        let name = std::path::absolute(source).unwrap_or_else(|_| source.to_owned());
        (package.map_err(failed)?, name.to_string_lossy().into_owned())
    };
    let info = package.info().cloned();
    progress.message(&match &info {
        Some(info) => format!("unpacking {} {}", info.name, info.version),
        None => format!("reading {name}"),
    });
    let extraction = package.extract(requested, dest, progress).map_err(failed)?;
    Ok(SourceResult::of_package(&name, sha256, info.as_ref(), extraction))
}

/// Downloads a source from a URL. Without `sha256`, `http` is refused, because only `https` protects the content.
fn from_web(
    source: &Path,
    scheme: &str,
    sha256: Option<Sha256>,
    arches: &str,
    progress: &StepProgress,
) -> Result<Package, Diagnostic> {
    let address = source.to_string_lossy();
    let command = |more: &str| format!("qus fetch --from {}{more} {arches}", shell_word(source));
    if scheme == "http" && sha256.is_none() {
        let problem = Diagnostic::new(format!("{address} is not protected against changes in transit"));
        return Err(problem
            .with_hint(format!("give the SHA-256 that the publisher prints: {}", command(" --sha256 HEX"))));
    }
    let file = Downloader::default().download(&address, progress).map_err(|error| {
        let problem = with_causes(&error);
        match error {
            WebError::NoTool(_) => problem.with_command("sudo apt-get install curl"),
            _ => problem,
        }
    })?;
    let package = Package::of_file(file, source, sha256).map_err(|error| with_causes(&error))?;
    if sha256.is_none() && !progress.quiet {
        let digest = package.sha256().map_err(|error| with_causes(&error))?;
        tracing::warn!("only the server's certificate confirms the origin; next time, add --sha256 {digest}");
    }
    Ok(package)
}

/// Fetches interpreters from the distribution's package, which the package manager of the host downloads.
fn from_distribution(
    requested: &mut ArchFilter,
    dest: &Path,
    progress: &StepProgress,
) -> Result<Vec<SourceResult>, Diagnostic> {
    let Some(manager) = Manager::of_this_machine() else { return from_apt(requested, dest, progress) };
    let arches = match &requested.arches {
        Some(arches) => arches.iter().copied().collect(),
        None => ARCHES.iter().map(|arch| arch.name).collect::<Vec<_>>(),
    };
    let fetched = manager.fetch(&arches, requested, dest, progress).map_err(|error| {
        let problem = with_causes(&error);
        match error {
            ManagerError::Unsigned { .. } => {
                problem.with_command("sudo rpmkeys --import /etc/pki/rpm-gpg/KEY")
            }
            _ => {
                problem.with_hint("name a qemu-user package from another source: qus fetch --from PACKAGE …")
            }
        }
    })?;
    Ok(fetched.into_iter().map(|package| of_distribution(manager.program, package)).collect())
}

fn from_apt(
    requested: &mut ArchFilter,
    dest: &Path,
    progress: &StepProgress,
) -> Result<Vec<SourceResult>, Diagnostic> {
    let temporary;
    let cache = if let Some(directory) = crate::system::directories::cache() {
        directory
    } else {
        temporary = TempDir::create(false)
            .map_err(|reasons| Diagnostic::new(format!("cannot create a temporary directory: {reasons}")))?;
        temporary.path().to_owned()
    };
    let apt = Apt::new(cache.join("apt"));
    let mut known = store::known(dest, requested);
    let digests: Vec<Sha256> = known.keys().copied().collect();
    let fetched = fetch_with_apt(&apt, requested, &digests, dest, progress).map_err(|error| {
        with_causes(&error)
            .with_hint("name a qemu-user package from another source: qus fetch --from PACKAGE …")
    })?;
    let known = fetched.known.and_then(|digest| known.remove(&digest));
    let new = fetched.packages.into_iter().map(|package| of_distribution("apt", package));
    Ok(new.chain(known.map(SourceResult::Known)).collect())
}

fn of_distribution(manager: &str, package: FromPackage) -> SourceResult {
    SourceResult::of_package(manager, Some(package.sha256), Some(&package.info), package.extraction)
}

/// Converts an error into a diagnostic. The message contains the error and all its causes, joined by colons.
fn with_causes(error: &dyn std::error::Error) -> Diagnostic {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    Diagnostic::new(message)
}
