//! Arguments that several commands share.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::arch::{Arch, UnknownArch};
use crate::binfmt::instance::DEFAULT_PATH;

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
