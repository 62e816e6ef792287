//! [`Problem`]: what a person is told when something does not work.

use nix::unistd::geteuid;
use thiserror::Error;

use crate::arch::UnknownArch;
use crate::cmd::peers::Tool;
use crate::export::ExportError;
use crate::kernel::{HandlerError, MountError, OpenError, RegisterError};
use crate::namespace::{EngineError, NamespaceError, RootError};
use crate::own_file::OwnFileError;

/// What failed and why, and the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Problem {
    /// The failed operation, the path, and the cause; lines after the first explain.
    pub message: String,
    /// What to type instead, or to do.
    pub cure: Option<String>,
}

impl Problem {
    /// A problem without a cure that could be named.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cure: None }
    }

    /// The same problem with its cure.
    #[must_use]
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        Self { message: error.to_string(), cure: error.cure() }
    }
}

impl From<MountError> for Problem {
    fn from(error: MountError) -> Self {
        let cure = match error {
            // qus mounts it itself where it may.
            MountError::Denied(_) if !geteuid().is_root() => Some(as_root()),
            _ => error.cure(),
        };
        Self { message: error.to_string(), cure }
    }
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let cure = match &error {
            RegisterError::NotRoot(_) => Some(as_root()),
            RegisterError::ReadOnly(path) => Some(format!("sudo mount -o remount,rw {}", path.display())),
            RegisterError::NameTaken(_) => Some("qus list".to_owned()),
            _ => None,
        };
        Self { message: error.to_string(), cure }
    }
}

impl From<HandlerError> for Problem {
    fn from(error: HandlerError) -> Self {
        let cure = match &error {
            HandlerError::NotRoot(_) => Some(as_root()),
            HandlerError::ReadOnly(path) => Some(format!("sudo mount -o remount,rw {}", path.display())),
            _ => None,
        };
        Self { message: error.to_string(), cure }
    }
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        Self::new(error.to_string()).cure("put the interpreter into a folder with a shorter, simpler path")
    }
}

impl From<OwnFileError> for Problem {
    fn from(error: OwnFileError) -> Self {
        let cure = if error.is_denied() && !geteuid().is_root() { Some(as_root()) } else { error.cure() };
        Self { message: error.to_string(), cure }
    }
}

impl From<NamespaceError> for Problem {
    fn from(error: NamespaceError) -> Self {
        Self { message: error.to_string(), cure: error.cure() }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self { cure: Some(error.cure()), message: error.to_string() }
    }
}

impl From<RootError> for Problem {
    fn from(error: RootError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<UnknownArch> for Problem {
    fn from(error: UnknownArch) -> Self {
        Self::new(error.to_string()).cure("qus show")
    }
}

/// This very command, as root. Called by the name of another tool, it is that one's words that were typed.
fn as_root() -> String {
    let mut words = std::env::args_os();
    let name = words.next().filter(|name| Tool::called(name).is_some()).unwrap_or_else(|| "qus".into());
    let words = [name].into_iter().chain(words).map(|word| shell_word(&word.to_string_lossy()));
    ["sudo".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./,=:+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("linux/arm/v7"), "linux/arm/v7");
        assert_eq!(shell_word("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(shell_word(""), "''");
    }
}
