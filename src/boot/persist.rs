//! Persistence over a reboot: one `binfmt.d` file per architecture, and the init system that registers the rules in
//! these files.
//!
//! The `binfmt.d` files are authoritative on every init system: `qus list` compares the registered handlers with the
//! rules in these files, and `qus apply` registers the rules. For an init system that does not read `binfmt.d`, qus
//! generates further files from the `binfmt.d` files.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::OFlag;
use nix::sys::statfs::statfs;
use serde::Serialize;

use crate::base::error::Diagnostic;
use crate::base::order;
use crate::base::shell::shell_word;
use crate::binfmt::{Handler, Rule};
use crate::boot::binfmt_d;
use crate::boot::configuration::binfmt_support_file;
use crate::boot::formats::{self, ArchRules, Format, PACKAGE, SERVICE, Subject};
use crate::interpreter::Interpreter;
use crate::interpreter::memfd::is_in_memory;
use crate::interpreter::store;
use crate::system::atomic_file;
use crate::system::managed_file::{self, ManagedFileError};
use crate::system::ownership::is_roots_alone;
use crate::system::process;
use crate::system::temp_dir::TempDir;

/// Directory of the `binfmt.d` files that qus writes.
pub const BINFMT_D: &str = "/etc/binfmt.d";
/// Directory of OpenRC's service scripts.
const OPENRC_SERVICES: &str = "/etc/init.d";
/// Directory of the services in OpenRC's runlevel `boot`.
const OPENRC_BOOT: &str = "/etc/runlevels/boot";
/// File that qus locks while it writes persistent files. Only root can open it, so other users cannot block qus.
const LOCK: &str = "/run/qus.lock";
/// Directories that are empty after a reboot, or in which other users can change files.
const UNSTABLE: [&str; 10] =
    ["/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys", "/home", "/root", "/mnt", "/media"];

/// Software that registers the persistent rules at boot: an init system or binfmt-support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitSystem {
    /// systemd, whose systemd-binfmt reads the `binfmt.d` files.
    Systemd,
    /// OpenRC, for which qus writes a service script.
    Openrc,
    /// binfmt-support, into whose database qus imports the rules.
    BinfmtSupport,
    /// An unknown init system, for which qus has no support.
    Unsupported,
}

/// Reports whether systemd is the init system (`sd_booted(3)`).
#[must_use]
pub fn is_systemd_running() -> bool {
    Path::new("/run/systemd/system").exists()
}

impl InitSystem {
    /// Determines the init system of this host.
    #[must_use]
    pub fn here() -> Self {
        let exists = |path: &str| Path::new(path).exists();
        if is_systemd_running() {
            Self::Systemd
        } else if exists("/run/openrc") || exists("/sbin/openrc-run") && exists("/etc/runlevels") {
            Self::Openrc
        } else if exists("/usr/sbin/update-binfmts") {
            Self::BinfmtSupport
        } else {
            Self::Unsupported
        }
    }

    /// Describes how this init system registers the persistent rules at boot.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Systemd => "systemd registers them again whenever it starts",
            Self::Openrc => "the service qus in OpenRC's runlevel boot registers them again",
            Self::BinfmtSupport => {
                "binfmt-support registers them again, without the flag O, which it does not support"
            }
            Self::Unsupported => "nothing on this host registers them again",
        }
    }

    /// Returns the reason why this init system will not register the persistent rules at boot, with advice; `None` if
    /// it will register them.
    #[must_use]
    pub fn blocker(self) -> Option<Diagnostic> {
        const UNIT: &str = "/etc/systemd/system/systemd-binfmt.service";
        match self {
            Self::Systemd if fs::read_link(UNIT).is_ok_and(|target| target == Path::new("/dev/null")) => {
                let problem = Diagnostic::new(
                    "systemd-binfmt.service is masked, so it will not register the handlers at boot",
                );
                Some(problem.with_command("sudo systemctl unmask systemd-binfmt.service"))
            }
            Self::Unsupported => Some(
                Diagnostic::new(format!(
                    "nothing on this host reads {BINFMT_D} at boot: \
                     it has neither systemd nor OpenRC nor binfmt-support"
                ))
                .with_hint("run `qus apply` as root at boot, for example from /etc/rc.local"),
            ),
            _ => None,
        }
    }

    /// Checks, without writing, whether [`update`](Self::update) can succeed for the rules in `set`.
    pub fn check(self, set: &ArchRules) -> Result<(), Diagnostic> {
        if self == Self::Openrc {
            formats::files(Format::Openrc, std::slice::from_ref(set))?;
            managed_file::check(&service())?;
        }
        Ok(())
    }

    /// Updates the files or the database that the init system reads at boot.
    pub fn update(self) -> Result<(), Diagnostic> {
        let persisted_arch =
            persisted()?.into_iter().map(|persisted_arch| persisted_arch.set).collect::<Vec<_>>();
        // The host may have had another init system earlier. Its files are updated as well.
        update_openrc(if self == Self::Openrc { &persisted_arch } else { &[] })?;
        if self == Self::BinfmtSupport {
            import(&persisted_arch)?;
        }
        Ok(())
    }
}

fn service() -> PathBuf {
    Path::new(OPENRC_SERVICES).join(SERVICE)
}

/// Writes the OpenRC service that registers `arch_rules`, and adds it to the runlevel `boot`. If there are no rules,
/// removes the service.
fn update_openrc(arch_rules: &[ArchRules]) -> Result<(), Diagnostic> {
    let (service, link) = (service(), Path::new(OPENRC_BOOT).join(SERVICE));
    if arch_rules.is_empty() {
        let is_own = match managed_file::read(&service) {
            // Another tool's service with the same name stays.
            Err(error) if error.is_foreign() => false,
            read => read?.is_some(),
        };
        if is_own {
            if leads_to(&link, &service).map_err(|error| io_problem("read", &link, &error))? {
                fs::remove_file(&link).map_err(|error| io_problem("remove", &link, &error))?;
            }
            managed_file::remove(&service)?;
        }
        return Ok(());
    }
    for file in formats::files(Format::Openrc, arch_rules)? {
        managed_file::write(&service, &file.text, file.executable)?;
    }
    fs::create_dir_all(OPENRC_BOOT).map_err(|error| io_problem("make", Path::new(OPENRC_BOOT), &error))?;
    match symlink(&service, &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| io_problem("make", &link, &error)),
    }
}

/// Reports whether `link` is a symbolic link to `target`.
fn leads_to(link: &Path, target: &Path) -> io::Result<bool> {
    match fs::read_link(link) {
        Ok(there) => Ok(there == target),
        // The link is missing, or the file is not a link (readlink(2)).
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Imports the rules into the database of binfmt-support.
fn import(arch_rules: &[ArchRules]) -> Result<(), Diagnostic> {
    let directory = TempDir::create(false)
        .map_err(|reasons| Diagnostic::new(format!("cannot create a temporary directory: {reasons}")))?;
    for file in formats::files(Format::BinfmtSupport, arch_rules)? {
        let path = directory.path().join(&file.name);
        fs::write(&path, &file.text).map_err(|error| io_problem("write", &path, &error))?;
        update_binfmts(Command::new("update-binfmts").arg("--import").arg(&path))?;
        // update-binfmts exits with 0 even if it did not import the file.
        if !belongs_to_us(&file.name) {
            return Err(Diagnostic::new(format!("update-binfmts did not import {}", file.name))
                .with_command(format!("update-binfmts --display {}", shell_word(&file.name))));
        }
    }
    Ok(())
}

/// Removes a rule of qus from the database of binfmt-support, even if another init system is in use now. Rules of other
/// packages stay. The caller then removes the `binfmt.d` file, which qus needs to recognise the rule.
pub fn remove_from_binfmt_support(rule: &Rule) -> Result<(), Diagnostic> {
    let name = rule.name().to_string();
    if !belongs_to_us(&name) {
        return Ok(());
    }
    let words = ["--package", PACKAGE, "--remove", &name];
    update_binfmts(Command::new("update-binfmts").args(words).arg(rule.interpreter()))
}

/// Reports whether the database of binfmt-support has the handler `name` under the package of qus.
fn belongs_to_us(name: &str) -> bool {
    let entry = fs::read_to_string(binfmt_support_file(OsStr::new(name))).unwrap_or_default();
    entry.lines().next() == Some(PACKAGE)
}

fn update_binfmts(command: &mut Command) -> Result<(), Diagnostic> {
    let output = process::output(command)
        .map_err(|error| Diagnostic::new(format!("cannot start update-binfmts: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    Err(Diagnostic::new(format!("update-binfmts failed: {}", printed.trim())))
}

fn io_problem(operation: &str, path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::new(format!("cannot {operation} {}: {error}", path.display()))
}

/// Waits for the lock on persistent files. The lock is held while the returned file is open. Without the lock, two runs
/// of qus that copy the same interpreter would each find a handler with the other run's copy. Returns `None` if the
/// lock is not available.
#[must_use]
pub fn lock() -> Option<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(LOCK).inspect_err(|error| tracing::debug!("cannot open {LOCK}: {error}")).ok()?;
    loop {
        match file.lock() {
            Ok(()) => return Some(file),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!("cannot lock {LOCK}: {error}");
                return None;
            }
        }
    }
}

/// A `binfmt.d` file that qus wrote for one architecture, preset or handler.
#[derive(Clone, Debug)]
pub struct Persisted {
    /// Path of the file.
    pub path: PathBuf,
    /// Rules in the file.
    pub set: ArchRules,
    /// True if another program or a user has edited the file. Such a file is not changed.
    pub is_edited: bool,
}

/// Reports whether an interpreter is a copy that `register --persist` made.
#[must_use]
pub fn is_copy(interpreter: &Path) -> bool {
    interpreter.parent() == Some(Path::new(store::COPIES))
}

/// Returns the path of qus's `binfmt.d` file for `subject`.
#[must_use]
pub fn file_of(subject: &Subject) -> PathBuf {
    Path::new(BINFMT_D).join(formats::binfmt_d_name(subject))
}

/// Reads qus's `binfmt.d` file for `subject`. Returns `None` if the file does not exist.
pub fn persisted_for(subject: Subject) -> Result<Option<Persisted>, ManagedFileError> {
    let path = file_of(&subject);
    let Some(own) = managed_file::read(&path)? else { return Ok(None) };
    let text = own.content;
    let rules: Vec<Rule> = binfmt_d::lines(&text).into_iter().filter_map(|line| line.rule.ok()).collect();
    let copied = rules.first().is_some_and(|rule: &Rule| is_copy(rule.interpreter()));
    Ok(Some(Persisted { path, set: ArchRules { subject, rules, copied }, is_edited: own.is_edited }))
}

/// Returns all `binfmt.d` files of qus: those of architectures in the order of their table, then the others. Files of
/// other tools are omitted.
///
/// # Errors
/// Fails if a file cannot be read. Such a file is not omitted, because qus may have written it.
pub fn persisted() -> Result<Vec<Persisted>, ManagedFileError> {
    let subjects = crate::arch::ARCHES.iter().map(Subject::Arch).chain(other_subjects());
    let own = subjects
        .map(persisted_for)
        .filter(|persisted| !persisted.as_ref().is_err_and(ManagedFileError::is_foreign));
    own.filter_map(Result::transpose).collect()
}

/// Returns the subjects of `binfmt.d` files that belong to no architecture, sorted by name.
fn other_subjects() -> Vec<Subject> {
    // A directory that does not exist or cannot be listed has no file that could be read.
    let entries = fs::read_dir(BINFMT_D).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    order::sort(&mut names);
    names.iter().filter_map(|name| formats::other_subject(name)).collect()
}

/// Checks, without writing, that the `binfmt.d` file with the rules in `set` can be written.
pub fn check(set: &ArchRules) -> Result<(), Diagnostic> {
    if let Subject::Other(name) = &set.subject
        && !formats::is_file_word(name)
    {
        let message = format!("the name {} cannot be the name of a file", name.escape_default());
        return Err(Diagnostic::new(message).with_hint("use letters, digits, dots and hyphens"));
    }
    formats::files(Format::Systemd, std::slice::from_ref(set))?;
    managed_file::check(&file_of(&set.subject))?;
    Ok(())
}

/// Writes the `binfmt.d` file with the rules in `set` and returns its path.
pub fn write_boot_file(set: &ArchRules) -> Result<PathBuf, Diagnostic> {
    let path = file_of(&set.subject);
    let before = persisted_for(set.subject.clone())?
        .map(|persisted_arch| persisted_arch.set.rules)
        .unwrap_or_default();
    let is_gone = |rule: &&Rule| !set.rules.iter().any(|new| new.name() == rule.name());
    for rule in before.iter().filter(is_gone) {
        remove_from_binfmt_support(rule)?;
    }
    for file in formats::files(Format::Systemd, std::slice::from_ref(set))? {
        managed_file::write(&path, &file.text, file.executable)?;
    }
    Ok(path)
}

/// Removes a `binfmt.d` file of qus and the interpreter copies that only this file uses. Adds the paths of removed
/// copies to `removed`.
///
/// The `binfmt.d` file is removed last. If qus is interrupted, the next run finds the remaining copies through this
/// file.
pub fn remove_persisted(persisted_arch: &Persisted, removed: &mut Vec<PathBuf>) -> Result<(), Diagnostic> {
    if persisted_arch.is_edited {
        return Err(ManagedFileError::Edited(persisted_arch.path.clone()).into());
    }
    if persisted_arch.set.copied {
        drop_copies(persisted_arch, removed)?;
    }
    managed_file::remove(&persisted_arch.path)?;
    Ok(())
}

fn drop_copies(persisted_arch: &Persisted, removed: &mut Vec<PathBuf>) -> Result<(), Diagnostic> {
    let rules = crate::boot::configuration::Configuration::read(Path::new("/")).rules;
    let others = rules.into_iter().filter(|configured| configured.file != persisted_arch.path);
    let used = order::set(others.map(|configured| configured.rule.interpreter().to_owned()));
    let copies = order::set(persisted_arch.set.rules.iter().map(Rule::interpreter));
    for copy in copies {
        // Only copies of qus are removed, whatever paths the file contains.
        if !is_copy(copy) || used.contains(copy) {
            continue;
        }
        match fs::remove_file(copy) {
            Ok(()) => removed.push(copy.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_problem("remove", copy, &error)),
        }
    }
    if !removed.is_empty() {
        remove_empty_directories();
    }
    Ok(())
}

/// Removes temporary files that killed runs of qus left in the directories of persistent files and interpreter copies.
pub fn remove_stale() {
    for directory in [BINFMT_D, store::COPIES, OPENRC_SERVICES] {
        atomic_file::remove_stale(Path::new(directory));
    }
}

/// Removes copies of interpreters that no configured rule and no handler uses. A killed run or a replacement can leave
/// such copies.
pub fn remove_unused_copies(handlers: &[Handler]) -> Result<(), Diagnostic> {
    let rules = crate::boot::configuration::Configuration::read(Path::new("/")).rules;
    let configured = rules.iter().map(|configured| configured.rule.interpreter());
    let registered = handlers.iter().filter_map(|handler| handler.entry.interpreter.as_deref());
    let used = order::set(configured.chain(registered));
    let entries = match fs::read_dir(store::COPIES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| io_problem("read", Path::new(store::COPIES), &error))?,
    };
    let mut removed = false;
    for copy in entries.flatten().map(|entry| entry.path()).filter(|copy| !used.contains(copy.as_path())) {
        if atomic_file::is_pending(&copy) {
            continue;
        }
        match fs::remove_file(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_problem("remove", &copy, &error));
            }
            _ => removed = true,
        }
    }
    if removed {
        remove_empty_directories();
    }
    Ok(())
}

/// Removes the directory of interpreter copies and its parent directory, if they are empty.
pub fn remove_empty_directories() {
    let _ = fs::remove_dir(store::COPIES).and_then(|()| fs::remove_dir(store::SYSTEM));
}

/// Reports whether persistent rules can name the interpreter's present path: the path exists at boot, and only root can
/// change it.
#[must_use]
pub fn is_stable(interpreter: &Interpreter) -> bool {
    is_stable_path(&interpreter.path, interpreter.owned_by_root)
}

/// Reports the same for the file at `path`. `owned_by_root` is true if only root can change the file.
#[must_use]
pub fn is_stable_path(path: &Path, owned_by_root: bool) -> bool {
    // The file is in the directory of qus, or in a directory for one version below it.
    if path.ancestors().skip(1).take(2).any(|directory| directory == Path::new(store::SYSTEM)) {
        return owned_by_root;
    }
    if is_in_memory(path) || !owned_by_root {
        return false;
    }
    // Every directory and link on the path must be safe, because each can redirect the path.
    let Ok(real) = fs::canonicalize(path) else { return false };
    let is_roots = |directory: &Path| fs::metadata(directory).is_ok_and(|metadata| is_roots_alone(&metadata));
    [path, real.as_path()].into_iter().all(|path| {
        !UNSTABLE.iter().any(|location| path.starts_with(location)) && path.ancestors().skip(1).all(is_roots)
    }) && volatile(&real).is_none()
}

/// Returns a warning if the interpreter at `path` may be missing when handlers are registered at boot.
#[must_use]
pub fn late_mount_warning(path: &Path) -> Option<String> {
    if let Some(kind) = volatile(path) {
        return Some(format!("{} is on {kind}, which is empty after a reboot", path.display()));
    }
    if let Some(kind) = file_system(path).and_then(network) {
        return Some(format!(
            "{} is on {kind}, which may be mounted later than handlers are registered",
            path.display()
        ));
    }
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    // The directory is used because an overlay reports other device numbers for files.
    let own = path.parent().and_then(device);
    let early = [Path::new("/"), Path::new("/usr")].map(device);
    (own.is_some() && !early.contains(&own)).then(|| {
        format!(
            "{} is not on the root file system; its file system must be mounted before handlers are registered",
            path.display()
        )
    })
}

/// Returns the type of the file system that contains `path`: a number from `include/uapi/linux/magic.h`.
fn file_system(path: &Path) -> Option<i128> {
    statfs(path).ok().map(|filesystem| magic(filesystem.filesystem_type().0))
}

/// Converts a file system type to the unsigned 32-bit number of the kernel's header. The type has 32 or 64 bits and may
/// be signed, which depends on the architecture and the C library.
fn magic(number: impl Into<i128>) -> i128 {
    number.into() & i128::from(u32::MAX)
}

/// Returns the name of the file system that contains `path`, if it is empty after a reboot; otherwise `None`.
fn volatile(path: &Path) -> Option<&'static str> {
    match file_system(path)? {
        0x0102_1994 => Some("tmpfs"),
        0x8584_58f6 => Some("ramfs"),
        _ => None,
    }
}

/// Returns the name of the file system type `magic`, if it is a network file system or FUSE; otherwise `None`.
fn network(magic: i128) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0xff53_4d42 | 0xfe53_4d42 => Some("CIFS"),
        0x0102_1997 => Some("9p"),
        0x00c3_6400 => Some("Ceph"),
        0x6573_5546 => Some("FUSE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_32_bits_identify_a_file_system() {
        assert_eq!(file_system(Path::new("/proc/self")), Some(0x9fa0));
        assert_eq!((volatile(Path::new("/proc/self")), network(0x9fa0)), (None, None));
        let cifs = 0xff53_4d42_u32;
        let negative = i32::from_ne_bytes(cifs.to_ne_bytes());
        assert!(negative < 0);
        for number in [magic(cifs), magic(u64::from(cifs)), magic(i64::from(cifs)), magic(negative)] {
            assert_eq!(network(number), Some("CIFS"));
        }
    }
}
