//! Abilities of the reader of a message. Advice is adapted to them before it is printed.

use std::sync::OnceLock;

use nix::unistd::getuid;

/// The reader of a message, and what the machine offers.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// True if root runs qus.
    pub is_root: bool,
    /// Reports whether the reader can become root with `sudo`.
    pub has_sudo: fn() -> bool,
    /// Reports whether qus can download emulators with a package manager.
    pub has_packages: fn() -> bool,
}

static READER: OnceLock<Reader> = OnceLock::new();

/// Sets what determines the abilities of the reader, which messages then depend on. Without a call, the reader can do
/// everything.
pub fn set_abilities(has_sudo: fn() -> bool, has_packages: fn() -> bool) {
    READER.get_or_init(|| Reader { is_root: getuid().is_root(), has_sudo, has_packages });
}

impl Reader {
    /// Returns the reader of the messages of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        *READER.get_or_init(|| Self { is_root: getuid().is_root(), has_sudo: || true, has_packages: || true })
    }
}
