//! Finds an [`Arch`] by any name that people use.

use thiserror::Error;

use super::{ARCHES, Arch};
use crate::base::error::{Advice, Advise};

/// Maximum length of an unknown name for which a similar known name is suggested, in bytes. The time to compare two
/// names grows with their length, and the longest name in [`ARCHES`] has about 20 bytes.
const LONGEST_TYPO: usize = 64;

/// Error for a name that no architecture has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown architecture {query:?}{}", suggestion(*.nearest))]
pub struct UnknownArch {
    /// The name that the user typed.
    pub query: String,
    /// The most similar known name; `None` if no known name is similar enough.
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
    /// Accepts, in upper or lower case, the name of QEMU's target, all of [`names`](Arch::names) and
    /// [`handler_names`](Arch::handler_names), the name of an emulator (`qemu-aarch64-static`), and a Docker platform
    /// with or without `linux/`. It also accepts a target triple of Linux, with or without a vendor
    /// (`armv7-unknown-linux-gnueabihf`, `mips64el-linux-gnuabi64`). A triple of another operating system is an error,
    /// because its programs need another kernel.
    pub fn named(query: &str) -> Result<&'static Arch, UnknownArch> {
        let lower = query.to_ascii_lowercase();
        let name = without_platform(&lower);
        let name = name.strip_prefix("qemu-").unwrap_or(name);
        let name = name.strip_suffix("-static").unwrap_or(name);
        called(name)
            .or_else(|| of_triple(name))
            .ok_or_else(|| UnknownArch { query: query.to_owned(), nearest: nearest(name) })
    }

    /// Returns every name of this architecture, QEMU's name first. Docker platforms are returned without `linux/`.
    pub(super) fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.names.iter().map(without_platform))
    }
}

fn without_platform(name: &str) -> &str {
    name.strip_prefix("linux/").unwrap_or(name)
}

/// Returns the architecture with exactly this lowercase name. The caller has already removed `linux/`, `qemu-` and
/// `-static` from the name.
fn called(name: &str) -> Option<&'static Arch> {
    ARCHES.iter().find(|arch| {
        arch.words().any(|word| word == name)
            || arch.handler_names().iter().any(|handler| handler.strip_prefix("qemu-") == Some(name))
    })
}

/// Finds the architecture of a target triple. Its first component may contain a dash (`x86-64-linux-gnu` is not `x86`),
/// so the text before each dash is tried as the first component, longest first.
fn of_triple(triple: &str) -> Option<&'static Arch> {
    triple.rmatch_indices('-').find_map(|(at, _)| {
        let (name, rest) = triple.split_at(at);
        if is_linux(rest) { with_abi(called(name)?, rest) } else { None }
    })
}

/// Reports whether a target triple means Linux. `rest` is the part of the triple after its first component, for example
/// `-unknown-linux-gnu`, `-linux` or `-linuxabin32`.
fn is_linux(rest: &str) -> bool {
    rest.split('-').any(|part| part.starts_with("linux"))
}

/// Returns the variant of `arch` whose ABI is named by `rest`, the end of a target triple. Returns `None` if QEMU has
/// no target for this ABI.
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

/// Returns the known name that is most similar to `name`, if at most half of the letters differ. Of several equally
/// similar names, the name of a QEMU target is preferred.
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
