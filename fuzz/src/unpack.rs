//! Unpacks a source in its own directory, and checks every guarantee of qus.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use qus::package::{MemberFilter, Outcome, Package, Placed};

use crate::files::assert_printable;

/// Limits of qus under a fuzzer (`src/package/limit.rs`): size of a member, total size in bytes, number of members.
const MEMBER_SIZE: u64 = 64 << 10;
const UNPACKED_SIZE: u64 = 1 << 20;
const MEMBERS: usize = 200;

/// Selects members whose names begin like an emulator's, and accepts content that begins like a program.
#[derive(Default)]
struct ArchFilter {
    accepted: usize,
    asked: usize,
    staged: u64,
}

impl MemberFilter for ArchFilter {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        self.asked += 1;
        assert!(!file_name.contains(&b'/'));
        // qus itself also uses only printable names.
        file_name.starts_with(b"qemu-").then(|| file_name.escape_ascii().to_string())
    }

    fn complete(&self) -> bool {
        self.accepted >= 3
    }

    fn accept(&mut self, stored_name: &str, file: &Path) -> Result<(), String> {
        assert!(!stored_name.contains('/'));
        let metadata = fs::symlink_metadata(file).expect("a staged file");
        assert!(metadata.is_file() && metadata.mode() & 0o7777 == 0o755);
        assert!(metadata.len() <= MEMBER_SIZE, "{} bytes", metadata.len());
        self.staged += metadata.len();
        let content = fs::read(file).expect("a staged file");
        if content.starts_with(b"\x7fELF") {
            self.accepted += 1;
            return Ok(());
        }
        Err("not an ELF file".to_owned())
    }
}

/// Content of each file, by name.
pub(crate) type State = BTreeMap<String, Vec<u8>>;

/// Unpacks `content`. Returns the extracted files; `None` after an error.
pub(crate) fn unpack(content: &[u8]) -> Option<State> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, dest) = (directory.path().join("source"), directory.path().join("dest"));
    fs::write(&source, content).expect("a file");
    fs::create_dir(&dest).expect("a directory");
    fs::write(dest.join("qemu-arm"), "old").expect("a file");
    let before = state(&dest);
    let mut wanted = ArchFilter::default();
    let result = Package::open(&source).and_then(|package| package.extract(&mut wanted, &dest, &()));
    // A hard link of cpio is passed to the filter twice.
    assert!(wanted.asked <= 2 * MEMBERS + 2, "asked for {} members", wanted.asked);
    assert!(wanted.staged <= UNPACKED_SIZE, "{} bytes", wanted.staged);
    let beside: Vec<_> = names(directory.path());
    assert_eq!(beside, ["dest", "source"]);
    let after = state(&dest);
    let placed = match result {
        Ok(extraction) => extraction.placed,
        Err(error) => {
            assert_eq!(after, before, "{error}");
            let mut cause: Option<&dyn Error> = Some(&error);
            while let Some(error) = cause {
                assert_printable(&error.to_string());
                cause = error.source();
            }
            return None;
        }
    };
    assert!(placed.len() <= 3);
    let mut expected = before;
    for Placed { name, path, size, outcome } in &placed {
        assert_eq!(*path, dest.join(name));
        let content = after.get(name).expect("an extracted file exists");
        assert_eq!(content.len() as u64, *size);
        assert!(content.starts_with(b"\x7fELF"));
        assert_eq!(*outcome == Outcome::New, expected.insert(name.clone(), content.clone()).is_none());
    }
    assert_eq!(after, expected);
    // A second extraction finds all files unchanged.
    let again =
        Package::open(&source).and_then(|package| package.extract(&mut ArchFilter::default(), &dest, &()));
    let again = again.expect("a second extraction succeeds").placed;
    assert_eq!(again.len(), placed.len());
    assert!(again.iter().all(|placed| placed.outcome == Outcome::Same), "{again:?}");
    assert_eq!(state(&dest), expected);
    Some(placed.into_iter().map(|placed| (placed.name.clone(), after[&placed.name].clone())).collect())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("names are UTF-8"))
        .collect();
    names.sort();
    names
}

fn state(directory: &Path) -> State {
    let content = |name: &String| {
        let path = directory.join(name);
        assert!(fs::symlink_metadata(&path).expect("a file").is_file(), "{name} is not a file");
        fs::read(path).expect("a file")
    };
    names(directory).into_iter().map(|name| (name.clone(), content(&name))).collect()
}
