//! From a name that people use to an [`Arch`].

use thiserror::Error;

use super::{ARCHES, Arch};
use crate::base::error::{Advice, Advise};

/// Longer words than this get no suggestion, in bytes: the comparison takes time in proportion, and the longest name
/// in the table has about twenty.
const LONGEST_TYPO: usize = 64;

/// A name that no architecture has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown architecture {query:?}{}", suggestion(*.nearest))]
pub struct UnknownArch {
    /// The name as it was given.
    pub query: String,
    /// The known name that is most like it, if one is like it at all.
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
    /// The architecture that people mean by `query`.
    ///
    /// Any of [`names`](Arch::names) will do, QEMU's target, and a name of [`handler_names`](Arch::handler_names), in
    /// upper or lower case; also the name of an emulator (`qemu-aarch64-static`), a platform with or without `linux/`,
    /// and a whole target triple of Linux with or without a vendor (`armv7-unknown-linux-gnueabihf`,
    /// `mips64el-linux-gnuabi64`). A triple of another system is unknown: its programs need another kernel.
    pub fn named(query: &str) -> Result<&'static Arch, UnknownArch> {
        let lower = query.to_ascii_lowercase();
        let name = without_platform(&lower);
        let name = name.strip_prefix("qemu-").unwrap_or(name);
        let name = name.strip_suffix("-static").unwrap_or(name);
        called(name)
            .or_else(|| of_triple(name))
            .ok_or_else(|| UnknownArch { query: query.to_owned(), nearest: nearest(name) })
    }

    /// Every word that means this architecture: QEMU's first, platforms without `linux/`.
    pub(super) fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.names.iter().map(without_platform))
    }
}

fn without_platform(name: &str) -> &str {
    name.strip_prefix("linux/").unwrap_or(name)
}

/// The architecture with exactly this name, which is in lowercase and without decoration.
fn called(name: &str) -> Option<&'static Arch> {
    ARCHES.iter().find(|arch| {
        arch.words().any(|word| word == name)
            || arch.handler_names().iter().any(|handler| handler.strip_prefix("qemu-") == Some(name))
    })
}

/// Splits a triple before any of its dashes, with the longest beginning first, because a name may contain one itself
/// (`x86-64-linux-gnu` is not `x86`).
fn of_triple(triple: &str) -> Option<&'static Arch> {
    triple.rmatch_indices('-').find_map(|(at, _)| {
        let (name, rest) = triple.split_at(at);
        if is_linux(rest) { with_abi(called(name)?, rest) } else { None }
    })
}

/// Reports whether the rest of a triple after its first component means Linux: `-unknown-linux-gnu`, `-linux`,
/// `-linuxabin32`.
fn is_linux(rest: &str) -> bool {
    rest.split('-').any(|part| part.starts_with("linux"))
}

/// Returns the architecture of a triple, by its end.
fn with_abi(arch: &'static Arch, rest: &str) -> Option<&'static Arch> {
    if rest.ends_with("n32") {
        return match arch.name {
            "mips64" => called("mipsn32"),
            "mips64el" => called("mipsn32el"),
            _ => None,
        };
    }
    // 32-bit pointers on x86_64 and aarch64 (gnux32, gnu_ilp32): QEMU has no target for them.
    let is_foreign = rest.ends_with("x32") || rest.ends_with("ilp32");
    (!is_foreign).then_some(arch)
}

/// The known word most like `name`: at most half of its letters differ. QEMU's names win a draw.
fn nearest(name: &str) -> Option<&'static str> {
    let name = match name.split_once('-') {
        Some((first, rest)) if is_linux(rest) => first,
        _ => name,
    };
    // A known name with an ending that no emulator serves is not a slip of the finger.
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
