//! Processes whose namespaces qus can enter, including processes of rootless container engines.

use std::env;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use nix::unistd::geteuid;
use thiserror::Error;

use crate::base::error::{Advice, Advise};

/// A rootless container engine, whose containers run in namespaces of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker's daemon, started by `dockerd-rootless.sh`.
    DockerRootless,
    /// Podman, and the tools that share its namespaces: buildah, skopeo.
    Podman,
}

/// A process whose namespaces qus can enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process with this ID. Process 1 is in the namespaces of the host.
    Process(u32),
    /// A process of this user's container engine.
    Engine(Engine),
}

/// Error for a command-line word that does not name a [`Target`].
#[derive(Debug, Error)]
#[error("unknown namespaces {0:?}: use host, a process number, podman or docker-rootless")]
pub struct UnknownTarget(String);

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(word: &str) -> Result<Self, UnknownTarget> {
        match word {
            "host" => Ok(Self::Process(1)),
            "docker-rootless" => Ok(Self::Engine(Engine::DockerRootless)),
            "podman" => Ok(Self::Engine(Engine::Podman)),
            _ => word.parse().map(Self::Process).map_err(|_| UnknownTarget(word.to_owned())),
        }
    }
}

/// Formats the target as the word that names it on a command line.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(1) => formatter.write_str("host"),
            Self::Process(process) => write!(formatter, "{process}"),
            Self::Engine(Engine::DockerRootless) => formatter.write_str("docker-rootless"),
            Self::Engine(Engine::Podman) => formatter.write_str("podman"),
        }
    }
}

impl Target {
    /// Returns the ID of the target process.
    ///
    /// # Errors
    /// Fails if the container engine does not run, or has no namespaces of its own.
    pub fn process(self) -> Result<u32, EngineError> {
        match self {
            Self::Process(process) => Ok(process),
            Self::Engine(engine) => engine.process(),
        }
    }
}

/// Reason why qus cannot enter the namespaces of a container engine.
#[derive(Debug, Error)]
#[error("{engine} of this user has no namespaces to enter: {reason}")]
pub struct EngineError {
    engine: &'static str,
    start: &'static str,
    reason: String,
}

impl Advise for EngineError {
    fn advice(&self) -> Advice {
        let advice = Advice::from(self.start);
        if geteuid().is_root() {
            return advice.with_hint("type this command as the user who runs the engine, not as root");
        }
        advice
    }
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::DockerRootless => "docker-rootless",
            Self::Podman => "podman",
        }
    }

    /// Returns paths of files, relative to `$XDG_RUNTIME_DIR`. Each file contains the ID of a process in the engine's
    /// namespaces.
    fn pid_files(self) -> &'static [&'static str] {
        match self {
            // The first file belongs to rootlesskit, the second to the daemon.
            Self::DockerRootless => &["dockerd-rootless/child_pid", "docker.pid"],
            Self::Podman => &["libpod/tmp/pause.pid"],
        }
    }

    fn start(self) -> &'static str {
        match self {
            Self::DockerRootless => "systemctl --user start docker",
            Self::Podman => "podman unshare true",
        }
    }

    /// Returns the ID of a process that stays in the engine's namespaces as long as the engine or a container uses
    /// them.
    pub fn process(self) -> Result<u32, EngineError> {
        let none = |reason| EngineError { engine: self.name(), start: self.start(), reason };
        let directory = runtime_dir();
        let paths: Vec<PathBuf> = self.pid_files().iter().map(|name| directory.join(name)).collect();
        let mut reason = format!("{} does not exist", paths.first().cloned().unwrap_or(directory).display());
        for path in paths {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let path = path.display();
            let Ok(pid) = text.trim().parse::<u32>() else {
                reason = format!("{path} contains no process number");
                continue;
            };
            // The process may have ended, and another one may have its number. Handlers would then be registered in the
            // wrong namespace.
            match super::inode(&pid.to_string(), "user") {
                None => reason = format!("process {pid} of {path} has ended, or belongs to another user"),
                Some(inode) if Some(inode) == super::inode("self", "user") => {
                    reason = format!("process {pid} of {path} has no user namespace of its own");
                }
                Some(_) => return Ok(pid),
            }
        }
        Err(none(reason))
    }
}

/// Returns the user's runtime directory, which exists during a login.
fn runtime_dir() -> PathBuf {
    let named = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    named.unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", geteuid())))
}
