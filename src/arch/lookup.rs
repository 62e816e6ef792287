//! Finds an [`Arch`] by any name that people use.

use thiserror::Error;

use super::{ARCHES, Arch};
use crate::base::error::{Advice, Advise};

/// Maximum length of a word that gets a suggestion, in bytes. The time to compare words grows with their length, and
/// the longest name in the table has about 20 bytes.
const LONGEST_TYPO: usize = 64;

/// Error for a name that no architecture has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown architecture {query:?}{}", suggestion(*.nearest))]
pub struct UnknownArch {
    /// The name that the user typed.
    pub query: String,
    /// The most similar known name, if any is similar enough.
    pub nearest: Option<&'static str>,
}

impl Advise for UnknownArch {
    fn advice(&self) -> Advice {
        "qus show".into()
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

impl Arch {
    /// Returns the architecture that `query` names.
    ///
    /// Accepts, in upper or lower case, QEMU's target, all of [`names`](Arch::names) and
    /// [`handler_names`](Arch::handler_names), the name of an emulator (`qemu-aarch64-static`) and a platform with or
    /// without `linux/`. It also accepts a target triple of Linux, with or without a vendor
    /// (`armv7-unknown-linux-gnueabihf`, `mips64el-linux-gnuabi64`). A triple of another system is unknown, because its
    /// programs need another kernel.
    pub fn named(query: &str) -> Result<&'static Arch, UnknownArch> {
        let lower = query.to_ascii_lowercase();
        let name = without_platform(&lower);
        let name = name.strip_prefix("qemu-").unwrap_or(name);
        let name = name.strip_suffix("-static").unwrap_or(name);
        called(name)
            .or_else(|| of_triple(name))
            .ok_or_else(|| UnknownArch { query: query.to_owned(), nearest: nearest(name) })
    }

    /// Returns every name of this architecture, QEMU's name first, and platforms without `linux/`.
    pub(super) fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.names.iter().map(without_platform))
    }
}

fn without_platform(name: &str) -> &str {
    name.strip_prefix("linux/").unwrap_or(name)
}

/// Returns the architecture with exactly this lowercase name, without prefix and suffix.
fn called(name: &str) -> Option<&'static Arch> {
    ARCHES.iter().find(|arch| {
        arch.words().any(|word| word == name)
            || arch.handler_names().iter().any(|handler| handler.strip_prefix("qemu-") == Some(name))
    })
}

/// Finds the architecture of a triple. The first component may contain a dash (`x86-64-linux-gnu` is not `x86`), so the
/// first component is tried up to each dash, longest first.
fn of_triple(triple: &str) -> Option<&'static Arch> {
    triple.rmatch_indices('-').find_map(|(at, _)| {
        let (name, rest) = triple.split_at(at);
        if is_linux(rest) { with_abi(called(name)?, rest) } else { None }
    })
}

/// Reports whether the part of a triple after its first component means Linux, for example `-unknown-linux-gnu`,
/// `-linux` or `-linuxabin32`.
fn is_linux(rest: &str) -> bool {
    rest.split('-').any(|part| part.starts_with("linux"))
}

/// Selects the variant of `arch` that the end of a triple names.
fn with_abi(arch: &'static Arch, rest: &str) -> Option<&'static Arch> {
    if rest.ends_with("n32") {
        return match arch.name {
            "mips64" => called("mipsn32"),
            "mips64el" => called("mipsn32el"),
            _ => None,
        };
    }
    // QEMU has no target for 32-bit pointers on x86_64 and aarch64 (gnux32, gnu_ilp32).
    let is_foreign = rest.ends_with("x32") || rest.ends_with("ilp32");
    (!is_foreign).then_some(arch)
}

/// Returns the known word that is most similar to `name`, if at most half of the letters differ. QEMU's names win a
/// tie.
fn nearest(name: &str) -> Option<&'static str> {
    let name = match name.split_once('-') {
        Some((first, rest)) if is_linux(rest) => first,
        _ => name,
    };
    // A known name whose triple has an unsupported ending is not a typing error.
    if name.len() > LONGEST_TYPO || called(name).is_some() {
        return None;
    }
    let targets = ARCHES.iter().map(|arch| arch.name);
    let (distance, nearest) = targets
        .chain(ARCHES.iter().flat_map(Arch::words))
        .map(|word| (strsim::osa_distance(name, word), word))
        .min_by_key(|&(distance, _)| distance)?;
    (distance <= name.chars().count() / 2).then_some(nearest)
}
