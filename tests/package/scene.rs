//! A destination directory for packages, and a filter of their members.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use qus::package::{Extraction, MemberFilter, Outcome, Package, PackageError};

/// Selects some names, stores them without `-static`, and accepts content that begins with the ELF magic.
#[derive(Default)]
pub(crate) struct ArchFilter {
    left: Vec<String>,
    dropped: Vec<String>,
}

pub(crate) fn wanted(names: &[&str]) -> ArchFilter {
    ArchFilter { left: names.iter().map(|name| (*name).to_owned()).collect(), dropped: Vec::new() }
}

impl MemberFilter for ArchFilter {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(file_name).ok()?;
        let name = name.strip_suffix("-static").unwrap_or(name);
        self.left.iter().any(|left| left == name).then(|| name.to_owned())
    }

    fn complete(&self) -> bool {
        self.left.is_empty()
    }

    fn accept(&mut self, stored_name: &str, file: &Path) -> Result<(), String> {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o755);
        if !fs::read(file).unwrap().starts_with(b"\x7fELF") {
            self.dropped.push(stored_name.to_owned());
            return Err("not an ELF file".to_owned());
        }
        self.left.retain(|left| left != stored_name);
        Ok(())
    }
}

/// A directory with a package, and a destination that already has a file.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.dest()).unwrap();
        fs::write(scene.dest().join("qemu-arm"), "old").unwrap();
        scene
    }

    pub(crate) fn dest(&self) -> PathBuf {
        self.directory.path().join("dest")
    }

    pub(crate) fn package(&self, content: &[u8]) -> PathBuf {
        let path = self.directory.path().join("package");
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn extract(&self, content: &[u8], names: &[&str]) -> Result<Extraction, PackageError> {
        let mut selection = wanted(names);
        Package::open(&self.package(content))?.extract(&mut selection, &self.dest(), &())
    }

    pub(crate) fn state(&self) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(self.dest())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect()
    }

    /// Extracts a package that must be refused, and expects that the destination stays unchanged. Returns the message
    /// with its causes, and with the path replaced.
    pub(crate) fn refused(&self, content: &[u8]) -> String {
        let before = self.state();
        let error = self.extract(content, &["qemu-aarch64", "qemu-arm", "qemu-none"]).unwrap_err();
        assert_eq!(self.state(), before);
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        let path = self.directory.path().join("package");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        text.replace(path.to_str().unwrap(), "PACKAGE")
    }
}

pub(crate) fn placed(extraction: &Extraction) -> Vec<(&str, u64, Outcome)> {
    extraction.placed.iter().map(|placed| (placed.name.as_str(), placed.size, placed.outcome)).collect()
}
