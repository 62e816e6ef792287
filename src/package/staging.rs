//! Stores files in two steps: their content is written to temporary files, and at the end all files get their final
//! names.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::printable;
use super::{Outcome, PackageError, Placed};
use crate::system::atomic_file::{self, PendingFile};
use crate::system::dir::Dir;
use crate::system::file_id::open_no_follow;

/// File mode of a stored interpreter: all users can execute it, but only the owner can replace it.
const MODE: u32 = 0o755;

/// Completely written files that have no final names yet. When this value is dropped, files that were not committed are
/// removed.
pub(super) struct Staging {
    dest: PathBuf,
    /// Directories that were created for the files, outermost first.
    made: Vec<PathBuf>,
    staged: Vec<Staged>,
    /// The opened destination directory; `None` until the first file is written. It must be dropped after the files,
    /// because their paths lead through it.
    dest_dir: Option<Dir>,
}

/// Completely written file that has no final name yet.
pub(super) struct Staged {
    name: String,
    /// Name of the file's subdirectory in the destination; `None` for the destination itself.
    directory: Option<String>,
    file: PendingFile,
    size: u64,
}

impl Staged {
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }
}

impl Staging {
    pub(super) fn new(dest: &Path) -> Self {
        // An empty path means the working directory.
        let dest = if dest.as_os_str().is_empty() { Path::new(".") } else { dest };
        Self { dest: dest.to_owned(), made: Vec::new(), staged: Vec::new(), dest_dir: None }
    }

    /// Writes `size` bytes of `content` into a temporary file in the destination directory.
    pub(super) fn write(
        &mut self,
        source: &Path,
        member: &[u8],
        name: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Staged, PackageError> {
        self.open_dest()?;
        let cannot_write =
            |error: io::Error| PackageError::Write { path: self.dest.join(name), source: error };
        let Some(dest) = &self.dest_dir else { return Err(cannot_write(io::ErrorKind::NotFound.into())) };
        if self.staged.is_empty() {
            atomic_file::remove_stale(&dest.path());
        }
        let mut temporary = atomic_file::create(dest).map_err(cannot_write)?;
        let mut buffer = vec![0; 128 << 10];
        let mut remaining = size;
        while remaining > 0 {
            let most = usize::try_from(remaining).unwrap_or(usize::MAX).min(buffer.len());
            let chunk = buffer.get_mut(..most).unwrap_or_default();
            let read = match content.read(chunk) {
                Ok(0) => {
                    return Err(PackageError::Truncated {
                        path: source.to_owned(),
                        member: Some(printable(member)),
                    });
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(PackageError::Unpack {
                        path: source.to_owned(),
                        member: printable(member),
                        source: error,
                    });
                }
            };
            temporary.write_all(chunk.get(..read).unwrap_or_default()).map_err(cannot_write)?;
            remaining = remaining.saturating_sub(read as u64);
        }
        temporary.as_file().set_permissions(Permissions::from_mode(MODE)).map_err(cannot_write)?;
        // The file is closed, because the kernel does not execute files that are open for writing.
        let file = atomic_file::finish(temporary).map_err(cannot_write)?;
        Ok(Staged { name: name.to_owned(), directory: None, file, size })
    }

    /// Returns a path that leads into the opened destination directory. The first call creates and opens the directory.
    fn open_dest(&mut self) -> Result<PathBuf, PackageError> {
        if self.dest_dir.is_none() {
            let opened = Dir::make(&self.dest, &mut self.made)
                .map_err(|(path, source)| PackageError::Write { path, source })?;
            self.dest_dir = Some(opened);
        }
        Ok(self.dest_dir.as_ref().map_or_else(|| self.dest.clone(), Dir::path))
    }

    /// Adds `staged` to the files that `commit` places. A later file replaces an earlier one of the same name, as in
    /// every archive.
    pub(super) fn keep(&mut self, mut staged: Staged, directory: Option<String>) {
        staged.directory = directory;
        self.staged.retain(|earlier| earlier.name != staged.name);
        self.staged.push(staged);
    }

    /// Gives all kept files their final names. An obstacle, such as a directory with the name of a file, is detected
    /// before the first file gets its name.
    pub(super) fn commit(mut self) -> Result<Vec<Placed>, PackageError> {
        let mut plan = Vec::new();
        for staged in std::mem::take(&mut self.staged) {
            let (mut location, mut path, mut below) = (self.open_dest()?, self.dest.clone(), None);
            if let Some(name) = &staged.directory {
                path.push(name);
                let opened = Dir::make(&path, &mut self.made)
                    .map_err(|(path, source)| PackageError::Write { path, source })?;
                location = opened.path();
                below = Some(opened);
            }
            location.push(&staged.name);
            path.push(&staged.name);
            match outcome(staged.path(), &location) {
                Ok(outcome) => plan.push((staged, location, path, outcome, below)),
                Err(source) => return Err(PackageError::Write { path, source }),
            }
        }
        let mut placed = Vec::new();
        for (staged, location, path, outcome, _below) in plan {
            if outcome != Outcome::Same {
                staged
                    .file
                    .persist(&location)
                    .map_err(|source| PackageError::Write { path: path.clone(), source })?;
            }
            placed.push(Placed { name: staged.name, path, size: staged.size, outcome });
        }
        if !placed.is_empty() {
            self.made.clear();
        }
        Ok(placed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.staged.clear();
        for directory in self.made.iter().rev() {
            // If removal fails, the directory is not empty, because another process uses it.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Returns the outcome that renaming `file` to `path` will have. Nothing is renamed yet.
fn outcome(file: &Path, path: &Path) -> io::Result<Outcome> {
    let existing = match fs::symlink_metadata(path) {
        Ok(existing) => existing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::New),
        Err(error) => return Err(error),
    };
    if existing.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let new = fs::symlink_metadata(file)?;
    // A file with another owner or another mode does not count as equal: the owner could change it later, or it might
    // not be executable.
    let is_similar = existing.is_file()
        && existing.len() == new.len()
        && existing.uid() == new.uid()
        && existing.mode() & 0o7777 == MODE;
    let same = is_similar && same_content(file, path).unwrap_or(false);
    Ok(if same { Outcome::Same } else { Outcome::Replaced })
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let open = |path| -> io::Result<_> { Ok(BufReader::with_capacity(128 << 10, open_no_follow(path)?)) };
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}
