//! Who put a handler there, as well as can be known, and what configuration promises.
//!
//! Nothing is guessed silently: where nothing is known, that is the answer ([`Owner::Unknown`]).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::arch::Arch;
use crate::binfmt::{Handler, Rule};
use crate::boot::binfmt_d;
use crate::interpreter::file_name;

/// The database of binfmt-support (`update-binfmts(8)`).
const BINFMT_SUPPORT: &str = "var/lib/binfmts";
/// Largest file of that which is read, in bytes.
const CONFIGURATION_MAX: u64 = 1 << 20;

/// Who put a handler there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// qus: its own rule, under its own name.
    Qus,
    /// systemd-binfmt, for a line of this file.
    Configuration(PathBuf),
    /// binfmt-support, for this package; nothing for one that an administrator added.
    BinfmtSupport(Option<String>),
    /// Software that is known by its interpreter or its name.
    Product(&'static str),
    /// Whoever it was, the interpreter is from this package.
    Package(String),
    /// Nothing is known.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qus => formatter.write_str("qus"),
            Self::Configuration(file) => formatter.write_str(&crate::base::output::path_text(file)),
            Self::BinfmtSupport(Some(package)) => write!(formatter, "binfmt-support({package})"),
            Self::BinfmtSupport(None) => formatter.write_str("binfmt-support"),
            Self::Product(name) => formatter.write_str(name),
            Self::Package(name) => formatter.write_str(name),
            Self::Unknown => formatter.write_str("unknown"),
        }
    }
}

/// A rule that configuration promises, and the file that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The file.
    pub file: PathBuf,
    /// The rule.
    pub rule: Rule,
}

/// How a promise is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breach {
    /// There is no handler of that name.
    Missing,
    /// There is one, with another interpreter, for other files, or with other flags.
    Drifted,
}

/// What the host's configuration says about handlers.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// What systemd-binfmt registers at boot.
    pub promises: Vec<Promise>,
    /// What binfmt-support registers: the handler's name, and the package that it belongs to.
    pub binfmt_support: BTreeMap<OsString, Option<String>>,
}

impl Configuration {
    /// Reads the configuration below `root`, which is `/` but in tests. What cannot be read is not there.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let files = binfmt_d::files(&binfmt_d::folders(root));
        let promises = files.iter().flat_map(|file| promises_of(file)).collect();
        let database = fs::read_dir(root.join(BINFMT_SUPPORT)).into_iter().flatten().flatten();
        let binfmt_support = database
            .filter_map(|file| Some((file.file_name(), package_in(&read_small(&file.path())?))))
            .collect();
        Self { promises, binfmt_support }
    }

    /// Who put `handler` there, without asking a package manager.
    #[must_use]
    pub fn owner(&self, handler: &Handler) -> Owner {
        let entry = &handler.entry;
        let promised = self.promises.iter().find(|promise| promise.is_kept_by(handler));
        if let Some(promise) = promised {
            return Owner::Configuration(promise.file.clone());
        }
        if let Some(package) = self.binfmt_support.get(handler.name.as_os_str()) {
            return Owner::BinfmtSupport(package.clone());
        }
        if is_ours(handler) {
            return Owner::Qus;
        }
        let interpreter = entry.interpreter.as_deref().map(file_name).unwrap_or_default();
        product(handler.name.as_bytes(), interpreter).map_or(Owner::Unknown, Owner::Product)
    }

    /// Promises that no handler keeps, or one that says it differently; what comes later in the configuration replaces
    /// what has the same name before.
    #[must_use]
    pub fn breaches<'a>(&'a self, handlers: &[Handler]) -> Vec<(&'a Promise, Breach)> {
        let is_last = |index: usize, promise: &Promise| {
            let mut later = self.promises.iter().skip(index + 1);
            !later.any(|later| later.rule.name() == promise.rule.name())
        };
        let promises = self.promises.iter().enumerate().filter(|(index, promise)| is_last(*index, promise));
        promises
            .filter_map(|(_, promise)| {
                let handler = handlers.iter().find(|handler| handler.name == *promise.rule.name());
                let Some(handler) = handler else { return Some((promise, Breach::Missing)) };
                let entry = &handler.entry;
                let same_flags = entry.flags == promise.rule.flags() && entry.unknown_flags.is_empty();
                (!promise.is_kept_by(handler) || !same_flags).then_some((promise, Breach::Drifted))
            })
            .collect()
    }

    /// Promises that no handler keeps.
    #[must_use]
    pub fn broken_promises(&self, handlers: &[Handler]) -> Vec<&Promise> {
        let is_broken = |promise: &&Promise| !handlers.iter().any(|handler| promise.is_kept_by(handler));
        self.promises.iter().filter(is_broken).collect()
    }
}

impl Promise {
    /// Whether `handler` is what the rule asks for, enabled or not.
    #[must_use]
    pub fn is_kept_by(&self, handler: &Handler) -> bool {
        handler.name == *self.rule.name()
            && handler.entry.interpreter.as_deref() == Some(self.rule.interpreter())
            && handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.same_files(self.rule.matcher()))
    }
}

/// Rules of a configuration file. A line that is no rule promises nothing.
fn promises_of(file: &Path) -> Vec<Promise> {
    let lines = binfmt_d::read(file).unwrap_or_default().into_iter();
    lines.filter_map(|line| Some(Promise { file: file.to_owned(), rule: line.rule.ok()? })).collect()
}

/// The first line of a database entry is the package; `:` stands for the administrator.
fn package_in(entry: &[u8]) -> Option<String> {
    let line = entry.split(|byte| *byte == b'\n').next()?;
    let name = std::str::from_utf8(line).ok()?.trim();
    (!name.is_empty() && name != ":").then(|| name.to_owned())
}

fn read_small(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= CONFIGURATION_MAX).then(|| fs::read(path).ok())?
}

/// No other tool's rules are written as the table's are, so that they can be told by it.
fn is_ours(handler: &Handler) -> bool {
    let name = handler.name.as_bytes();
    if name.starts_with(b"qus-") {
        return true;
    }
    let Some(pattern) = handler.entry.pattern() else { return false };
    Arch::of_pattern(pattern).iter().any(|arch| {
        let names = arch.handler_names().into_iter();
        names.zip(arch.identity.patterns()).any(|(own, table)| own.as_bytes() == name && table == *pattern)
    })
}

/// Software that registers its own interpreter, known by the name of that, or of the handler.
fn product(handler: &[u8], interpreter: &[u8]) -> Option<&'static str> {
    match interpreter {
        b"rosetta" => return Some("Rosetta"),
        b"FEX" | b"FEXInterpreter" => return Some("FEX"),
        b"box64" => return Some("box64"),
        b"box86" => return Some("box86"),
        b"binfmt-dispatcher" => return Some("binfmt-dispatcher"),
        b"muvm" => return Some("muvm"),
        _ => {}
    }
    if handler.starts_with(b"WSLInterop") {
        return Some("WSL");
    }
    interpreter.starts_with(b"buildkit-qemu-").then_some("BuildKit")
}

/// The packages that `paths` belong to, by the host's package manager; those that belong to none are left out.
#[must_use]
pub fn packages(paths: &[&Path]) -> BTreeMap<PathBuf, String> {
    if paths.is_empty() {
        return BTreeMap::new();
    }
    let mut packages = BTreeMap::new();
    if let Ok(output) =
        Command::new("dpkg-query").arg("--search").arg("--").args(paths).env("LC_ALL", "C").output()
    {
        // "package, other:arch: /path", a line for each path that is known.
        for line in output.stdout.split(|byte| *byte == b'\n') {
            let Some(at) = line.windows(2).position(|pair| pair == b": ") else { continue };
            let (names, path) = (line.get(..at).unwrap_or_default(), line.get(at + 2..).unwrap_or_default());
            let name = String::from_utf8_lossy(
                names.split(|byte| matches!(byte, b',' | b':')).next().unwrap_or_default(),
            );
            packages.insert(PathBuf::from(OsStr::from_bytes(path)), name.into_owned());
        }
        return packages;
    }
    for path in paths {
        let query = Command::new("rpm").args(["-qf", "--queryformat", "%{NAME}"]).arg(path).output();
        if let Ok(output) = query
            && output.status.success()
        {
            packages.insert(path.to_path_buf(), String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binfmt::{Entry, HandlerName};

    fn handler(name: &str, interpreter: &str, takes: &str) -> Handler {
        let text = format!("enabled\ninterpreter {interpreter}\nflags: F\n{takes}\n");
        Handler { name: HandlerName::new(name).unwrap(), entry: Entry::parse(text.as_bytes()).unwrap() }
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in binfmt_d::folders(root.path()).iter().chain(&[root.path().join(BINFMT_SUPPORT)]) {
            fs::create_dir_all(folder).unwrap();
        }
        root
    }

    #[test]
    fn configuration_has_systemds_precedence() {
        let root = root();
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        write("usr/lib/binfmt.d/a.conf", "# comment\n; another\n\n:one:M::AA::/one:F\n:two:M::BB::/two:\n");
        write("usr/lib/binfmt.d/b.conf", ":three:M::CC::/three:\n");
        write("usr/lib/binfmt.d/c.txt", ":four:M::DD::/four:\n");
        write("run/binfmt.d/b.conf", ":three:M::CC::/other:\nnonsense\n");
        write("etc/binfmt.d/a.conf", "");
        let configuration = Configuration::read(root.path());
        let [promise] = configuration.promises.as_slice() else { panic!("{configuration:?}") };
        assert_eq!(promise.file, root.path().join("run/binfmt.d/b.conf"));
        assert_eq!(configuration.broken_promises(&[]).len(), 1);
        let kept = handler("three", "/other", "offset 0\nmagic 4343");
        assert!(configuration.broken_promises(std::slice::from_ref(&kept)).is_empty());
        assert_eq!(configuration.owner(&kept), Owner::Configuration(promise.file.clone()));
        assert_eq!(
            configuration.owner(&handler("three", "/elsewhere", "offset 0\nmagic 4343")),
            Owner::Unknown
        );
    }

    #[test]
    fn a_breach_is_missing_or_drifted() {
        let promise = |line: &[u8]| Promise { file: "/a.conf".into(), rule: Rule::parse(line).unwrap() };
        let configuration = Configuration {
            // The first is replaced by what comes later.
            promises: vec![
                promise(b":a:E::first::/a:F"),
                promise(b":a:M::AA::/a:F"),
                promise(b":b:M::BB::/b:F"),
            ],
            ..Configuration::default()
        };
        let breaches = |handlers: &[Handler]| -> Vec<(String, Breach)> {
            let breaches = configuration.breaches(handlers).into_iter();
            breaches.map(|(promise, breach)| (promise.rule.name().to_string(), breach)).collect()
        };
        let missing = |name: &str| (name.to_owned(), Breach::Missing);
        let drifted = |name: &str| (name.to_owned(), Breach::Drifted);
        assert_eq!(breaches(&[]), [missing("a"), missing("b")]);
        let a = handler("a", "/a", "offset 0\nmagic 4141");
        let mut b = handler("b", "/other", "offset 0\nmagic 4242");
        assert_eq!(breaches(&[a.clone(), b.clone()]), [drifted("b")]);
        b.entry.interpreter = Some("/b".into());
        assert_eq!(breaches(&[a.clone(), b.clone()]), []);
        b.entry.enabled = false;
        assert_eq!(breaches(&[a.clone(), b.clone()]), []);
        b.entry.flags = crate::binfmt::Flags::empty();
        assert_eq!(breaches(&[a, b]), [drifted("b")]);
    }

    #[test]
    fn binfmt_support_names_the_package() {
        let root = root();
        fs::write(
            root.path().join(BINFMT_SUPPORT).join("jar"),
            "openjdk-17\nmagic\n0\nPK\n\n/usr/bin/jexec\n",
        )
        .unwrap();
        fs::write(root.path().join(BINFMT_SUPPORT).join("mine"), ":\nextension\n").unwrap();
        let configuration = Configuration::read(root.path());
        let owner = |name| configuration.owner(&handler(name, "/x", "extension .x")).to_string();
        assert_eq!(owner("jar"), "binfmt-support(openjdk-17)");
        assert_eq!(owner("mine"), "binfmt-support");
        assert_eq!(owner("other"), "unknown");
    }

    #[test]
    fn products_and_qus_are_known_by_what_they_register() {
        let configuration = Configuration::default();
        let mz = "offset 0\nmagic 4d5a";
        assert_eq!(configuration.owner(&handler("WSLInterop-late", "/init", mz)), Owner::Product("WSL"));
        assert_eq!(configuration.owner(&handler("x", "/run/rosetta/rosetta", mz)), Owner::Product("Rosetta"));
        assert_eq!(configuration.owner(&handler("qus-arm", "/x", mz)), Owner::Qus);
        let ours = "offset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff000000000000000000feffffff";
        assert_eq!(configuration.owner(&handler("qemu-aarch64", "/usr/bin/qemu-aarch64", ours)), Owner::Qus);
        let theirs = ours.replace("mask ffffffffffffff0000", "mask ffffffffffffff00ff");
        assert_eq!(
            configuration.owner(&handler("qemu-aarch64", "/usr/bin/qemu-aarch64", &theirs)),
            Owner::Unknown
        );
    }
}
