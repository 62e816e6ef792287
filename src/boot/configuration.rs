//! Configuration that is registered at boot: files of systemd-binfmt and the database of binfmt-support.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::order;
use crate::binfmt::{Handler, Rule};
use crate::boot::binfmt_d;

/// Directory of the database of binfmt-support (`update-binfmts(8)`), relative to the root directory.
const BINFMT_SUPPORT: &str = "var/lib/binfmts";
/// Maximum size of a file in the database of binfmt-support, in bytes.
const CONFIGURATION_MAX: u64 = 1 << 20;

/// Returns the path of the file in the database of binfmt-support for the handler `name`.
#[must_use]
pub fn binfmt_support_file(name: &OsStr) -> PathBuf {
    Path::new("/").join(BINFMT_SUPPORT).join(name)
}

/// A configured rule, and the configuration file that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredRule {
    /// Path of the configuration file.
    pub file: PathBuf,
    /// The rule.
    pub rule: Rule,
}

/// Difference between a configured rule and the registered handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drift {
    /// No handler has the rule's name.
    Missing,
    /// The handler of this name has another interpreter, another matcher, or other flags.
    Differs,
}

/// Configuration of handlers on the host.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Rules that systemd-binfmt registers at boot.
    pub rules: Vec<ConfiguredRule>,
    /// Handlers that binfmt-support registers. The value is the package; `None` if an administrator added the handler.
    pub binfmt_support: BTreeMap<OsString, Option<String>>,
}

impl Configuration {
    /// Reads the configuration below `root`, which is `/` except in tests. Unreadable files are ignored.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let files = binfmt_d::files(&binfmt_d::directories(root));
        let rules = files.iter().flat_map(|file| rules_of(file)).collect();
        let database = fs::read_dir(root.join(BINFMT_SUPPORT)).into_iter().flatten().flatten();
        let packages =
            database.filter_map(|file| Some((file.file_name(), package_in(&read_small(&file.path())?))));
        Self { rules, binfmt_support: order::map(packages) }
    }

    /// Returns the configured rules that have no handler or a different handler. A later rule replaces an earlier rule
    /// with the same name.
    #[must_use]
    pub fn drifts<'a>(&'a self, handlers: &[Handler]) -> Vec<(&'a ConfiguredRule, Drift)> {
        let is_last = |index: usize, configured: &ConfiguredRule| {
            let mut later = self.rules.iter().skip(index + 1);
            !later.any(|later| later.rule.name() == configured.rule.name())
        };
        let rules = self.rules.iter().enumerate().filter(|(index, configured)| is_last(*index, configured));
        rules
            .filter_map(|(_, configured)| {
                let handler = handlers.iter().find(|handler| handler.name == *configured.rule.name());
                let Some(handler) = handler else { return Some((configured, Drift::Missing)) };
                let entry = &handler.entry;
                let same_flags = entry.flags == configured.rule.flags() && entry.unknown_flags.is_empty();
                (!configured.is_registered_as(handler) || !same_flags).then_some((configured, Drift::Differs))
            })
            .collect()
    }

    /// Returns the configured rules for which no handler with the same name, interpreter and matcher is registered.
    #[must_use]
    pub fn unregistered_rules(&self, handlers: &[Handler]) -> Vec<&ConfiguredRule> {
        let is_unregistered = |configured: &&ConfiguredRule| {
            !handlers.iter().any(|handler| configured.is_registered_as(handler))
        };
        self.rules.iter().filter(is_unregistered).collect()
    }
}

impl ConfiguredRule {
    /// Reports whether `handler` has the name, interpreter and matcher of this configured rule. The flags and the
    /// enabled state do not matter.
    #[must_use]
    pub fn is_registered_as(&self, handler: &Handler) -> bool {
        handler.name == *self.rule.name()
            && handler.entry.interpreter.as_deref() == Some(self.rule.interpreter())
            && handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.equivalent(self.rule.matcher()))
    }
}

/// Returns the rules in the `binfmt.d` file `file`. Invalid lines are ignored.
fn rules_of(file: &Path) -> Vec<ConfiguredRule> {
    let lines = binfmt_d::read(file).unwrap_or_default().into_iter();
    lines.filter_map(|line| Some(ConfiguredRule { file: file.to_owned(), rule: line.rule.ok()? })).collect()
}

/// Returns the package name in the first line of a binfmt-support database file. Returns `None` for the line `:`, which
/// stands for the administrator.
fn package_in(entry: &[u8]) -> Option<String> {
    let line = entry.split(|byte| *byte == b'\n').next()?;
    let name = std::str::from_utf8(line).ok()?.trim();
    (!name.is_empty() && name != ":").then(|| name.to_owned())
}

fn read_small(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= CONFIGURATION_MAX).then(|| fs::read(path).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binfmt::{Entry, HandlerName};

    fn handler(name: &str, interpreter: &str, matcher: &str) -> Handler {
        let text = format!("enabled\ninterpreter {interpreter}\nflags: F\n{matcher}\n");
        Handler::new(HandlerName::new(name).unwrap(), Entry::parse(text.as_bytes()).unwrap())
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in binfmt_d::directories(root.path()).iter().chain(&[root.path().join(BINFMT_SUPPORT)])
        {
            fs::create_dir_all(directory).unwrap();
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
        let [configured] = configuration.rules.as_slice() else { panic!("{configuration:?}") };
        assert_eq!(configured.file, root.path().join("run/binfmt.d/b.conf"));
        assert_eq!(configuration.unregistered_rules(&[]).len(), 1);
        let existing = handler("three", "/other", "offset 0\nmagic 4343");
        assert!(configuration.unregistered_rules(std::slice::from_ref(&existing)).is_empty());
    }

    #[test]
    fn a_drift_is_missing_or_differs() {
        let configured =
            |line: &[u8]| ConfiguredRule { file: "/a.conf".into(), rule: Rule::parse(line).unwrap() };
        let configuration = Configuration {
            // A later rule replaces the first rule.
            rules: vec![
                configured(b":a:E::first::/a:F"),
                configured(b":a:M::AA::/a:F"),
                configured(b":b:M::BB::/b:F"),
            ],
            ..Configuration::default()
        };
        let drifts = |handlers: &[Handler]| -> Vec<(String, Drift)> {
            let drifts = configuration.drifts(handlers).into_iter();
            drifts.map(|(configured, drift)| (configured.rule.name().to_string(), drift)).collect()
        };
        let missing = |name: &str| (name.to_owned(), Drift::Missing);
        let different = |name: &str| (name.to_owned(), Drift::Differs);
        assert_eq!(drifts(&[]), [missing("a"), missing("b")]);
        let a = handler("a", "/a", "offset 0\nmagic 4141");
        let mut b = handler("b", "/other", "offset 0\nmagic 4242");
        assert_eq!(drifts(&[a.clone(), b.clone()]), [different("b")]);
        b.entry.interpreter = Some("/b".into());
        assert_eq!(drifts(&[a.clone(), b.clone()]), []);
        b.entry.enabled = false;
        assert_eq!(drifts(&[a.clone(), b.clone()]), []);
        b.entry.flags = crate::binfmt::Flags::empty();
        assert_eq!(drifts(&[a, b]), [different("b")]);
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
        let packages: Vec<_> = configuration.binfmt_support.into_iter().collect();
        assert_eq!(packages, [("jar".into(), Some("openjdk-17".to_owned())), ("mine".into(), None)]);
    }
}
