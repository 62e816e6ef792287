//! Presets: kinds of files that are no ELF programs, which `qus register` knows by name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::order;
use crate::binfmt::{
    Extension, Flags, HEADER_LEN, Handler, HandlerName, Matcher, Pattern, Rule, RuleError, first_match,
};
use crate::probe::{Sample, sample_image};
use crate::system::search_path;

/// A kind of file, the handlers for it, and the interpreters that can execute it.
#[derive(Debug)]
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    /// Description in a few words.
    pub description: &'static str,
    /// Names of the handlers, each with its matcher.
    handlers: &'static [(&'static str, Match)],
    /// File names of interpreters that start a file when its path is their first argument. The first one that exists is
    /// used.
    pub interpreters: &'static [&'static str],
    /// Directories in which to search after `PATH`. The part `*` stands for every directory.
    directories: &'static [&'static str],
    /// Sentence that describes how to get an interpreter.
    pub hint: &'static str,
    /// A tiny file of this kind.
    pub sample: Sample,
}

/// Condition of a preset's handler.
#[derive(Debug)]
enum Match {
    /// Bytes at the beginning of a file.
    Magic(&'static [u8]),
    /// File name extension.
    Extension(&'static str),
}

/// All presets, sorted by name.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "ape",
        description: "Actually Portable Executables (Cosmopolitan)",
        // Every DOS and Windows program begins with MZ, too. The longer magic wins only if it is registered later.
        handlers: &[("APE", Match::Magic(b"MZqFpD='")), ("APE-jart", Match::Magic(b"jartsr='"))],
        interpreters: &["ape", "ape-x86_64.elf", "ape-aarch64.elf"],
        directories: &["/usr/local/bin", "/usr/bin", "/opt/cosmos/bin", "/opt/cosmo/bin"],
        hint: "build `ape` from Cosmopolitan and install it as /usr/local/bin/ape, or name it with --interpreter",
        sample: Sample::Ape,
    },
    Preset {
        name: "jar",
        description: "Java archives with a main class, with the extension jar",
        // All ZIP archives have the magic of a jar, so only the extension identifies one.
        handlers: &[("jar", Match::Extension("jar"))],
        interpreters: &["jexec", "jarwrapper"],
        directories: &["/usr/lib/jvm/default-java/lib", "/usr/lib/jvm/*/lib", "/usr/lib/jvm/*/jre/lib"],
        hint: "install a Java runtime with jexec, such as Debian's package default-jre-headless",
        sample: Sample::Jar,
    },
    Preset {
        name: "wasm32-wasi",
        description: "WebAssembly modules for WASI",
        handlers: &[("wasm32-wasi", Match::Magic(b"\0asm\x01\0\0\0"))],
        interpreters: &["wasmtime", "wasmer", "wasmedge", "iwasm", "wasmi_cli"],
        directories: &["/usr/local/bin", "/usr/bin", "/opt/wasmtime/bin", "/opt/wasmtime"],
        hint: "install wasmtime, wasmer, wasmedge or iwasm for all users, or name one with --interpreter",
        sample: Sample::Wasm,
    },
];

impl Preset {
    /// Returns the preset with the name `word`; upper and lower case are the same.
    #[must_use]
    pub fn named(word: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name.eq_ignore_ascii_case(word))
    }

    /// Reports whether this preset has a handler with the name `name`.
    #[must_use]
    pub fn has_handler(&self, name: &HandlerName) -> bool {
        self.handlers.iter().any(|(own, _)| own.as_bytes() == name.as_bytes())
    }

    /// Returns the rules that assign the files of this kind to `interpreter`.
    ///
    /// # Errors
    /// Fails if the path of the interpreter is not valid in a rule.
    pub fn rules(&self, interpreter: &Path, flags: Flags) -> Result<Vec<Rule>, RuleError> {
        self.handlers
            .iter()
            .map(|(name, condition)| {
                let matcher = match condition {
                    Match::Magic(magic) => Matcher::Magic(Pattern::new(0, magic.to_vec(), None)?),
                    Match::Extension(extension) => Matcher::Extension(Extension::new(*extension)?),
                };
                Rule::new(HandlerName::new(*name)?, matcher, interpreter, flags)
            })
            .collect()
    }

    /// Returns the files that may be an interpreter, the preferred ones first: those in `PATH`, then those in the usual
    /// directories.
    #[must_use]
    pub fn candidates(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in self.interpreters {
            let in_path = search_path::find(name.as_ref());
            let usual = self.directories.iter().flat_map(|directory| expand(directory));
            let usual = usual.map(|directory| directory.join(name)).filter(|path| path.is_file());
            found.extend(in_path.into_iter().chain(usual));
        }
        found
    }
}

/// Returns the handler of `handlers`, the newest first, that takes `sample`. Returns `None` if no handler does, or if there
/// is no such sample for this host.
#[must_use]
pub fn handler_of(sample: Sample, handlers: &[Handler]) -> Option<&Handler> {
    let mut header = sample_image(sample)?;
    header.resize(HEADER_LEN, 0);
    first_match(handlers, &header, Path::new(sample.file_name()))
}

/// Returns `directory`, or, if it contains the part `*`, the directories that this part stands for.
fn expand(directory: &str) -> Vec<PathBuf> {
    let Some((parent, rest)) = directory.split_once("/*/") else { return vec![directory.into()] };
    let mut parents: Vec<PathBuf> =
        fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    order::sort(&mut parents);
    parents.into_iter().map(|parent| parent.join(rest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;

    #[test]
    fn presets_have_names_and_rules_of_their_own() {
        for preset in PRESETS {
            assert!(Arch::named(preset.name).is_err(), "{}", preset.name);
            assert_eq!(
                Preset::named(&preset.name.to_uppercase()).map(|preset| preset.name),
                Some(preset.name)
            );
            let rules = preset.rules(Path::new("/i"), Flags::empty()).unwrap();
            assert!(rules.iter().all(|rule| preset.has_handler(rule.name())));
            let own = Arch::from_qemu_target("x86_64").unwrap();
            let (image, path) = (preset.sample.image(own).unwrap(), Path::new(preset.sample.file_name()));
            assert!(rules.iter().any(|rule| rule.matcher().matches(&image, path)), "{}", preset.name);
        }
        assert!(PRESETS.is_sorted_by_key(|preset| preset.name));
    }
}
