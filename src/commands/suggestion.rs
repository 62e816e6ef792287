//! Command lines of qus that its messages suggest to the user.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use nix::unistd::geteuid;

use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::output::Output;
use crate::base::shell::shell_word;
use crate::interpreter::{VersionReq, search, search_dirs, self_exe_header};
use crate::system::kernel_version::KernelVersion;
use crate::system::namespace::blocking_sysctl;

/// Architectures that have an interpreter in the directories that qus searches by default. The first call of `has`
/// searches them.
#[derive(Debug, Default)]
pub(crate) struct Available(OnceCell<BTreeSet<&'static str>>);

impl Available {
    /// Reports whether `qus register` finds an interpreter for `arch` without `--fetch`.
    pub(crate) fn has(&self, arch: &Arch) -> bool {
        self.0.get_or_init(find).contains(arch.name)
    }
}

fn find() -> BTreeSet<&'static str> {
    // Without the host's header no interpreter can be checked. `--fetch` is then suggested, which keeps fit interpreters.
    let Ok(host) = self_exe_header() else { return BTreeSet::new() };
    let found = search(&search_dirs(None), &host, |_, _| true);
    found.into_iter().filter(|(_, found)| found.interpreter.is_some()).map(|(arch, _)| arch).collect()
}

/// Returns the command that registers `arches`. It has `--replace` if `replace` is true, and `--fetch` if one of the
/// architectures has no interpreter.
pub(crate) fn register<'a>(
    arches: impl IntoIterator<Item = &'a Arch>,
    replace: bool,
    has_interpreter: impl Fn(&Arch) -> bool,
) -> String {
    let arches: Vec<&Arch> = arches.into_iter().collect();
    let replace = if replace { " --replace" } else { "" };
    let fetch = if arches.iter().all(|arch| has_interpreter(arch)) { "" } else { " --fetch" };
    let names: Vec<&str> = arches.iter().map(|arch| arch.name).collect();
    format!("sudo qus register{replace}{fetch} {}", names.join(" "))
}

/// Returns the command that fetches interpreters of `arches`, or of all architectures if there are none, for a command
/// that searches `directories`, or the default directories if there are none. Returns `None` if `qus fetch` could not
/// write the interpreters there.
pub(crate) fn fetch(
    arches: &[&str],
    directories: &[PathBuf],
    version: Option<&VersionReq>,
) -> Option<String> {
    let names = if arches.is_empty() { "all".to_owned() } else { arches.join(" ") };
    let version = version.map(|version| format!(" --qemu-version {version}")).unwrap_or_default();
    let Some(directory) = directories.first() else { return Some(format!("qus fetch{version} {names}")) };
    // Only a regular file is replaced.
    let is_in_the_way = |arch: &&str| {
        let file = directory.join(format!("qemu-{arch}-static"));
        file.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
    };
    let can_be_written = (directory.is_dir() || !directory.exists()) && !arches.iter().any(is_in_the_way);
    can_be_written.then(|| format!("qus fetch{version} --dest {} {names}", shell_word(directory)))
}

/// Adds to `problem`, which prevents a registration, that an ordinary user can run a program without one. Adds nothing
/// for root, and if `problem` has a hint already.
pub(crate) fn or_run(problem: Diagnostic) -> Diagnostic {
    if geteuid().is_root() || problem.advice.hint.is_some() {
        return problem;
    }
    let has_instances = KernelVersion::running().has_per_userns_instances() && blocking_sysctl().is_none();
    problem.with_hint(without_root(has_instances))
}

/// Returns the hint for a user who cannot become root. `has_instances` is true if the user's own user namespace can
/// have an instance of binfmt_misc.
fn without_root(has_instances: bool) -> &'static str {
    if has_instances {
        "without root: qus run --fetch PROGRAM"
    } else {
        "without root: qus run --direct --fetch PROGRAM"
    }
}

/// Prints that the architectures `names` have no handler, with the command that registers them if `are_wanted` is true.
/// Prints nothing if `names` is empty.
pub(crate) fn print_missing<'a>(
    names: impl Iterator<Item = &'a str>,
    are_wanted: bool,
    output: &mut Output<'_>,
) -> io::Result<()> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Ok(());
    }
    let problem = Diagnostic::new(format!("no handler is registered for {}", names.join(", ")));
    if !are_wanted {
        return output.problem(&problem);
    }
    let available = Available::default();
    let arches = names.iter().filter_map(|name| Arch::named(name).ok());
    output.problem(&problem.with_command(register(arches, false, |arch| available.has(arch))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_fetched() {
        let arches = ["arm", "s390x"].map(|name| Arch::named(name).unwrap());
        assert_eq!(register(arches, false, |_| true), "sudo qus register arm s390x");
        assert_eq!(
            register(arches, true, |arch| arch.name == "arm"),
            "sudo qus register --replace --fetch arm s390x"
        );
    }
}
