//! Arguments that several commands share.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::arch::{Arch, UnknownArch};
use crate::base::glob::{Glob, is_pattern};
use crate::binfmt::HandlerName;
use crate::binfmt::instance::DEFAULT_PATH;
use crate::handler::preset::Preset;
use crate::interpreter::VersionReq;
use crate::package::Sha256;
use crate::system::kernel_version::KernelVersion;

/// Headings under which `--help` groups options.
pub(crate) const SELECTION: &str = "Selection";
pub(crate) const INTERPRETERS: &str = "Interpreters";
pub(crate) const VERIFICATION: &str = "Verification";
pub(crate) const SCOPE: &str = "Scope";
pub(crate) const PERSISTENCE: &str = "Persistence";
pub(crate) const OUTPUT: &str = "Output";
const EVERYWHERE: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Print one JSON object instead of text
    ///
    /// Prints one JSON object instead of text, also for an error. The field `version` is the version of the format:
    /// it changes when a field is removed or changes its meaning.
    #[arg(long, global = true, help_heading = EVERYWHERE, overrides_with = "json")]
    pub json: bool,
    /// Print only data and errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE, overrides_with = "quiet")]
    pub quiet: bool,
    /// Print each step; -vv prints every detail
    ///
    /// Prints each step on standard error. Tables have more columns and lines. Given twice, prints every detail.
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = ArgAction::Count)]
    pub verbose: u8,
    /// Mount point of the binfmt_misc instance
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR", default_value = DEFAULT_PATH)]
    pub instance: PathBuf,
}

/// Sources of interpreters.
#[derive(Debug, Default, Args)]
pub struct SourceArgs {
    /// Search only in DIR (repeatable)
    ///
    /// Searches for interpreters only in DIR. Given several times, it searches each DIR. Files must have
    /// QEMU's names: qemu-ARCH or qemu-ARCH-static.
    #[arg(help_heading = INTERPRETERS, long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Download missing interpreters first
    ///
    /// Downloads interpreters that are missing, as `qus fetch` does.
    #[arg(help_heading = INTERPRETERS, long)]
    pub fetch: bool,
    /// Get the interpreters from SRC
    ///
    /// Gets the interpreters from SRC before registration. SRC is a package, an archive, a container image in a file, a
    /// directory, an interpreter, `-` for standard input, or an http(s) address.
    #[arg(help_heading = INTERPRETERS, long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// Requirements for interpreters.
    #[command(flatten)]
    pub required: RequiredArgs,
}

/// Requirements for interpreters from any source.
#[derive(Debug, Default, Args)]
pub struct RequiredArgs {
    /// Expected SHA-256 of SRC
    ///
    /// Expected SHA-256 of SRC, in hexadecimal. Any other content is refused.
    #[arg(help_heading = INTERPRETERS, long, value_name = "HEX", requires = "from")]
    pub sha256: Option<Sha256>,
    /// Accept only this version of QEMU
    ///
    /// Accepts only interpreters of this version of QEMU. 7.2 matches every 7.2.x.
    #[arg(help_heading = INTERPRETERS, long, value_name = "VERSION")]
    pub qemu_version: Option<VersionReq>,
}

impl SourceArgs {
    /// Reports whether the command line names directories (`--interpreter-dir`) or a source (`--from`). Interpreters
    /// from anywhere else are then ignored.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.interpreter_dir.is_empty() || self.from.is_some()
    }
}

/// The words of one argument that is a list, such as `arm,aarch64`. Scripts also pass `arm, aarch64`, words in lines of
/// their own, and a comma after the last word.
#[derive(Clone, Debug)]
pub struct Words<T>(Vec<T>);

impl<T> Words<T> {
    /// Parses each word of a list with `parse`. Commas and white space separate words.
    ///
    /// # Errors
    /// A word cannot be parsed, or the list has no word. An empty variable of a script must not stand for the default.
    fn parse<E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Self, E> {
        let separates = |letter: char| letter == ',' || letter.is_whitespace();
        let mut words = text.split(separates).filter(|word| !word.is_empty()).peekable();
        if words.peek().is_none() {
            return parse("").map(|word| Self(vec![word]));
        }
        words.map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the words in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T> From<Vec<T>> for Words<T> {
    fn from(words: Vec<T>) -> Self {
        Self(words)
    }
}

impl<'a, T> IntoIterator for &'a Words<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A word in a list of architectures on the command line.
#[derive(Clone, Copy, Debug)]
pub enum ArchArg {
    /// The word `all`.
    All,
    /// The architecture that the word names.
    One(&'static Arch),
    /// The preset that the word names. Only `qus register` accepts presets.
    Preset(&'static Preset),
}

/// Returns the words of all arguments.
pub(crate) fn flat<T: Clone>(arguments: &[Words<T>]) -> Vec<T> {
    arguments.iter().flatten().cloned().collect()
}

/// Parses a list of architectures and presets.
pub(crate) fn parse_arches_or_presets(text: &str) -> Result<Words<ArchArg>, UnknownArch> {
    Words::parse(text, |word| {
        Preset::named(word).map_or_else(|| parse_arch(word), |preset| Ok(ArchArg::Preset(preset)))
    })
}

/// Parses a list of architectures.
pub(crate) fn parse_arches(text: &str) -> Result<Words<ArchArg>, UnknownArch> {
    Words::parse(text, parse_arch)
}

/// Parses a list of architectures without the word `all`.
pub(crate) fn parse_named_arches(text: &str) -> Result<Words<&'static Arch>, UnknownArch> {
    Words::parse(text, parse_one_arch)
}

fn parse_arch(word: &str) -> Result<ArchArg, UnknownArch> {
    if word.eq_ignore_ascii_case("all") {
        return Ok(ArchArg::All);
    }
    Arch::named(word).map(ArchArg::One)
}

/// A word that selects handlers on the command line.
#[derive(Clone, Debug)]
pub enum HandlerArg {
    /// The word `all`.
    All,
    /// The architecture that the word names, and the word, which may be the name of a handler too. The word is `None` if
    /// the architecture was not typed.
    Arch(&'static Arch, Option<HandlerName>),
    /// Name of a handler.
    Name(HandlerName),
    /// Pattern for names of handlers, such as `python*`: its text, and its parsed form.
    Pattern(String, Glob),
}

/// Parses a list of words that select handlers. White space separates only architectures, because the name of a handler
/// can contain it.
pub(crate) fn parse_handlers(text: &str) -> Result<Words<HandlerArg>, String> {
    let are_arches = |words: &Words<HandlerArg>| {
        words.iter().all(|word| matches!(word, HandlerArg::All | HandlerArg::Arch(..)))
    };
    if let Ok(words) = Words::parse(text, parse_handler)
        && are_arches(&words)
    {
        return Ok(words);
    }
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return parse_handler("").map(|word| Words(vec![word]));
    }
    words.into_iter().map(parse_handler).collect::<Result<_, _>>().map(Words)
}

/// Parses a word that selects handlers. An architecture comes before a handler of the same name.
fn parse_handler(word: &str) -> Result<HandlerArg, String> {
    if word.eq_ignore_ascii_case("all") {
        return Ok(HandlerArg::All);
    }
    if is_pattern(word) {
        let glob = Glob::new(word).map_err(|error| error.to_string())?;
        return Ok(HandlerArg::Pattern(word.to_owned(), glob));
    }
    let name = HandlerName::new(word);
    match Arch::named(word) {
        Ok(arch) => Ok(HandlerArg::Arch(arch, name.ok())),
        Err(_) => name.map(HandlerArg::Name).map_err(|error| format!("the name of a handler {error}")),
    }
}

pub(crate) fn parse_one_arch(word: &str) -> Result<&'static Arch, UnknownArch> {
    Arch::named(word)
}

/// Parses the value of an option `--for-kernel`.
pub(crate) fn parse_kernel(word: &str) -> Result<KernelVersion, String> {
    let kernel = KernelVersion::from_word(word)?;
    if kernel.supports_fix_binary() {
        return Ok(kernel);
    }
    Err(format!("Linux {kernel} has no flag F, which came with Linux 4.8"))
}

/// Returns the architectures that `words` name, without duplicates. Returns `None`, which stands for all architectures,
/// if `words` is empty or contains `all`.
#[must_use]
pub fn named<'a>(words: impl IntoIterator<Item = &'a Words<ArchArg>>) -> Option<Vec<&'static Arch>> {
    let mut named = Vec::new();
    for word in words.into_iter().flatten() {
        match word {
            ArchArg::All => return None,
            ArchArg::One(arch) if !named.contains(arch) => named.push(*arch),
            ArchArg::One(_) | ArchArg::Preset(_) => {}
        }
    }
    (!named.is_empty()).then_some(named)
}
