//! [`Apt`]: a Debian package through the machine's own apt, without touching apt's state.
//!
//! Lists and downloads go to a private directory, so no root is needed and a machine whose lists were deleted, as
//! container images do, serves as well. Sources, proxies, keys and signature checks are the machine's.

mod cache;

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use nix::unistd::Uid;
use thiserror::Error;

use super::{Progress, Sha256};
use crate::system::process;
use cache::{Cache, DownloadDir, absolute, chown_if_permitted};

/// Age up to which lists of packages are used. If a package is gone, the lists are fetched again.
const LIST_MAX_AGE: Duration = Duration::from_hours(1);

/// The machine's apt with lists of its own.
#[derive(Clone, Debug)]
pub struct Apt {
    cache: PathBuf,
    sources_list: Option<PathBuf>,
    architecture: Option<String>,
    /// apt's messages when fetching the lists failed. It is not tried again for the next package.
    failed_update: RefCell<Option<String>>,
}

/// A downloaded package, which is removed when this is dropped.
#[derive(Debug)]
pub struct Download {
    _directory: DownloadDir,
    path: PathBuf,
}

impl Download {
    /// The package's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Failure of apt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AptError {
    /// This is not a Debian system.
    #[error("this machine has no apt-get; name a package or a directory with interpreters")]
    NoApt,
    /// apt cannot be started.
    #[error("cannot start apt-get")]
    Start(#[source] io::Error),
    /// The private directory cannot be used.
    #[error("cannot use {}", path.display())]
    Cache {
        /// The directory, or what is in it.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// apt ended with an error.
    #[error("apt-get {action} failed: {messages}")]
    Failed {
        /// The operation, with its package.
        action: String,
        /// apt's own errors and warnings, one after the other.
        messages: String,
    },
    /// apt claims success and there is no package.
    #[error("apt-get download {package} wrote no package")]
    Nothing {
        /// The package asked for.
        package: String,
    },
}

impl Apt {
    /// An apt that keeps its lists in the directory `cache_dir`, which is made when it is missing (mode 0755).
    #[must_use]
    pub fn new(cache_dir: PathBuf) -> Self {
        Self { cache: cache_dir, sources_list: None, architecture: None, failed_update: RefCell::new(None) }
    }

    /// Takes packages from the sources in this file alone, not from the machine's. They should have a cache of their
    /// own.
    #[must_use]
    pub fn sources_list(mut self, file: PathBuf) -> Self {
        self.sources_list = Some(file);
        self
    }

    /// Takes packages for this architecture, in Debian's words, not for the machine's. They should have a cache of
    /// their own.
    #[must_use]
    pub fn architecture(mut self, name: String) -> Self {
        self.architecture = Some(name);
        self
    }

    /// Downloads a package. `None` means that apt knows no such package.
    ///
    /// The lists are fetched where they are missing, an hour old, or older than the sources. A repository that fails
    /// then is an error only when the package is not found.
    pub fn download(&self, package: &str, progress: &dyn Progress) -> Result<Option<Download>, AptError> {
        let cache = Cache::open(&self.cache)?;
        let updated = self.refresh(&cache, progress)?;
        progress.message(&format!("downloading {package}"));
        let mut result = self.get(&cache, package)?;
        // The lists may name a package that the repository no longer has. apt words that differently in each version.
        if !updated && matches!(result, DownloadOutcome::Failed(_)) {
            self.update(&cache, progress)?;
            progress.message(&format!("downloading {package}"));
            result = self.get(&cache, package)?;
        }
        match (result, self.failed_update.borrow().as_ref()) {
            (DownloadOutcome::Package(download), _) => Ok(Some(download)),
            (DownloadOutcome::Unknown, Some(messages)) => {
                Err(AptError::Failed { action: "update".to_owned(), messages: messages.clone() })
            }
            (DownloadOutcome::Unknown, None) => Ok(None),
            (DownloadOutcome::Failed(messages), _) => {
                Err(AptError::Failed { action: format!("download {package}"), messages })
            }
        }
    }

    /// Returns the SHA-256 of the package that would be downloaded. `None` if apt knows no such package, or no digest.
    pub fn candidate(&self, package: &str, progress: &dyn Progress) -> Result<Option<Sha256>, AptError> {
        let cache = Cache::open(&self.cache)?;
        self.refresh(&cache, progress)?;
        let asked = self.asked(package);
        let words = ["--print-uris", "download", "--", &asked].map(OsStr::new);
        let output = self.run(&cache, cache.path(), &words)?;
        // 'ADDRESS' FILE SIZE SHA256:DIGEST
        let text = String::from_utf8_lossy(&output.stdout);
        let digest = text.lines().find_map(|line| line.split_once(" SHA256:")?.1.trim().parse().ok());
        Ok(if output.status.success() { digest } else { None })
    }

    /// Fetches the lists where they are too old, once: whether that was done.
    fn refresh(&self, cache: &Cache, progress: &dyn Progress) -> Result<bool, AptError> {
        if self.fresh(cache) || self.failed_update.borrow().is_some() {
            return Ok(false);
        }
        self.update(cache, progress)?;
        Ok(true)
    }

    /// The package in apt's words.
    fn asked(&self, package: &str) -> String {
        match &self.architecture {
            Some(architecture) => format!("{package}:{architecture}"),
            None => package.to_owned(),
        }
    }

    /// Reports whether the lists are younger than an hour and than the configuration of their sources.
    fn fresh(&self, cache: &Cache) -> bool {
        let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let Some(updated) = modified(&cache.stamp()) else { return false };
        if updated.elapsed().map_or(true, |age| age > LIST_MAX_AGE) {
            return false;
        }
        let sources = match &self.sources_list {
            Some(file) => vec![file.clone()],
            None => machine_sources(),
        };
        sources.iter().filter_map(|path| modified(path)).all(|changed| changed < updated)
    }

    /// Fetches the lists. That apt did not get all of them is remembered, for the package may be in the others.
    fn update(&self, cache: &Cache, progress: &dyn Progress) -> Result<(), AptError> {
        progress.message("updating the lists of packages");
        let began = SystemTime::now();
        let output = self.run(cache, cache.path(), &["update".as_ref()])?;
        if !output.status.success() {
            *self.failed_update.borrow_mut() = Some(messages(&output));
            return Ok(());
        }
        *self.failed_update.borrow_mut() = None;
        let stamp = cache.stamp();
        File::create(&stamp)
            .and_then(|file| file.set_modified(began))
            .map_err(|source| AptError::Cache { path: stamp, source })
    }

    fn get(&self, cache: &Cache, package: &str) -> Result<DownloadOutcome, AptError> {
        let directory = cache.download_dir()?;
        let asked = self.asked(package);
        let output =
            self.run(cache, directory.path(), &["download".as_ref(), "--".as_ref(), asked.as_ref()])?;
        if !output.status.success() {
            let unknown = self.is_unknown(cache, &asked)?;
            return Ok(if unknown {
                DownloadOutcome::Unknown
            } else {
                DownloadOutcome::Failed(messages(&output))
            });
        }
        let cannot_use = |source| AptError::Cache { path: directory.path().to_owned(), source };
        // From here on only this user can change the contents of the directory.
        chown_if_permitted(directory.path(), Uid::effective());
        for entry in fs::read_dir(directory.path()).map_err(cannot_use)? {
            let entry = entry.map_err(cannot_use)?;
            let path = entry.path();
            if path.extension() == Some(OsStr::new("deb"))
                && entry.file_type().is_ok_and(|kind| kind.is_file())
            {
                return Ok(DownloadOutcome::Package(Download { _directory: directory, path }));
            }
        }
        Err(AptError::Nothing { package: package.to_owned() })
    }

    /// Reports whether apt works and its lists have no such package. Exit statuses decide, as the words of messages
    /// differ between versions of apt.
    fn is_unknown(&self, cache: &Cache, asked: &str) -> Result<bool, AptError> {
        let address = ["--print-uris", "download", "--", asked].map(OsStr::new);
        if self.run(cache, cache.path(), &address)?.status.success() {
            return Ok(false);
        }
        Ok(self.run(cache, cache.path(), &["indextargets".as_ref()])?.status.success())
    }

    fn run(&self, cache: &Cache, directory: &Path, arguments: &[&OsStr]) -> Result<Output, AptError> {
        let mut command = Command::new("apt-get");
        command.arg("--quiet").arg("--config-file").arg(cache.configuration());
        command.arg("-o").arg(option("Dir::State::Lists=", &cache.lists()));
        command.arg("-o").arg(option("Dir::Cache=", &cache.archives()));
        if let Some(file) = &self.sources_list {
            let file = absolute(file)?;
            command.arg("-o").arg(option("Dir::Etc::SourceList=", &file));
            command.arg("-o").arg("Dir::Etc::SourceParts=/dev/null");
        }
        if let Some(architecture) = &self.architecture {
            command.arg("-o").arg(format!("APT::Architecture={architecture}"));
            command.arg("-o").arg(format!("APT::Architectures={architecture}"));
        }
        if !cache.sandbox_works() {
            command.arg("-o").arg("APT::Sandbox::User=root");
        }
        command.args(arguments).current_dir(directory).stdin(Stdio::null());
        // Messages of qus are in English, and so are those of apt in them.
        command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE").env("DEBIAN_FRONTEND", "noninteractive");
        let output = process::output(&mut command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => AptError::NoApt,
            _ => AptError::Start(error),
        })?;
        Ok(output)
    }
}

/// Outcome of a download.
enum DownloadOutcome {
    Package(Download),
    Unknown,
    /// apt's messages.
    Failed(String),
}

/// Configuration of the machine's package sources.
fn machine_sources() -> Vec<PathBuf> {
    let parts = PathBuf::from("/etc/apt/sources.list.d");
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir(&parts) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.push(parts);
    paths
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

/// Returns apt's errors and warnings, or all its output if there are none.
fn messages(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let marked: Vec<_> =
        text.lines().filter(|line| line.starts_with("E: ") || line.starts_with("W: ")).collect();
    match (marked.is_empty(), text.trim()) {
        (false, _) => marked.join("; "),
        (true, "") => output.status.to_string(),
        (true, text) => text.to_owned(),
    }
}
