//! [`Extractor`]: receives the members of every kind of source, and stores the requested ones.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use super::error::printable;
use super::limit::{Limit, MEMBER_SIZE, MEMBERS};
use super::staging::Staging;
use super::{Extraction, MemberFilter, PackageError, Refused};

/// File type of a member of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    /// A link, a device, or another type that cannot be an interpreter.
    Other,
}

/// Reports whether `name` is a single path component.
fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Receiver of the members of one source. It stores requested members in temporary files, and gives the files their
/// final names at the end.
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

    /// Reports whether at least one requested member was received. A member that was refused later counts too.
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

    /// Receives the regular file `name` of the source. Only this name decides whether the file is stored. Returns
    /// `Break` if all requested files were found.
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

    /// Reports whether the member `path` is requested at this time. The answer may change when other members are
    /// received.
    pub(super) fn may_want(&mut self, path: &[u8]) -> Result<bool, PackageError> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        Ok(self.want(name)?.is_some())
    }

    /// Returns the name under which the file `name` of the source is stored, or `None` if this file is not requested.
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

    /// Counts one more member of the source. Returns an error if there are more members than the limit.
    pub(super) fn count(&mut self) -> Result<(), PackageError> {
        self.members += 1;
        if self.members > MEMBERS {
            let member = self.source.file_name().map(|name| printable(name.as_encoded_bytes()));
            let member = member.unwrap_or_default();
            return Err(PackageError::Limit { path: self.source.to_owned(), member, limit: Limit::Members });
        }
        Ok(())
    }

    /// Stores a requested file of the source under `stored_name`, unless the selection refuses the file. Returns
    /// `Break` if all requested files were found.
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

    /// Gives all stored files their final names. Returns the stored and the refused files.
    pub(super) fn finish(self) -> Result<Extraction, PackageError> {
        Ok(Extraction { placed: self.staging.commit()?, refused: self.refused })
    }
}
