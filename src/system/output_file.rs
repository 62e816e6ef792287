//! Opens a file that a user named for output. The type of the file determines how data is written to it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_PATH};

/// Destination of output data.
#[derive(Debug)]
pub enum OutputFile {
    /// Standard output. Its name on the command line is `-`.
    Standard,
    /// A pipe, a character device, or a descriptor of this process such as `/dev/stdout`. Data is written directly into
    /// it.
    Stream(File),
    /// A regular file, or a path without a file. The data is written to a new file, which replaces the old file when it
    /// is complete.
    Regular,
}

impl OutputFile {
    /// Inspects the file at `path`. Opens a pipe, a device or a descriptor for writing, but not a regular file.
    ///
    /// # Errors
    /// Fails for a directory, a block device or a socket. Also fails for a terminal, because the output data is not
    /// text.
    pub fn open(path: &Path) -> io::Result<Self> {
        let output = if is_standard_output(path)? { Self::Standard } else { Self::open_named(path)? };
        let is_terminal = match &output {
            Self::Standard => io::stdout().is_terminal(),
            Self::Stream(file) => file.is_terminal(),
            Self::Regular => false,
        };
        if is_terminal {
            Err(io::Error::other("it is a terminal, and the data is not text"))
        } else {
            Ok(output)
        }
    }

    /// Checks whether data could be written to `path`, without opening a pipe or a device.
    ///
    /// # Errors
    /// Fails like [`open`](Self::open), except that a terminal is accepted.
    pub fn check(path: &Path) -> io::Result<()> {
        if is_standard_output(path)? {
            return Ok(());
        }
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(found) => {
                refused_type(&found).map_or(Ok(()), |name| Err(io::Error::other(format!("it is {name}"))))
            }
        }
    }

    fn open_named(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for a reader, and opening a device could have an effect.
        let looked_at = match OpenOptions::new().read(true).custom_flags(O_PATH).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Regular),
            opened => opened?.metadata()?,
        };
        let kind = looked_at.file_type();
        if descriptor(path)?.is_some() || kind.is_fifo() || kind.is_char_device() {
            let file = OpenOptions::new().write(true).custom_flags(O_NOCTTY).open(path)?;
            let opened = file.metadata()?.file_type();
            return if opened == kind {
                Ok(Self::Stream(file))
            } else {
                Err(io::Error::other("it was replaced by a file of another type"))
            };
        }
        match refused_type(&looked_at) {
            Some(name) => Err(io::Error::other(format!("it is {name}"))),
            None => Ok(Self::Regular),
        }
    }
}

/// Reports whether `path` is a name of standard output, such as `-` or `/dev/stdout`. If standard output is redirected
/// to a file, that file must not be opened a second time, because later text would overwrite the data.
pub fn is_standard_output(path: &Path) -> io::Result<bool> {
    Ok(path == Path::new("-") || descriptor(path)?.as_deref() == Some(OsStr::new("1")))
}

/// Returns the number of the descriptor of this process that `path` names, for example by `/dev/stdout`, `/dev/fd/3` or
/// `/proc/self/fd/3`. Returns `None` if `path` names no descriptor.
fn descriptor(path: &Path) -> io::Result<Option<OsString>> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..2 {
        let parent = path.parent().map(fs::canonicalize).transpose()?;
        let own = Path::new("/proc").join(std::process::id().to_string()).join("fd");
        if parent.as_deref() == Some(&own) {
            return Ok(path.file_name().map(OsStr::to_owned));
        }
        match fs::read_link(&path) {
            Ok(target) if target.is_absolute() => path = target,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Returns the name of the file's type if data cannot be written to files of this type; `None` for other types.
fn refused_type(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_char_device() { None } else { special_type(metadata) }
}

/// Returns the name of the file's type if a regular file must not replace files of this type; `None` for regular files
/// and symbolic links.
#[must_use]
pub fn special_type(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        Some("a directory")
    } else if kind.is_block_device() {
        Some("a block device")
    } else if kind.is_char_device() {
        Some("a character device")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn the_type_decides() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "x").unwrap();
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        let open = |name: &str| OutputFile::open(&path(name));
        assert!(matches!(open("file"), Ok(OutputFile::Regular)));
        assert!(matches!(open("missing"), Ok(OutputFile::Regular)));
        assert_eq!(open("socket").unwrap_err().to_string(), "it is a socket");
        assert_eq!(open("").unwrap_err().to_string(), "it is a directory");
        let reader = std::thread::spawn({
            let pipe = path("pipe");
            move || fs::read(pipe).unwrap()
        });
        let Ok(OutputFile::Stream(mut file)) = open("pipe") else { panic!("a pipe is written into") };
        io::Write::write_all(&mut file, b"data").unwrap();
        drop(file);
        assert_eq!(reader.join().unwrap(), b"data");
        assert!(matches!(OutputFile::open(Path::new("/dev/null")), Ok(OutputFile::Stream(_))));
    }

    #[test]
    fn a_descriptor_of_this_process_is_found_by_every_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        for path in [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")] {
            assert_eq!(descriptor(Path::new(&path)).unwrap(), Some(number.to_string().into()), "{path}");
        }
        assert_eq!(descriptor(&directory.path().join("file")).unwrap(), None);
        let is_standard = |path: &str| is_standard_output(Path::new(path)).unwrap();
        assert!(is_standard("-") && is_standard("/dev/stdout") && is_standard("/dev/fd/1"));
        let opened = OutputFile::open(Path::new(&format!("/dev/fd/{number}")));
        assert!(matches!(opened, Ok(OutputFile::Stream(_))));
    }
}
