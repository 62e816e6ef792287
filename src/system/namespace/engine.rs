//! Processes whose namespaces are entered, those of container engines among them that a user runs without root.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use nix::unistd::geteuid;
use thiserror::Error;

use crate::base::error::{Advice, Advise};

/// A container engine whose containers live in namespaces of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker's daemon, started by `dockerd-rootless.sh`.
    DockerRootless,
    /// Podman, and what shares its namespaces: buildah, skopeo.
    Podman,
}

/// A process whose namespaces can be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process of this number; 1 is in the namespaces of the host.
    Process(u32),
    /// The process of a container engine of this user.
    Engine(Engine),
}

/// A word that names no [`Target`].
#[derive(Debug, Error)]
#[error("unknown namespaces {0:?}: host, the number of a process, podman and docker-rootless are known")]
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

impl Target {
    /// Number of the process.
    ///
    /// # Errors
    /// The engine does not run, or has no namespaces of its own.
    pub fn process(self) -> Result<u32, EngineError> {
        match self {
            Self::Process(process) => Ok(process),
            Self::Engine(engine) => engine.process(),
        }
    }
}

/// Reason why the namespaces of an engine cannot be entered.
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
            return advice.with_hint("type it as the user who runs the engine, not as root");
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

    /// Files with the number of a process that stays in the namespaces, below `$XDG_RUNTIME_DIR`.
    fn pid_files(self) -> &'static [&'static str] {
        match self {
            // The first is that of rootlesskit, the second the daemon's.
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

    /// A process that lives in the engine's namespaces as long as they are used.
    pub fn process(self) -> Result<u32, EngineError> {
        let none = |reason| EngineError { engine: self.name(), start: self.start(), reason };
        let directory = runtime_dir();
        let paths: Vec<PathBuf> = self.pid_files().iter().map(|name| directory.join(name)).collect();
        let mut reason = format!("there is no {}", paths.first().cloned().unwrap_or(directory).display());
        for path in paths {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let path = path.display();
            let Ok(pid) = text.trim().parse::<u32>() else {
                reason = format!("{path} contains no process number");
                continue;
            };
            // A number may belong to another process after the first has ended. Handlers would be registered in a wrong
            // namespace.
            match super::inode(&pid.to_string(), "user") {
                None => reason = format!("process {pid} of {path} has ended, or belongs to another user"),
                Some(inode) if Some(inode) == super::inode("self", "user") => {
                    reason = format!("process {pid} of {path} is in no user namespace of its own");
                }
                Some(_) => return Ok(pid),
            }
        }
        Err(none(reason))
    }
}

/// The user's directory for what lives as long as a login.
fn runtime_dir() -> PathBuf {
    let named = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    named.unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", geteuid())))
}
