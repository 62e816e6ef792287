//! The content of an interpreter that is to be put into memory, or to be copied.

use std::path::Path;

use crate::base::error::Diagnostic;
use crate::interpreter::Interpreter;
use crate::interpreter::bundle::{Member, own_bundle};
use crate::interpreter::memfd::{self, PendingFile};
use crate::package::Sha256;

/// Where the content of an interpreter in memory comes from.
pub(super) enum InterpreterSource {
    /// This executable.
    Bundled(Member),
    /// A file, as it was checked.
    File(Interpreter),
}

impl InterpreterSource {
    /// The content, whole.
    pub(super) fn content(&self) -> Result<Vec<u8>, Diagnostic> {
        match self {
            Self::File(interpreter) => read(interpreter),
            Self::Bundled(member) => {
                let bundle = own_bundle()?.ok_or_else(|| Diagnostic::new("the bundle is gone"))?;
                Ok(bundle.unpack(member)?)
            }
        }
    }

    /// The content, in a file in memory that is to be called `path`.
    pub(super) fn pending(&self, path: &Path) -> Result<PendingFile, Diagnostic> {
        let mut pending = PendingFile::new()?;
        match self {
            Self::File(file) => {
                let content = read(file)?;
                // A file whose owner has written to it since would be called by what it was. A bundle's is compared already.
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
