//! Classification of handlers: the architecture of a handler, and the handler names that qus uses.

use std::path::Path;

use crate::arch::Arch;
use crate::binfmt::{Flags, Handler, HandlerName, Matcher, Pattern, Rule, RuleError, first_match};
use crate::interpreter::{arch_from_file_name, emulated_by};
use crate::system::file_id::file_name;
use crate::system::kernel_version::KernelVersion;

/// Text between a handler's final name and a process ID in a staging name. A new handler has a staging name until it
/// replaces another handler. A leftover handler with a staging name shows that an earlier run of qus was interrupted.
pub const STAGING_SUFFIX: &str = ".qus-";

/// Returns the architecture of a handler whose interpreter is a QEMU user-mode emulator, or whose name begins with
/// `qus-`. Returns `None` for all other handlers.
///
/// The architecture is that of the programs that the handler's pattern matches, even if the interpreter is the emulator
/// of another architecture. If the pattern matches the programs of several architectures, the name of the interpreter
/// decides. It also decides if the pattern matches the programs of no architecture.
#[must_use]
pub fn emulated_arch(handler: &Handler) -> Option<&'static Arch> {
    let named = named_arch(handler)?;
    let matched = Arch::matching_pattern(handler.entry.pattern()?);
    if matched.contains(&named) { Some(named) } else { matched.first().copied().or(Some(named)) }
}

/// Returns the architecture that the interpreter of `handler` emulates according to its name, if the pattern of the
/// handler matches only programs of other architectures.
#[must_use]
pub fn wrong_emulator(handler: &Handler) -> Option<&'static Arch> {
    let named = named_arch(handler)?;
    let matched = Arch::matching_pattern(handler.entry.pattern()?);
    (!matched.is_empty() && !matched.contains(&named)).then_some(named)
}

/// Returns the architecture in the name of the interpreter of `handler`, or in the handler's name if it begins with
/// `qus-`.
fn named_arch(handler: &Handler) -> Option<&'static Arch> {
    let elf = Pattern::new(0, goblin::elf::header::ELFMAG.to_vec(), None).ok()?;
    handler.entry.pattern().filter(|pattern| pattern.overlaps(&elf))?;
    let name = std::str::from_utf8(handler.name.as_bytes()).ok()?;
    if let Some(arch) =
        name.strip_prefix("qus-").and_then(|rest| Arch::named(without_staging_suffix(rest)).ok())
    {
        return Some(arch);
    }
    let interpreter = handler.entry.interpreter.as_deref()?;
    if interpreter.starts_with("/proc") {
        // An interpreter in memory never had a path. Only the handler's name shows its architecture.
        return name.strip_prefix("qemu-").and_then(|rest| Arch::named(without_staging_suffix(rest)).ok());
    }
    emulated_by(file_name(interpreter)).or_else(|| emulated_by(file_name(handler.target.as_deref()?)))
}

fn without_staging_suffix(name: &str) -> &str {
    name.split_once(STAGING_SUFFIX).map_or(name, |(name, _)| name)
}

/// Reports whether `name` is a staging name: a temporary handler name that contains [`STAGING_SUFFIX`].
#[must_use]
pub fn is_staging(name: &HandlerName) -> bool {
    name.as_bytes().windows(STAGING_SUFFIX.len()).any(|window| window == STAGING_SUFFIX.as_bytes())
}

/// Returns the process ID in a staging name; `None` if `name` contains none.
#[must_use]
pub fn staging_process(name: &HandlerName) -> Option<u32> {
    let name = std::str::from_utf8(name.as_bytes()).ok()?;
    name.rsplit_once(STAGING_SUFFIX)?.1.parse().ok()
}

/// Reports whether qus uses `name` for a handler of `arch`.
#[must_use]
pub fn is_named_for(name: &HandlerName, arch: &Arch) -> bool {
    let names = arch.handler_names();
    names.iter().any(|own| {
        let own = own.as_bytes();
        name.as_bytes() == own
            || own
                .strip_prefix(b"qemu-")
                .is_some_and(|rest| name.as_bytes().strip_prefix(b"qus-") == Some(rest))
    })
}

/// Returns the default flags of a new handler: `F` and `O`, and `P` if the kernel reports `P` to the interpreter (since
/// Linux 5.12).
#[must_use]
pub fn default_flags(kernel: KernelVersion) -> Flags {
    let mut flags = Flags::FIX_BINARY | Flags::OPEN_BINARY;
    flags.set(Flags::PRESERVE_ARGV0, kernel.supports_preserve_argv0());
    flags
}

/// Returns the rules that assign the programs of `arch` to `interpreter`. The first rule is for the programs of today's
/// toolchains.
///
/// If the interpreter's file name is not one of QEMU's, the handler names begin with `qus-`.
///
/// # Errors
/// Fails if a handler name or the interpreter's path is not valid in a rule.
pub fn rules(arch: &Arch, interpreter: &Path, flags: Flags) -> Result<Vec<Rule>, RuleError> {
    let is_qemu = arch_from_file_name(file_name(interpreter)) == Some(arch);
    let names = arch.handler_names().into_iter();
    arch.identity
        .patterns()
        .into_iter()
        .zip(names)
        .map(|(pattern, name)| {
            let name = if is_qemu { name } else { name.replacen("qemu-", "qus-", 1) };
            Rule::new(HandlerName::new(name)?, Matcher::Magic(pattern), interpreter, flags)
        })
        .collect()
}

/// Reports whether `handler` matches some programs of `arch`.
#[must_use]
pub fn overlaps_arch(handler: &Handler, arch: &Arch) -> bool {
    handler
        .entry
        .pattern()
        .is_some_and(|taken| arch.identity.patterns().iter().any(|pattern| pattern.overlaps(taken)))
}

/// Returns the handler that the kernel uses for a typical program of `arch`.
#[must_use]
pub fn active_handler<'a>(arch: &Arch, handlers: &'a [Handler]) -> Option<&'a Handler> {
    first_match(handlers, &arch.plain_header()?, Path::new(""))
}

/// Reports whether `name` is a staging name of a process that no longer exists. The name contains the process ID.
pub(crate) fn is_stale_staging(name: &HandlerName) -> bool {
    let process = staging_process(name);
    process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

/// Returns the architecture of a QEMU handler. For all other handlers, returns the only architecture whose programs the
/// handler's pattern matches.
pub(crate) fn main_arch(handler: &Handler) -> Option<&'static Arch> {
    emulated_arch(handler).or_else(|| match Arch::matching_pattern(handler.entry.pattern()?).as_slice() {
        [arch] => Some(*arch),
        _ => None,
    })
}

/// Reports whether `handler` is a QEMU handler of `arch`.
pub(crate) fn is_emulator_of(handler: &Handler, arch: &'static Arch) -> bool {
    emulated_arch(handler) == Some(arch)
}

/// Returns the name of a handler as a string for JSON, without escapes. Invalid UTF-8 is replaced.
pub(crate) fn name_lossy(name: &HandlerName) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

/// Returns the path of a handler's emulator, for example to determine its version. Returns `None` if the handler runs
/// no emulator that qus recognises, or if the path is in `/proc`, where it leads to another file in every process.
pub(crate) fn emulator_path(handler: &Handler) -> Option<&Path> {
    emulated_arch(handler)?;
    let path = handler.entry.interpreter.as_deref()?;
    (path.is_absolute() && !path.starts_with("/proc")).then_some(path)
}
