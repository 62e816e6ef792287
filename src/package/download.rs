//! [`Downloader`]: downloads a file from an `http` or `https` URL with the host's curl or wget.
//!
//! qus contains no TLS stack. A TLS stack would be larger than the rest of qus, and the host already manages keys,
//! proxies and security fixes. The download program is started without a shell and writes to a pipe. qus itself limits
//! the size and the time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use super::Progress;

/// Maximum size of a downloaded file, in bytes. Debian's package of emulators has 62 MB; large container images have
/// some hundred MB.
const SIZE: u64 = 1 << 30;

/// Length of each period in which at least [`MIN_BYTES`] bytes must arrive. Otherwise the download fails.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);
const MIN_BYTES: u64 = 4 << 10;

/// Maximum size of the download program's messages that are stored, in bytes.
const MESSAGES: u64 = 4 << 10;

/// Failure to download a file from a URL.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WebError {
    /// The host has neither curl nor wget.
    #[error("cannot download {0}: this machine has neither curl nor wget")]
    NoTool(String),
    /// The download program could not be started, or the file could not be written.
    #[error("cannot download {0}")]
    Io(String, #[source] io::Error),
    /// The download program exited with an error.
    #[error("cannot download {address}: {messages}")]
    Failed {
        /// The URL.
        address: String,
        /// Messages that the download program printed.
        messages: String,
    },
    /// The file is larger than the size limit of the [`Downloader`].
    #[error("{0} is larger than {1} MiB")]
    TooLarge(String, u64),
    /// The server sends no data, or sends it too slowly.
    #[error("{0} stalls: less than {MIN_BYTES} bytes arrived in {1} seconds")]
    Stalled(String, u64),
}

/// Downloads files from URLs with curl or wget, within limits of size and time.
#[derive(Clone, Debug)]
pub struct Downloader {
    size: u64,
    stall_timeout: Duration,
    tools: Vec<&'static str>,
}

impl Default for Downloader {
    fn default() -> Self {
        Self { size: SIZE, stall_timeout: STALL_TIMEOUT, tools: vec!["curl", "wget"] }
    }
}

/// Returns the scheme of `source`, or `None` if `source` is not an `http` or `https` URL.
#[must_use]
pub fn scheme(source: &Path) -> Option<&'static str> {
    let text = source.to_str()?;
    let is = |scheme: &&str| text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    let scheme = ["https", "http"].into_iter().find(is)?;
    text.get(scheme.len()..)?.starts_with("://").then_some(scheme)
}

impl Downloader {
    /// Limits the size of a downloaded file to `size` bytes.
    #[must_use]
    pub fn size(self, size: u64) -> Self {
        Self { size, ..self }
    }

    /// Sets the time after which a download fails if almost no data arrived.
    #[must_use]
    pub fn stall_timeout(self, stall_timeout: Duration) -> Self {
        Self { stall_timeout, ..self }
    }

    /// Uses only the download program `name`: `curl` or `wget`.
    #[must_use]
    pub fn tool(self, name: &'static str) -> Self {
        Self { tools: vec![name], ..self }
    }

    /// Downloads the file at the URL `address` into an unnamed temporary file. [`scheme`] must accept the URL.
    pub fn download(&self, address: &str, progress: &dyn Progress) -> Result<File, WebError> {
        progress.message(&format!("downloading {address}"));
        let scheme = scheme(Path::new(address)).unwrap_or("https");
        let io = |error| WebError::Io(address.to_owned(), error);
        for tool in &self.tools {
            let mut command = Command::new(tool);
            command.args(arguments(tool, scheme)).arg("--").arg(address);
            command
                .env("LC_ALL", "C.UTF-8")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            tracing::info!("download {address} with {tool}");
            match command.spawn() {
                Ok(child) => return self.receive(ChildGuard(child), address, progress),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io(error)),
            }
        }
        Err(WebError::NoTool(address.to_owned()))
    }

    /// Copies the standard output of the download program into an unnamed temporary file.
    fn receive(
        &self,
        mut running: ChildGuard,
        address: &str,
        progress: &dyn Progress,
    ) -> Result<File, WebError> {
        let io = |error| WebError::Io(address.to_owned(), error);
        let mut file = tempfile::tempfile().map_err(io)?;
        let Some(pipe) = running.0.stdout.take() else {
            return Err(io(io::ErrorKind::BrokenPipe.into()));
        };
        let mut pipe = TimedPipe {
            pipe,
            address,
            stall_timeout: self.stall_timeout,
            length: 0,
            window: (Instant::now(), 0),
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = pipe.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            if pipe.length > self.size {
                return Err(WebError::TooLarge(address.to_owned(), self.size >> 20));
            }
            file.write_all(buffer.get(..read).unwrap_or_default()).map_err(io)?;
            progress.advance(read as u64);
        }
        running.succeed(address)?;
        Ok(file)
    }
}

/// Standard output of a download program. A read fails if data arrives too slowly.
struct TimedPipe<'a> {
    pipe: ChildStdout,
    address: &'a str,
    /// Length of each period in which at least [`MIN_BYTES`] bytes must arrive.
    stall_timeout: Duration,
    /// Number of bytes that were read so far.
    length: u64,
    /// Start of the current period, and the number of bytes that were read before this time.
    window: (Instant, u64),
}

impl TimedPipe<'_> {
    /// Reads some bytes into `buffer`. Returns their number, or 0 at the end of the output.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, WebError> {
        let io = |error| WebError::Io(self.address.to_owned(), error);
        loop {
            let remaining = self.stall_timeout.saturating_sub(self.window.0.elapsed());
            if remaining.is_zero() {
                if self.length - self.window.1 < MIN_BYTES {
                    return Err(WebError::Stalled(self.address.to_owned(), self.stall_timeout.as_secs()));
                }
                self.window = (Instant::now(), self.length);
                continue;
            }
            let wait = PollTimeout::try_from(remaining.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => {
                    let read = self.pipe.read(buffer).map_err(io)?;
                    self.length += read as u64;
                    return Ok(read);
                }
                Err(errno) => return Err(io(errno.into())),
            }
        }
    }
}

/// Returns the arguments for the download program `tool` (curl(1), wget(1)). They make the program write the file to
/// standard output and print only errors, and prevent it from switching to another URL scheme.
fn arguments(tool: &str, scheme: &'static str) -> Vec<String> {
    let words: &[&str] = if tool == "curl" {
        // `--disable` must come first. It prevents the user's configuration from overriding the other options.
        &["--disable", "--fail", "--silent", "--show-error", "--globoff", "--location", "--max-redirs", "10"]
    } else {
        // wget cannot be restricted to one scheme, so redirections are not followed.
        &["--no-config", "--no-verbose", "--max-redirect=0", "--tries=1", "--output-document=-"]
    };
    let mut words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    if tool == "curl" {
        let only = format!("={scheme}");
        words.extend(["--proto".to_owned(), only.clone(), "--proto-redir".to_owned(), only]);
    }
    words
}

/// Running download program. The program is killed when this value is dropped.
struct ChildGuard(Child);

impl ChildGuard {
    /// Waits for the end of the download program, and returns an error if it failed.
    fn succeed(&mut self, address: &str) -> Result<(), WebError> {
        let io = |error| WebError::Io(address.to_owned(), error);
        let mut messages = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            stderr.take(MESSAGES).read_to_end(&mut messages).map_err(io)?;
        }
        let status = self.0.wait().map_err(io)?;
        if status.success() {
            return Ok(());
        }
        // Only the first line is used. curl's other lines explain certificates in general.
        let text = String::from_utf8_lossy(&messages);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty());
        let messages = line.map_or_else(|| status.to_string(), str::to_owned);
        Err(WebError::Failed { address: address.to_owned(), messages })
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // The program has ended, or its output is no longer needed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
