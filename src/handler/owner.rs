//! Owner of a handler: the tool that registered the handler.
//!
//! If qus cannot determine the tool, the owner is [`Owner::Unknown`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arch::Arch;
use crate::binfmt::Handler;
use crate::boot::configuration::Configuration;
use crate::system::file_id::file_name;
use crate::system::process;

/// Tool that registered a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// qus. The handler has a name and a pattern of qus.
    Qus,
    /// systemd-binfmt, which registered a line of this configuration file.
    Configuration(PathBuf),
    /// binfmt-support, on behalf of this package; `None` if an administrator added the rule.
    BinfmtSupport(Option<String>),
    /// A product that qus recognises by the name of the interpreter or of the handler. The value is the name of the
    /// product.
    Product(&'static str),
    /// The package that contains the interpreter. It is unknown which tool registered the handler.
    Package(String),
    /// An unknown tool.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qus => formatter.write_str("qus"),
            Self::Configuration(file) => formatter.write_str(&crate::base::escape::display_path(file)),
            Self::BinfmtSupport(Some(package)) => write!(formatter, "binfmt-support({package})"),
            Self::BinfmtSupport(None) => formatter.write_str("binfmt-support"),
            Self::Product(name) => formatter.write_str(name),
            Self::Package(name) => formatter.write_str(name),
            Self::Unknown => formatter.write_str("unknown"),
        }
    }
}

impl Owner {
    /// Determines the owner of `handler` without a query to a package manager. The result is never [`Owner::Package`].
    #[must_use]
    pub fn of(handler: &Handler, configuration: &Configuration) -> Self {
        let entry = &handler.entry;
        let configured = configuration.rules.iter().find(|configured| configured.is_registered_as(handler));
        if let Some(configured) = configured {
            return Self::Configuration(configured.file.clone());
        }
        if let Some(package) = configuration.binfmt_support.get(handler.name.as_os_str()) {
            return Self::BinfmtSupport(package.clone());
        }
        if is_ours(handler) {
            return Self::Qus;
        }
        let interpreter = entry.interpreter.as_deref().map(file_name).unwrap_or_default();
        product(handler.name.as_bytes(), interpreter).map_or(Self::Unknown, Self::Product)
    }
}

/// Reports whether the handler has a name and a pattern that qus registers. Other tools use slightly different
/// patterns.
fn is_ours(handler: &Handler) -> bool {
    let name = handler.name.as_bytes();
    if name.starts_with(b"qus-") {
        return true;
    }
    let Some(pattern) = handler.entry.pattern() else { return false };
    Arch::matching_pattern(pattern).iter().any(|arch| {
        let names = arch.handler_names().into_iter();
        names.zip(arch.identity.patterns()).any(|(own, table)| own.as_bytes() == name && table == *pattern)
    })
}

/// Returns the product that registered the handler, recognised by the file name of the interpreter or by the handler's
/// name.
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

/// Returns the packages that contain `paths`, according to dpkg or rpm. Paths without a package are omitted.
#[must_use]
pub fn packages(paths: &[&Path]) -> BTreeMap<PathBuf, String> {
    if paths.is_empty() {
        return BTreeMap::new();
    }
    let mut packages = BTreeMap::new();
    let mut query = Command::new("dpkg-query");
    query.arg("--search").arg("--").args(paths).env("LC_ALL", "C");
    if let Ok(output) = process::output(&mut query) {
        // Each line has the form "package, other:arch: /path". Unknown paths have no line.
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
        let mut query = Command::new("rpm");
        query.args(["-qf", "--queryformat", "%{NAME}"]).arg(path);
        if let Ok(output) = process::output(&mut query)
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
    use crate::binfmt::{Entry, HandlerName, Rule};
    use crate::boot::configuration::ConfiguredRule;

    fn handler(name: &str, interpreter: &str, matcher: &str) -> Handler {
        let text = format!("enabled\ninterpreter {interpreter}\nflags: F\n{matcher}\n");
        Handler::new(HandlerName::new(name).unwrap(), Entry::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn configuration_is_an_owner() {
        let configured =
            ConfiguredRule { file: "/a.conf".into(), rule: Rule::parse(b":three:M::CC::/other:").unwrap() };
        let configuration = Configuration {
            rules: vec![configured],
            binfmt_support: [("jar".into(), Some("openjdk-17".to_owned())), ("mine".into(), None)].into(),
        };
        let owner = |name, interpreter, matcher| {
            Owner::of(&handler(name, interpreter, matcher), &configuration).to_string()
        };
        assert_eq!(owner("three", "/other", "offset 0\nmagic 4343"), "/a.conf");
        assert_eq!(owner("three", "/elsewhere", "offset 0\nmagic 4343"), "unknown");
        assert_eq!(owner("jar", "/x", "extension .x"), "binfmt-support(openjdk-17)");
        assert_eq!(owner("mine", "/x", "extension .x"), "binfmt-support");
        assert_eq!(owner("other", "/x", "extension .x"), "unknown");
    }

    #[test]
    fn products_and_qus_are_known_by_what_they_register() {
        let configuration = Configuration::default();
        let mz = "offset 0\nmagic 4d5a";
        assert_eq!(
            Owner::of(&handler("WSLInterop-late", "/init", mz), &configuration),
            Owner::Product("WSL")
        );
        assert_eq!(
            Owner::of(&handler("x", "/run/rosetta/rosetta", mz), &configuration),
            Owner::Product("Rosetta")
        );
        assert_eq!(Owner::of(&handler("qus-arm", "/x", mz), &configuration), Owner::Qus);
        let ours = "offset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff000000000000000000feffffff";
        assert_eq!(
            Owner::of(&handler("qemu-aarch64", "/usr/bin/qemu-aarch64", ours), &configuration),
            Owner::Qus
        );
        let theirs = ours.replace("mask ffffffffffffff0000", "mask ffffffffffffff00ff");
        assert_eq!(
            Owner::of(&handler("qemu-aarch64", "/usr/bin/qemu-aarch64", &theirs), &configuration),
            Owner::Unknown
        );
    }
}
