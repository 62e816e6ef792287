//! Arguments that several commands share.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::arch::{Arch, UnknownArch};
use crate::binfmt::instance::DEFAULT_PATH;
use crate::interpreter::VersionReq;
use crate::package::Sha256;

/// What the help says above them.
const EVERYWHERE: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Print one JSON object instead of text, on failure too
    #[arg(long, global = true, help_heading = EVERYWHERE, overrides_with = "json")]
    pub json: bool,
    /// Print nothing but data and errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE, overrides_with = "quiet")]
    pub quiet: bool,
    /// Say what is being done; twice for every detail
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = ArgAction::Count)]
    pub verbose: u8,
    /// Where binfmt_misc is mounted
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR", default_value = DEFAULT_PATH)]
    pub instance: PathBuf,
}

/// Where the interpreters come from that a command uses.
#[derive(Debug, Default, Args)]
pub struct SourceArgs {
    /// Look for interpreters here, and nowhere else (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Get missing interpreters first, as `qus fetch` does
    #[arg(long)]
    pub fetch: bool,
    /// Get the interpreters from this source first: whatever `qus fetch --from` takes
    #[arg(long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// What the interpreters have to be.
    #[command(flatten)]
    pub required: RequiredArgs,
}

/// What interpreters have to be, wherever they come from.
#[derive(Debug, Default, Args)]
pub struct RequiredArgs {
    /// What SRC has to be: the SHA-256 that its maker tells
    #[arg(long, value_name = "HEX", requires = "from")]
    pub sha256: Option<Sha256>,
    /// Only interpreters of this version of QEMU: 7.2 is every 7.2.x
    #[arg(long, value_name = "VERSION")]
    pub qemu_version: Option<VersionReq>,
}

impl SourceArgs {
    /// Whether directories or a source were named, so that nothing else serves.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.interpreter_dir.is_empty() || self.from.is_some()
    }
}

/// One word of a list of architectures.
#[derive(Clone, Copy, Debug)]
pub enum ArchArg {
    /// `all`.
    All,
    /// A name.
    One(&'static Arch),
}

pub(crate) fn parse_arch(word: &str) -> Result<ArchArg, UnknownArch> {
    if word.eq_ignore_ascii_case("all") {
        return Ok(ArchArg::All);
    }
    Arch::named(word).map(ArchArg::One)
}

pub(crate) fn parse_one_arch(word: &str) -> Result<&'static Arch, UnknownArch> {
    Arch::named(word)
}

/// Architectures named on the command line; `None` for all.
#[must_use]
pub fn named(words: &[ArchArg]) -> Option<Vec<&'static Arch>> {
    let mut named = Vec::new();
    for word in words {
        match word {
            ArchArg::All => return None,
            ArchArg::One(arch) if !named.contains(arch) => named.push(*arch),
            ArchArg::One(_) => {}
        }
    }
    (!named.is_empty()).then_some(named)
}
