//! Abilities of the reader of a message. Advice is adapted to them before it is printed.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::getuid;

/// The reader of a message, and what the machine offers.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// True if root runs qus.
    pub is_root: bool,
    /// Reports whether the reader can become root with `sudo`.
    pub has_sudo: fn() -> bool,
    /// Determines whether qus can download emulators with a package manager.
    pub download: fn() -> Download,
    /// Mount point of the binfmt_misc instance that the reader's command named; `None` if it named none.
    pub instance: Option<&'a Path>,
}

/// Possibility to download emulators with a package manager, as far as it is known before an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Download {
    /// Nothing speaks against it.
    Possible,
    /// qus knows no package manager of the system.
    NoManager,
    /// The network namespace has no device but the loopback device.
    NoNetwork,
}

static READER: OnceLock<Reader<'static>> = OnceLock::new();
static INSTANCE: OnceLock<PathBuf> = OnceLock::new();

/// Sets what determines the abilities of the reader, which messages then depend on. Without a call, the reader can do
/// everything.
pub fn set_abilities(has_sudo: fn() -> bool, download: fn() -> Download) {
    READER.get_or_init(|| Reader { is_root: getuid().is_root(), has_sudo, download, instance: None });
}

/// Sets the mount point of the instance that the reader's command named. Each suggested command then names it too.
pub fn set_instance(path: &Path) {
    INSTANCE.get_or_init(|| path.to_owned());
}

impl Reader<'static> {
    /// Returns the reader of the messages of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let reader = *READER.get_or_init(|| Self {
            is_root: getuid().is_root(),
            has_sudo: || true,
            download: || Download::Possible,
            instance: None,
        });
        Self { instance: INSTANCE.get().map(PathBuf::as_path), ..reader }
    }
}
