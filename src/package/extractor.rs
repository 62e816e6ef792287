//! [`Extractor`]: receiver of the members of all sources.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use super::error::printable;
use super::limit::{Limit, MEMBER_SIZE, MEMBERS};
use super::staging::Staging;
use super::{Extraction, MemberFilter, PackageError, Refused};

/// Kind of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    /// A link, a device, or another type that cannot be an interpreter.
    Other,
}

/// Reports whether a name is a single path component.
fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Receiver of members. It stores requested members in temporary files and gives them their names at the end.
pub(super) struct Extractor<'a> {
    source: &'a Path,
    selection: &'a mut dyn MemberFilter,
    staging: Staging,
    refused: Vec<Refused>,
    members: u64,
    found: bool,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(source: &'a Path, selection: &'a mut dyn MemberFilter, dest: &Path) -> Self {
        Self { source, selection, staging: Staging::new(dest), refused: Vec::new(), members: 0, found: false }
    }

    pub(super) fn source(&self) -> &'a Path {
        self.source
    }

    /// Reports whether all requested files were found.
    pub(super) fn complete(&self) -> bool {
        self.selection.complete()
    }

    /// Reports whether any member was requested, even if it was refused.
    pub(super) fn found(&self) -> bool {
        self.found
    }

    /// Receives the member `path` of an archive. Returns `Break` if all requested files were found.
    pub(super) fn member(
        &mut self,
        path: &[u8],
        kind: Kind,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<ControlFlow<()>, PackageError> {
        if path.starts_with(b"/") || path.split(|byte| *byte == b'/').any(|part| part == b"..") {
            return Err(PackageError::Hostile { path: self.source.to_owned(), member: printable(path) });
        }
        match kind {
            Kind::Regular => {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                self.file(name, size, content)
            }
            Kind::Directory | Kind::Other => self.count().map(ControlFlow::Continue),
        }
    }

    /// Receives a regular file. Only the file name decides whether it is stored.
    pub(super) fn file(
        &mut self,
        name: &[u8],
        size: u64,
        content: &mut dyn Read,
    ) -> Result<ControlFlow<()>, PackageError> {
        self.count()?;
        let Some(stored_name) = self.want(name)? else { return Ok(ControlFlow::Continue(())) };
        self.store(name, &stored_name, size, content)
    }

    /// Reports whether the member `path` is requested at present.
    pub(super) fn may_want(&mut self, path: &[u8]) -> Result<bool, PackageError> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        Ok(self.want(name)?.is_some())
    }

    /// Returns the name under which a file is stored, or `None` if the file is not requested.
    pub(super) fn want(&mut self, name: &[u8]) -> Result<Option<String>, PackageError> {
        if name.is_empty() {
            return Ok(None);
        }
        let Some(stored_name) = self.selection.want(name) else { return Ok(None) };
        if !is_component(&stored_name) {
            return Err(PackageError::StoredName { name: stored_name });
        }
        self.found = true;
        Ok(Some(stored_name))
    }

    /// Counts one member and checks the limit.
    pub(super) fn count(&mut self) -> Result<(), PackageError> {
        self.members += 1;
        if self.members > MEMBERS {
            let member = self.source.file_name().map(|name| printable(name.as_encoded_bytes()));
            let member = member.unwrap_or_default();
            return Err(PackageError::Limit { path: self.source.to_owned(), member, limit: Limit::Members });
        }
        Ok(())
    }

    /// Stores the content of a requested file.
    pub(super) fn store(
        &mut self,
        name: &[u8],
        stored_name: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<ControlFlow<()>, PackageError> {
        if size > MEMBER_SIZE {
            return Err(PackageError::Limit {
                path: self.source.to_owned(),
                member: printable(name),
                limit: Limit::MemberSize,
            });
        }
        let staged = self.staging.write(self.source, name, stored_name, size, content)?;
        match self.selection.accept(stored_name, staged.path()) {
            Ok(()) => {
                let directory = self.selection.directory(stored_name, staged.path());
                if let Some(name) = directory.as_ref().filter(|name| !is_component(name)) {
                    return Err(PackageError::StoredName { name: name.clone() });
                }
                self.staging.keep(staged, directory);
            }
            Err(reason) => self.refused.push(Refused { name: stored_name.to_owned(), reason }),
        }
        Ok(if self.complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Gives all stored files their final names.
    pub(super) fn finish(self) -> Result<Extraction, PackageError> {
        Ok(Extraction { placed: self.staging.commit()?, refused: self.refused })
    }
}
