//! [`Apt`]: downloads a Debian package with the host's apt, without changing apt's state.
//!
//! apt stores package lists and downloads in a private directory of qus. Root is therefore not needed, and the host's
//! own lists may be missing, as in most container images. The sources, proxies, keys and signature checks are those of
//! the host.

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

/// Maximum age of the package lists in the private directory. Younger lists are fetched again only after a failed
/// download or a change of apt's sources.
const LIST_MAX_AGE: Duration = Duration::from_hours(1);

/// The host's apt with private package lists.
#[derive(Clone, Debug)]
pub struct Apt {
    cache: PathBuf,
    sources_list: Option<PathBuf>,
    architecture: Option<String>,
    /// Messages of `apt-get update`, if it failed. After a failure, the update is not repeated for the next package.
    failed_update: RefCell<Option<String>>,
}

/// Downloaded package file. The file is removed when this value is dropped.
#[derive(Debug)]
pub struct Download {
    _directory: DownloadDir,
    path: PathBuf,
}

impl Download {
    /// Returns the path of the package file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Failure to download a package with apt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AptError {
    /// The host has no apt.
    #[error("this machine has no apt-get; name a package or a directory with interpreters")]
    NoApt,
    /// apt could not be started.
    #[error("cannot start apt-get")]
    Start(#[source] io::Error),
    /// The private directory for package lists and downloads could not be used.
    #[error("cannot use {}", path.display())]
    Cache {
        /// The private directory, or a file in it.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// apt exited with an error.
    #[error("apt-get {action} failed: {messages}")]
    Failed {
        /// The command of apt-get that failed, and the name of the package if the command has one.
        action: String,
        /// Errors and warnings that apt printed, in order.
        messages: String,
    },
    /// apt reported success, but downloaded no package.
    #[error("apt-get download {package} wrote no package")]
    Nothing {
        /// Name of the requested package.
        package: String,
    },
}

impl Apt {
    /// Creates a downloader that uses the host's apt and stores package lists in `cache_dir`. If `cache_dir` is
    /// missing, it is created at the first use, with mode 0755.
    #[must_use]
    pub fn new(cache_dir: PathBuf) -> Self {
        Self { cache: cache_dir, sources_list: None, architecture: None, failed_update: RefCell::new(None) }
    }

    /// Uses only the package sources in `file` instead of the host's sources. Such an [`Apt`] should have its own cache
    /// directory.
    #[must_use]
    pub fn sources_list(mut self, file: PathBuf) -> Self {
        self.sources_list = Some(file);
        self
    }

    /// Downloads packages for the Debian architecture `name` instead of the host's architecture. Such an [`Apt`] should
    /// have its own cache directory.
    #[must_use]
    pub fn architecture(mut self, name: String) -> Self {
        self.architecture = Some(name);
        self
    }

    /// Downloads a package. Returns `None` if apt does not know the package.
    ///
    /// The package lists are fetched first if they are missing, older than an hour, or older than the configuration of
    /// apt's sources. If the lists of some repository cannot be fetched, this is an error only if the package is not
    /// found.
    pub fn download(&self, package: &str, progress: &dyn Progress) -> Result<Option<Download>, AptError> {
        let cache = Cache::open(&self.cache)?;
        let updated = self.refresh(&cache, progress)?;
        progress.message(&format!("downloading {package}"));
        let mut result = self.get(&cache, package)?;
        // The lists may name a package that the repository no longer has. apt's message for this case depends on its
        // version.
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

    /// Returns the SHA-256 of the package file that apt would download. Returns `None` if apt does not know the package
    /// or its SHA-256.
    pub fn candidate(&self, package: &str, progress: &dyn Progress) -> Result<Option<Sha256>, AptError> {
        let cache = Cache::open(&self.cache)?;
        self.refresh(&cache, progress)?;
        let asked = self.asked(package);
        let words = ["--print-uris", "download", "--", &asked].map(OsStr::new);
        let output = self.run(&cache, cache.path(), &words)?;
        // Output format: 'URL' FILE SIZE SHA256:DIGEST
        let text = String::from_utf8_lossy(&output.stdout);
        let digest = text.lines().find_map(|line| line.split_once(" SHA256:")?.1.trim().parse().ok());
        Ok(if output.status.success() { digest } else { None })
    }

    /// Runs `apt-get update` if the package lists are too old. Returns true if it was run.
    fn refresh(&self, cache: &Cache, progress: &dyn Progress) -> Result<bool, AptError> {
        if self.fresh(cache) || self.failed_update.borrow().is_some() {
            return Ok(false);
        }
        self.update(cache, progress)?;
        Ok(true)
    }

    /// Returns the name by which apt finds the package: with `:ARCHITECTURE` at its end, if an architecture was set.
    fn asked(&self, package: &str) -> String {
        match &self.architecture {
            Some(architecture) => format!("{package}:{architecture}"),
            None => package.to_owned(),
        }
    }

    /// Reports whether the package lists are younger than an hour and younger than the configuration of apt's sources.
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

    /// Fetches the package lists with `apt-get update`. If apt fails, its messages are stored, and no error is
    /// returned, because the package may be in the lists that were fetched.
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
        // From here on, only this user can change the content of the directory.
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

    /// Reports whether apt works, but has no package `asked` in its lists. Only apt's exit statuses are used, because
    /// its messages depend on its version.
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
        // qus prints its messages in English, so the quoted messages of apt must be English too.
        command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE").env("DEBIAN_FRONTEND", "noninteractive");
        let output = process::output(&mut command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => AptError::NoApt,
            _ => AptError::Start(error),
        })?;
        Ok(output)
    }
}

/// Outcome of `apt-get download`.
enum DownloadOutcome {
    Package(Download),
    Unknown,
    /// The download failed. The value contains apt's messages.
    Failed(String),
}

/// Returns the paths of the files that configure the host's package sources, and of the directory of such files.
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

/// Returns the errors and warnings in the `output` of apt, or the whole output if it contains none.
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
