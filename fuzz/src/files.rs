//! Targets for ELF headers, scripts, configuration files and bundles.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use qus::arch::Arch;
use qus::arch::elf::Executable;
use qus::binfmt::{Entry, HEADER_LEN, Handler, Rule};
use qus::boot::configuration::Configuration;
use qus::handler::exec_target::{ExecTarget, Kind, script_interpreter};
use qus::interpreter::bundle::Bundle;
use qus::package::Sha256;
use sha2::Digest as _;

use crate::lines::entry_text;

/// A file in memory.
struct Bytes<'a>(&'a [u8]);

impl FileExt for Bytes<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _buffer: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Tests any bytes as a file to execute. Both readers of ELF must agree with each other and with the content.
pub fn elf(input: &[u8]) {
    let executable = Executable::read(&Bytes(input));
    let header = &input[..input.len().min(HEADER_LEN)];
    if let Some(interpreter) = script_interpreter(header) {
        assert!(header.starts_with(b"#!") && interpreter.as_os_str().len() < HEADER_LEN);
    }
    if let Ok(executable) = &executable {
        assert_eq!(executable.header, header);
        if let Some(loader) = &executable.loader {
            assert!(loader.len() <= 4096 && !loader.contains(&0));
            assert!(loader.is_empty() || input.windows(loader.len()).any(|window| window == loader));
        }
    }
    if let Some(arch) = Arch::from_header(header) {
        assert!(arch.identity.patterns().iter().any(|pattern| pattern.matches(header)), "{}", arch.name);
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), input).expect("a temporary file can be written");
    let candidate = ExecTarget::inspect(file.path());
    assert_eq!(candidate.header, header);
    match (candidate.kind, executable) {
        (Kind::Elf(elf), executable) => {
            assert!(header.starts_with(b"\x7fELF"));
            // Of a damaged program, one reader may know the loader and the other only the damage.
            if let Ok(Executable { loader, .. }) = executable
                && elf.kernel_flaw.is_none()
                && elf.emulator_flaw.is_none()
            {
                assert_eq!(
                    elf.loader.as_ref().map(|loader| loader.as_os_str().as_bytes()),
                    loader.as_deref()
                );
            }
            assert_printable(&elf.to_string());
        }
        (Kind::Empty, _) => assert!(input.is_empty()),
        (kind, executable) => {
            assert!(executable.is_err());
            assert_printable(&kind.to_string());
        }
    }
}

/// Tests any bytes as a file of `binfmt.d` and of binfmt-support. Every rule in it must be one that a handler can have.
pub fn binfmt_d(input: &[u8]) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (directory, database) = (root.path().join("etc/binfmt.d"), root.path().join("var/lib/binfmts"));
    fs::create_dir_all(&directory).expect("a directory");
    fs::create_dir_all(&database).expect("a directory");
    fs::write(directory.join("x.conf"), input).expect("a file");
    fs::write(database.join("mine"), input).expect("a file");
    let configuration = Configuration::read(root.path());
    assert_eq!(configuration.binfmt_support.len(), 1);
    let lines = input.split(|byte| *byte == b'\n').count();
    assert!(configuration.rules.len() <= lines, "{} rules in {lines} lines", configuration.rules.len());
    assert_eq!(configuration.unregistered_rules(&[]).len(), configuration.rules.len());
    for configured in &configuration.rules {
        assert_eq!(Rule::parse(&configured.rule.to_line()).as_ref(), Ok(&configured.rule));
        let name = configured.rule.name().clone();
        let text = entry_text(&configured.rule);
        let entry = Entry::parse(&text).unwrap_or_else(|error| panic!("{error}: {}", text.escape_ascii()));
        let handler = Handler::new(name, entry);
        assert!(configured.is_registered_as(&handler), "{configured:?} by {handler:?}");
        assert_printable(&qus::handler::owner::Owner::of(&handler, &configuration).to_string());
    }
    // Comments and blank lines have no effect.
    let commented = [b"# comment\n\n", input, b"\n;another"].concat();
    fs::write(directory.join("x.conf"), commented).expect("a file");
    assert_eq!(Configuration::read(root.path()).rules, configuration.rules);
}

/// Tests a bundle. The first two bytes are the length of the packed data, and an index follows that data. If the length
/// is 0, the rest of the input is the whole file.
pub fn bundle(input: &[u8]) {
    let Some((&[low, high], rest)) = input.split_first_chunk() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bundle");
    let packed = usize::from(u16::from_le_bytes([low, high]));
    let content = if packed == 0 {
        rest.to_vec()
    } else {
        let (packed, index) = rest.split_at(packed.min(rest.len()));
        let numbers = [packed.len() as u64, index.len() as u64].map(u64::to_le_bytes).concat();
        [packed, index, b"QUSBNDL1", &numbers, &sha2::Sha256::digest(index)].concat()
    };
    fs::write(&path, &content).expect("a file");
    let bundle = match Bundle::open(&path) {
        Ok(Some(bundle)) => bundle,
        Ok(None) => return,
        Err(error) => return assert_printable(&error.to_string()),
    };
    for member in bundle.members().iter().take(8) {
        assert!(member.size <= 128 << 20);
        if let Ok(content) = bundle.unpack(member) {
            assert_eq!(content.len() as u64, member.size);
            assert_eq!(Sha256::of_bytes(&content), member.sha256);
        }
    }
}

/// Checks that a text has no control characters.
pub(crate) fn assert_printable(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
