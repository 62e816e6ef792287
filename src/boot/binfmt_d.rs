//! Reader for `binfmt.d`, the configuration of systemd-binfmt (`binfmt.d(5)`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;
use thiserror::Error;

use crate::binfmt::{Rule, RuleError};
use crate::system::file_id::open_without_waiting;

/// Configuration directories, relative to the root directory. Earlier directories have precedence.
const DIRECTORIES: [&str; 4] = ["etc/binfmt.d", "run/binfmt.d", "usr/local/lib/binfmt.d", "usr/lib/binfmt.d"];
/// Maximum size of a `binfmt.d` file, in bytes. One line of the file has at most 1920 bytes.
const MAX: u64 = 1 << 20;

/// A line of a `binfmt.d` file that is neither blank nor a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Line number, counted from 1.
    pub number: usize,
    /// The rule, or the reason why the line is not a valid rule.
    pub rule: Result<Rule, RuleError>,
}

/// Failure to read a `binfmt.d` file. Callers print the error's message after the path of the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file does not exist, or the path is a dangling symlink.
    #[error("does not exist")]
    Missing,
    /// A directory has no file whose name ends in `.conf`.
    #[error("has no file whose name ends in .conf")]
    Empty,
    /// The file has the format of binfmt-support.
    #[error("is in the format of binfmt-support, which `update-binfmts --import` reads")]
    BinfmtSupport,
    /// The path is a pipe, a device or a directory.
    #[error("is not a regular file")]
    Special,
    /// The file is larger than 1 MiB.
    #[error("has more than {MAX} bytes")]
    TooLarge,
    /// Another I/O error.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
}

/// Returns the configuration directories below `root`.
#[must_use]
pub fn directories(root: &Path) -> Vec<PathBuf> {
    DIRECTORIES.iter().map(|directory| root.join(directory)).collect()
}

/// Returns the paths of the effective files in `directories`, sorted by file name. If several directories have a file
/// of the same name, only the file in the first of these directories counts. An empty file or a link to `/dev/null`
/// therefore masks files of the same name in later directories.
#[must_use]
pub fn files(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = BTreeMap::<OsString, PathBuf>::new();
    for directory in directories {
        for file in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = file.file_name();
            let is_hidden = name.as_bytes().starts_with(b".");
            let is_directory = file.file_type().is_ok_and(|kind| kind.is_dir());
            if name.as_bytes().ends_with(b".conf") && !is_hidden && !is_directory {
                files.entry(name).or_insert_with(|| file.path());
            }
        }
    }
    files.into_values().collect()
}

/// Checks a directory that a user names, and in which the user therefore expects rules.
///
/// # Errors
/// The directory cannot be read, or [`files`] finds none in it.
pub fn check_directory(directory: &Path) -> Result<(), ReadError> {
    fs::read_dir(directory).map_err(ReadError::of)?;
    if files(&[directory.to_owned()]).is_empty() { Err(ReadError::Empty) } else { Ok(()) }
}

impl ReadError {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Io(error),
        }
    }
}

/// Reads lines from `input`, which is not a file, for example standard input.
pub fn read_stream(input: &mut dyn io::Read) -> Result<Vec<Line>, ReadError> {
    rules_in(input)
}

fn rules_in(input: impl io::Read) -> Result<Vec<Line>, ReadError> {
    let text = content(input).map_err(ReadError::of)?.ok_or(ReadError::TooLarge)?;
    if is_of_binfmt_support(&text) { Err(ReadError::BinfmtSupport) } else { Ok(lines(&text)) }
}

/// Reads the lines of the `binfmt.d` file `file`. A link to `/dev/null` has no lines.
pub fn read(file: &Path) -> Result<Vec<Line>, ReadError> {
    let io = ReadError::of;
    let open = open_without_waiting(file).map_err(io)?;
    let metadata = open.metadata().map_err(io)?;
    if metadata.file_type().is_char_device() && metadata.rdev() == makedev(1, 3) {
        return Ok(Vec::new());
    }
    if !metadata.is_file() {
        return Err(ReadError::Special);
    }
    rules_in(open)
}

/// Reports whether `text` has the format of binfmt-support: each line is a key, a space and a value, and one of the keys
/// is `interpreter` (`update-binfmts(8)`, "FORMAT FILES").
fn is_of_binfmt_support(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"interpreter "))
}

fn content(file: impl io::Read) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    file.take(MAX + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= MAX).then_some(text))
}

/// Parses the text of a `binfmt.d` file. Blanks around a line are not part of the rule.
#[must_use]
pub fn lines(text: &[u8]) -> Vec<Line> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1..);
    lines
        .filter(|(line, _)| !matches!(line, [] | [b'#' | b';', ..]))
        .map(|(line, number)| Line { number, rule: Rule::parse(line) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_masks_files_of_the_same_name() {
        let root = tempfile::tempdir().unwrap();
        let directories = directories(root.path());
        for directory in &directories {
            fs::create_dir_all(directory).unwrap();
        }
        let [etc, run, local, usr] = directories.as_slice() else { panic!() };
        for name in ["a.conf", "b.conf", "c.conf", "d.conf", "e.conf", "no.txt", ".hidden.conf"] {
            fs::write(usr.join(name), ":a:E::a::/a:\n").unwrap();
        }
        fs::write(local.join("b.conf"), "").unwrap();
        fs::write(run.join("b.conf"), "").unwrap();
        symlink("/dev/null", etc.join("c.conf")).unwrap();
        symlink("/nowhere/at/all", etc.join("d.conf")).unwrap();
        // A directory is not a file and masks no file.
        fs::create_dir(etc.join("e.conf")).unwrap();
        fs::write(local.join("z.conf"), "").unwrap();
        let expected = [
            usr.join("a.conf"),
            run.join("b.conf"),
            etc.join("c.conf"),
            etc.join("d.conf"),
            usr.join("e.conf"),
            local.join("z.conf"),
        ];
        assert_eq!(files(&directories), expected);
        assert_eq!(read(&etc.join("c.conf")).unwrap(), []);
        assert!(matches!(read(&etc.join("d.conf")), Err(ReadError::Missing)));
        assert!(matches!(read(&etc.join("e.conf")), Err(ReadError::Special)));
    }

    #[test]
    fn lines_are_counted_and_trimmed() {
        let text = b"# comment\r\n\n \t:a:E::a::/a:F \r\n;:b:E::b::/b:\n:status:E::c::/c:\nnonsense is no rule\n:d:E::d::/d:";
        let lines = lines(text);
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [3, 5, 6, 7]);
        assert_eq!(lines[0].rule, Rule::parse(b":a:E::a::/a:F"));
        assert!(lines[0].rule.is_ok() && lines[3].rule.is_ok());
        assert!(lines[1].rule.is_err() && lines[2].rule.is_err());
    }

    #[test]
    fn a_large_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("large.conf");
        fs::File::create(&file).unwrap().set_len(MAX + 1).unwrap();
        assert!(matches!(read(&file), Err(ReadError::TooLarge)));
        fs::File::create(&file).unwrap().set_len(0).unwrap();
        assert_eq!(read(&file).unwrap(), []);
    }
}
