//! Classification of handlers: architecture, and names that qus gives.

use std::path::Path;

use crate::arch::Arch;
use crate::binfmt::{Flags, Handler, HandlerName, Matcher, Pattern, Rule, RuleError, first_match};
use crate::interpreter::arch_from_file_name;
use crate::system::file_id::file_name;
use crate::system::kernel_version::KernelVersion;

/// Mark of the names that a handler has only while it takes the place of another one. One that is found was left
/// behind by an interrupted run.
pub const STAGING_SUFFIX: &str = ".qus-";

/// Returns the architecture of a handler with a QEMU user-mode emulator, whatever its name, or with an interpreter that
/// qus registered (a name that begins with `qus-`). `None` for handlers of other tools.
#[must_use]
pub fn emulated_arch(handler: &Handler) -> Option<&'static Arch> {
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
        // The file never had a path. Only the handler's text describes it.
        return name.strip_prefix("qemu-").and_then(|rest| Arch::named(without_staging_suffix(rest)).ok());
    }
    arch_from_file_name(file_name(interpreter))
}

fn without_staging_suffix(name: &str) -> &str {
    name.split_once(STAGING_SUFFIX).map_or(name, |(name, _)| name)
}

/// Reports whether the name is one that a handler has only for a moment.
#[must_use]
pub fn is_staging(name: &HandlerName) -> bool {
    name.as_bytes().windows(STAGING_SUFFIX.len()).any(|window| window == STAGING_SUFFIX.as_bytes())
}

/// Returns the number of the process in a staging name.
#[must_use]
pub fn staging_process(name: &HandlerName) -> Option<u32> {
    let name = std::str::from_utf8(name.as_bytes()).ok()?;
    name.rsplit_once(STAGING_SUFFIX)?.1.parse().ok()
}

/// Reports whether `name` is one that qus gives to a handler of `arch`.
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

/// Returns the flags of a new handler: `F`, `O`, and `P` if the kernel reports it to the interpreter (Linux 5.12).
#[must_use]
pub fn default_flags(kernel: KernelVersion) -> Flags {
    let mut flags = Flags::FIX_BINARY | Flags::OPEN_BINARY;
    flags.set(Flags::PRESERVE_ARGV0, kernel.supports_preserve_argv0());
    flags
}

/// [`default_flags`] of a current kernel, for rules that another machine will register.
pub const EXPORTED_FLAGS: Flags = Flags::FIX_BINARY.union(Flags::OPEN_BINARY).union(Flags::PRESERVE_ARGV0);

/// The rules that give the programs of `arch` to `interpreter`, the first for what today's toolchains write.
///
/// An interpreter that is not called like QEMU's gets handlers called `qus-…`.
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

/// Reports whether `handler` takes some program of `arch`.
#[must_use]
pub fn overlaps_arch(handler: &Handler, arch: &Arch) -> bool {
    handler
        .entry
        .pattern()
        .is_some_and(|taken| arch.identity.patterns().iter().any(|pattern| pattern.overlaps(taken)))
}

/// The handler that takes the programs that today's toolchains write for `arch`: all of them, or the first of them.
#[must_use]
pub fn active_handler<'a>(arch: &Arch, handlers: &'a [Handler]) -> Option<&'a Handler> {
    first_match(handlers, &arch.plain_header()?, Path::new(""))
}

/// Reports whether this is the staging name of a handler whose process was killed.
pub(crate) fn is_stale_staging(name: &HandlerName) -> bool {
    let process = staging_process(name);
    process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

/// Handlers that give programs to QEMU's emulators, of the named architectures or of all.
pub(crate) fn emulators<'a>(
    handlers: &'a [Handler],
    named: Option<&[&'static Arch]>,
) -> Vec<(&'a Handler, &'static Arch)> {
    handlers
        .iter()
        .filter_map(|handler| emulated_arch(handler).map(|arch| (handler, arch)))
        .filter(|(handler, arch)| {
            named.is_none_or(|named| {
                named.contains(arch) || named.iter().any(|arch| serves_only(handler, arch))
            })
        })
        .collect()
}

/// Returns the name of a handler for JSON, unescaped.
pub(crate) fn name_lossy(name: &HandlerName) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

/// Returns the interpreter of a handler, if it is a QEMU emulator with an absolute path, so that its version can be
/// read. A path in `/proc` is another file in every process.
pub(crate) fn emulator_path(handler: &Handler) -> Option<&Path> {
    emulated_arch(handler)?;
    let path = handler.entry.interpreter.as_deref()?;
    (path.is_absolute() && !path.starts_with("/proc")).then_some(path)
}

/// Reports whether a handler takes programs of `arch` and of nothing else.
pub(crate) fn serves_only(handler: &Handler, arch: &Arch) -> bool {
    handler
        .entry
        .pattern()
        .is_some_and(|pattern| Arch::matching_pattern(pattern).iter().all(|taken| *taken == arch))
        && overlaps_arch(handler, arch)
}
