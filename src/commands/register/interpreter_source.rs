//! Source of an interpreter that will be loaded into memory or copied.

use std::path::Path;

use crate::base::error::Diagnostic;
use crate::interpreter::Interpreter;
use crate::interpreter::bundle::{Member, own_bundle};
use crate::interpreter::memfd::{self, PendingFile};
use crate::package::Sha256;

/// Source of the content of an interpreter.
pub(super) enum InterpreterSource {
    /// An interpreter in this executable, which is a bundle.
    Bundled(Member),
    /// A file that was checked and can be used as an interpreter.
    File(Interpreter),
}

impl InterpreterSource {
    /// Reads the whole content of the interpreter.
    pub(super) fn content(&self) -> Result<Vec<u8>, Diagnostic> {
        match self {
            Self::File(interpreter) => read(interpreter),
            Self::Bundled(member) => {
                let bundle = own_bundle()?.ok_or_else(|| Diagnostic::new("the bundle is gone"))?;
                Ok(bundle.unpack(member)?)
            }
        }
    }

    /// Writes the content of the interpreter into a new file in memory. `path` is the path that the file will get. The
    /// size and the SHA-256 of the content are parts of it.
    pub(super) fn pending(&self, path: &Path) -> Result<PendingFile, Diagnostic> {
        let mut pending = PendingFile::new()?;
        match self {
            Self::File(file) => {
                let content = read(file)?;
                // The owner may have changed the file since `path` was computed. Unpacking a bundle verifies its
                // content.
                if !memfd::is_called(path, content.len() as u64, Sha256::of_bytes(&content)) {
                    let file = file.path.display();
                    return Err(Diagnostic::new(format!("{file} has changed since it was read")));
                }
                pending.write(&content)?;
            }
            Self::Bundled(member) => {
                let bundle = own_bundle()?.ok_or_else(|| Diagnostic::new("the bundle is gone"))?;
                bundle.unpack_to(member, |part| pending.write(part).map_err(Diagnostic::from))?;
            }
        }
        Ok(pending)
    }
}

pub(super) fn read(file: &Interpreter) -> Result<Vec<u8>, Diagnostic> {
    file.read().map_err(|error| Diagnostic::new(format!("cannot read {}: {error}", file.path.display())))
}
