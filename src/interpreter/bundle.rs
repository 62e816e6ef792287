//! Bundle: one executable file that consists of a copy of qus and of interpreters, the *members*.
//!
//! ```text
//! qus, an ELF executable; its seal contains the length of the whole file
//! members, one after the other, each an xz stream
//! index: JSON, `"format": 1`, one row per member
//! trailer, 56 bytes: "QUSBNDL1", offset and length of the index (64-bit little-endian), SHA-256 of the index
//! ```
//!
//! The same qus and the same members always give the same bundle, byte for byte. Every member is compared with its
//! SHA-256 when it is unpacked.
//!
//! The seal is 24 bytes inside the executable of qus: a marker, and the length of the whole bundle. A running qus has
//! its own seal in memory. If its file was truncated or extended later, the seal still shows that the file is a bundle
//! and that it is damaged.

use std::fs::File;
use std::fs::Permissions;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lzma_rust2::{CheckType, XzOptions, XzWriter};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use thiserror::Error;

use super::arch_from_file_name;
use crate::arch::Arch;
use crate::arch::elf::Executable;
use crate::base::error::{Advise, Diagnostic};
use crate::base::order;
use crate::base::parallel;
use crate::package::Sha256;
use crate::package::compression::xz;
use crate::system::temp_dir::TempDir;

/// Seal of the running executable: a unique marker, then the length of the whole bundle in bytes (64-bit
/// little-endian). The length is 0 in a qus that is not a bundle.
#[used]
static SEAL: [u8; 24] = *b"\x00qus bundle seal\0\0\0\0\0\0\0\0";
/// Length of the marker at the beginning of the seal, in bytes.
const SEAL_MARKER_LEN: usize = 16;

/// Path that leads to the executable of this process.
const OWN: &str = "/proc/self/exe";
/// First bytes of the trailer, the last part of a bundle.
const MAGIC: &[u8; 8] = b"QUSBNDL1";
/// Length of the trailer, the last part of a bundle, in bytes.
const TRAILER: usize = 56;
/// Maximum size of a bundle's index, in bytes. An index of 35 members has 12 KiB.
const INDEX_MAX: u64 = 1 << 20;
/// Maximum size of an unpacked member, in bytes. QEMU's emulators have up to 17 MB.
const MEMBER_MAX: u64 = 128 << 20;
/// Maximum memory for the decompression of a member, in KiB.
const UNPACK_KIB: u32 = 80 << 10;
/// Size of the parts in which a member is unpacked, in bytes. One part fits into the processor's cache.
const PART: usize = 64 << 10;
/// Compression level of `xz` for the members. With this level, `xz` uses a dictionary of 8 MiB.
const PRESET: u32 = 6;
/// Version of the format of a bundle's index.
const FORMAT: u32 = 1;

/// Member of a bundle: an interpreter, or a text file such as a licence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// File name of the member. An interpreter is called `qemu-ARCH-static`.
    pub name: String,
    /// QEMU version of the interpreter; `None` for a text file.
    pub version: Option<String>,
    /// SHA-256 of the member's uncompressed content.
    pub sha256: Sha256,
    /// Length of the member's uncompressed content, in bytes.
    pub size: u64,
    /// Offset of the member's xz stream in the bundle, in bytes.
    offset: u64,
    /// Length of the member's xz stream, in bytes.
    packed: u64,
}

#[derive(Serialize, Deserialize)]
struct Index {
    format: u32,
    members: Vec<Member>,
}

/// Failure to read or write a bundle.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bundle could not be read or written.
    #[error("cannot {operation} the bundle: {source}")]
    Io {
        /// Verb for the failed operation, such as `open`.
        operation: &'static str,
        /// Error that the operating system reported.
        source: io::Error,
    },
    /// The bundle was truncated or extended after it was written.
    #[error("the bundle is damaged: it has {length} bytes instead of {written}")]
    Length {
        /// Present length of the bundle, in bytes.
        length: u64,
        /// Length of the bundle according to its seal, in bytes.
        written: u64,
    },
    /// The executable has no seal, the bytes that store the length of a bundle. So it cannot become a bundle.
    #[error("{0} cannot become a bundle: it has no bundle seal")]
    NoSeal(PathBuf),
    /// The running qus is dynamically linked. Other machines may not have the loader and the libraries that it needs.
    #[error("this qus is dynamically linked (needs {0})")]
    Dynamic(String),
    /// The trailer or the index was changed after the bundle was written.
    #[error("the bundle is damaged: {0}")]
    Damaged(&'static str),
    /// A member was changed after the bundle was written.
    #[error("the bundle is damaged: {0} was changed")]
    Member(String),
}

impl Advise for BundleError {}

/// Bundle whose file is open and whose index has been read and checked.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    members: Vec<Member>,
}

impl Bundle {
    /// Opens the executable of this process as a bundle. Returns `None` if it is a qus without members.
    ///
    /// # Errors
    /// The length of the file differs from the length in its seal, or the bundle is damaged in another way.
    pub fn own() -> Result<Option<Self>, BundleError> {
        let length = seal_length(std::hint::black_box(&SEAL));
        if length == 0 {
            return Ok(None);
        }
        Self::of_length(Path::new(OWN), length)
    }

    /// Opens the bundle at `path`. It is damaged if its file does not have `written` bytes, its length when it was
    /// created.
    fn of_length(path: &Path, written: u64) -> Result<Option<Self>, BundleError> {
        let io = |source| BundleError::Io { operation: "open", source };
        let length = File::open(path).and_then(|file| file.metadata()).map_err(io)?.len();
        if length != written {
            return Err(BundleError::Length { length, written });
        }
        match Self::open(path)? {
            Some(bundle) => Ok(Some(bundle)),
            None => Err(BundleError::Damaged("its end was changed")),
        }
    }

    /// Opens the bundle at `path`. Returns `None` if the file is not a bundle.
    pub fn open(path: &Path) -> Result<Option<Self>, BundleError> {
        let io = |source| BundleError::Io { operation: "open", source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let Some(trailer_at) = length.checked_sub(TRAILER as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, trailer_at).map_err(io)?;
        let Some(fields) = trailer.strip_prefix(MAGIC) else { return Ok(None) };
        let number = |at: usize| {
            let bytes = fields.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(u64::MAX, u64::from_le_bytes)
        };
        let (index_at, index_length) = (number(0), number(8));
        if index_length > INDEX_MAX || index_at.checked_add(index_length) != Some(trailer_at) {
            return Err(BundleError::Damaged("its index is at a wrong position"));
        }
        let mut index = vec![0; usize::try_from(index_length).unwrap_or(0)];
        file.read_exact_at(&mut index, index_at).map_err(io)?;
        if fields.get(16..) != Some(sha2::Sha256::digest(&index).as_slice()) {
            return Err(BundleError::Damaged("its index was changed"));
        }
        let index: Index =
            serde_json::from_slice(&index).map_err(|_| BundleError::Damaged("its index cannot be read"))?;
        if index.format != FORMAT {
            return Err(BundleError::Damaged("it was written by a later version"));
        }
        let fits = |member: &Member| {
            member.size <= MEMBER_MAX
                && member.offset.checked_add(member.packed).is_some_and(|end| end <= index_at)
        };
        if !index.members.iter().all(fits) {
            return Err(BundleError::Damaged("a member is at a wrong position"));
        }
        Ok(Some(Self { file, members: index.members }))
    }

    /// Returns all members of the bundle.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the member with the file name `name`.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Returns the uncompressed content of a member, after it was compared with the member's SHA-256.
    pub fn unpack(&self, member: &Member) -> Result<Vec<u8>, BundleError> {
        let mut content = Vec::with_capacity(usize::try_from(member.size).unwrap_or(0));
        self.unpack_to(member, |part| {
            content.extend_from_slice(part);
            Ok::<_, BundleError>(())
        })?;
        Ok(content)
    }

    /// Unpacks a member and passes its content to `take`, one part per call. An error from `take` ends the unpacking.
    ///
    /// # Errors
    /// The member is damaged. Its SHA-256 is checked only at the end, so the caller must then discard all parts.
    pub fn unpack_to<E: From<BundleError>>(
        &self,
        member: &Member,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let damaged = || BundleError::Member(member.name.clone());
        let packed = Window { file: &self.file, position: member.offset, remaining: member.packed };
        let packed = BufReader::with_capacity(PART, packed);
        let mut unpacked = xz::single_stream(packed, UNPACK_KIB).take(member.size + 1);
        let (mut part, mut size, mut digest) = (vec![0; PART], 0, sha2::Sha256::new());
        loop {
            let length = unpacked.read(&mut part).map_err(|_| damaged())?;
            let Some(part) = part.get(..length).filter(|part| !part.is_empty()) else { break };
            size += length as u64;
            digest.update(part);
            take(part)?;
        }
        let is_whole = size == member.size && Sha256::finish(digest) == member.sha256;
        if is_whole { Ok(()) } else { Err(damaged().into()) }
    }

    /// Returns the offset in the bundle's file at which the executable ends and the members begin.
    fn executable_end(&self) -> u64 {
        let first = self.members.iter().map(|member| member.offset).min();
        first.unwrap_or_else(|| self.file.metadata().map_or(0, |metadata| metadata.len()))
    }
}

/// Reader for a range of bytes of a file.
struct Window<'a> {
    file: &'a File,
    position: u64,
    remaining: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.position)?;
        self.position += count as u64;
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// Member that is to be written into a new bundle.
#[derive(Debug)]
pub struct Content {
    /// File name of the member in the bundle.
    pub name: String,
    /// QEMU version of the interpreter; `None` for a text file.
    pub version: Option<String>,
    /// Uncompressed content of the member.
    pub bytes: Vec<u8>,
}

/// Returns the length of the whole bundle that the bytes `seal` contain.
fn seal_length(seal: &[u8]) -> u64 {
    let bytes = seal.get(SEAL_MARKER_LEN..SEAL_MARKER_LEN + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// Writes a bundle of `contents` to `output`: a copy of this process's executable (without the members that it may
/// have), then the new members. The members are compressed in parallel and sorted by name. After the compression of
/// each member, `on_packed` is called with the uncompressed size in bytes.
///
/// # Errors
/// The executable of this process is dynamically linked or damaged, or `output` cannot be written.
pub fn write(
    contents: Vec<Content>,
    output: &mut dyn Write,
    on_packed: &(dyn Fn(u64) + Sync),
) -> Result<(), BundleError> {
    check_own()?;
    write_with(Path::new(OWN), Bundle::own()?.as_ref(), contents, output, on_packed)
}

/// Checks that the executable of this process is statically linked, so that copies of it run on other machines and in
/// containers.
pub fn check_own() -> Result<(), BundleError> {
    let file = File::open(OWN).map_err(|source| BundleError::Io { operation: "read", source })?;
    check_static(&file)
}

fn check_static(file: &File) -> Result<(), BundleError> {
    let executable = Executable::read(file).map_err(|_| BundleError::NoSeal(OWN.into()))?;
    let loader = executable.loader.map(|loader| BundleError::Dynamic(loader.escape_ascii().to_string()));
    loader.map_or(Ok(()), Err)
}

/// Writes a bundle that begins with the executable at `path`. If this executable is itself a bundle, `own` is that
/// bundle, and its members are left out.
fn write_with(
    path: &Path,
    own: Option<&Bundle>,
    mut contents: Vec<Content>,
    output: &mut dyn Write,
    on_packed: &(dyn Fn(u64) + Sync),
) -> Result<(), BundleError> {
    let io = |operation| move |source| BundleError::Io { operation, source };
    order::sort_by(&mut contents, |one, two| one.name.cmp(&two.name));
    let packed = parallel::map(&contents, |content| {
        let packed = pack(&content.bytes);
        on_packed(content.bytes.len() as u64);
        packed
    });
    let packed = packed.into_iter().collect::<io::Result<Vec<_>>>().map_err(io("pack"))?;

    let file = File::open(path).map_err(io("read"))?;
    let length = match own {
        Some(bundle) => bundle.executable_end(),
        None => file.metadata().map_err(io("read"))?.len(),
    };
    let mut executable = Vec::new();
    file.take(length).read_to_end(&mut executable).map_err(io("read"))?;
    let end = index_and_trailer(executable.len() as u64, contents, &packed)?;
    let written = [executable.len(), packed.iter().map(Vec::len).sum(), end.len()];
    seal(&mut executable, path, written.iter().map(|length| *length as u64).sum())?;
    for part in [&executable].into_iter().chain(&packed).chain([&end]) {
        output.write_all(part).map_err(io("write"))?;
    }
    output.flush().map_err(io("write"))
}

/// Returns the last two parts of a bundle, the index and the trailer. The first member starts at offset `position`.
fn index_and_trailer(
    mut position: u64,
    contents: Vec<Content>,
    packed: &[Vec<u8>],
) -> Result<Vec<u8>, BundleError> {
    let mut members = Vec::new();
    for (content, packed) in contents.into_iter().zip(packed) {
        let (size, sha256) = (content.bytes.len() as u64, Sha256::of_bytes(&content.bytes));
        let Content { name, version, .. } = content;
        members.push(Member { name, version, sha256, size, offset: position, packed: packed.len() as u64 });
        position += packed.len() as u64;
    }
    let index = serde_json::to_vec(&Index { format: FORMAT, members })
        .map_err(|error| BundleError::Io { operation: "write", source: error.into() })?;
    let numbers = [position, index.len() as u64].map(u64::to_le_bytes).concat();
    let digest = sha2::Sha256::digest(&index);
    Ok([index.as_slice(), MAGIC, &numbers, &digest].concat())
}

/// Stores `length`, the length of the whole bundle, in the seal of `executable`. `path` is for the error message.
fn seal(executable: &mut [u8], path: &Path, length: u64) -> Result<(), BundleError> {
    let marker = std::hint::black_box(&SEAL).get(..SEAL_MARKER_LEN).unwrap_or_default();
    let positions: Vec<usize> = memchr::memmem::find_iter(executable, marker).collect();
    let [position] = positions.as_slice() else { return Err(BundleError::NoSeal(path.to_owned())) };
    let bytes = executable.get_mut(position + SEAL_MARKER_LEN..position + SEAL_MARKER_LEN + 8);
    bytes.ok_or_else(|| BundleError::NoSeal(path.to_owned()))?.copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut options = XzOptions::with_preset(PRESET);
    // The index has an SHA-256 of every member. Another checksum in the stream would cost a fifth of the unpacking
    // time.
    options.set_check_sum_type(CheckType::None);
    let mut writer = XzWriter::new(Vec::new(), options)?;
    writer.write_all(bytes)?;
    writer.finish()
}

/// Opens the executable of this process as a bundle. Returns `None` if it is a qus without members.
pub(crate) fn own_bundle() -> Result<Option<Bundle>, Diagnostic> {
    Ok(Bundle::own()?)
}

/// Unpacks interpreters from this process's executable into a temporary directory: those whose architecture `requested`
/// selects. Returns `None` if the executable is not a bundle.
pub(crate) fn unpack_bundle(
    requested: impl Fn(&'static Arch) -> bool,
) -> Result<Option<TempDir>, Diagnostic> {
    let Some(bundle) = own_bundle()? else { return Ok(None) };
    let directory = TempDir::create(true).map_err(|reasons| {
        Diagnostic::new(format!("cannot unpack the bundle: no directory can be used ({reasons})"))
    })?;
    for member in bundle.members() {
        if !arch_from_file_name(member.name.as_bytes()).is_some_and(&requested) {
            continue;
        }
        let path = directory.path().join(&member.name);
        let failed = |error| Diagnostic::new(format!("cannot write {}: {error}", path.display()));
        std::fs::write(&path, bundle.unpack(member)?).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(Some(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents() -> Vec<Content> {
        let content = |name: &str, bytes: &[u8]| Content {
            name: name.to_owned(),
            version: Some("1.2.3".to_owned()),
            bytes: bytes.to_vec(),
        };
        vec![content("two", &[7; 5000]), content("one", b"content of one")]
    }

    fn bundle(directory: &Path) -> (std::path::PathBuf, Vec<u8>) {
        let executable = directory.join("qus");
        std::fs::write(&executable, [b"an executable".as_slice(), &SEAL].concat()).unwrap();
        let mut bytes = Vec::new();
        write_with(&executable, None, contents(), &mut bytes, &|_| ()).unwrap();
        let path = directory.join("bundle");
        std::fs::write(&path, &bytes).unwrap();
        (path, bytes)
    }

    #[test]
    fn unpacking_returns_the_packed_content() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = bundle(directory.path());
        let bundle = Bundle::open(&path).unwrap().unwrap();
        let names: Vec<&str> = bundle.members().iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(bundle.unpack(bundle.member("one").unwrap()).unwrap(), b"content of one");
        assert_eq!(bundle.unpack(bundle.member("two").unwrap()).unwrap(), [7; 5000]);
        assert!(bytes.starts_with(b"an executable"));
        // A qus that is a bundle writes the same bundle, without its own members.
        let mut again = Vec::new();
        let own = Bundle::open(&path).unwrap();
        write_with(&path, own.as_ref(), contents(), &mut again, &|_| ()).unwrap();
        assert_eq!(again, bytes);
    }

    #[test]
    fn an_error_of_the_receiver_stops_the_unpacking() {
        let directory = tempfile::tempdir().unwrap();
        let executable = directory.path().join("qus");
        std::fs::write(&executable, [b"an executable".as_slice(), &SEAL].concat()).unwrap();
        let large = Content { name: "large".to_owned(), version: None, bytes: vec![7; 4 * PART] };
        let mut bytes = Vec::new();
        write_with(&executable, None, vec![large], &mut bytes, &|_| ()).unwrap();
        let path = directory.path().join("bundle");
        std::fs::write(&path, &bytes).unwrap();
        let bundle = Bundle::open(&path).unwrap().unwrap();
        let member = bundle.member("large").unwrap();
        let mut taken = 0;
        let full = BundleError::Io { operation: "store", source: io::ErrorKind::StorageFull.into() };
        let mut full = Some(full);
        let stopped = bundle.unpack_to(member, |part| {
            taken += part.len();
            if taken > PART { Err(full.take().unwrap()) } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(BundleError::Io { operation: "store", .. })), "{stopped:?}");
        assert!(taken < 4 * PART, "{taken}");
        assert_eq!(bundle.unpack(member).unwrap(), vec![7; 4 * PART]);
    }

    #[test]
    fn a_file_without_a_trailer_is_no_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for content in [&b""[..], b"short", &[0; 1000]] {
            std::fs::write(&path, content).unwrap();
            assert!(Bundle::open(&path).unwrap().is_none());
        }
    }

    #[test]
    fn a_truncated_or_extended_bundle_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = bundle(directory.path());
        let location = memchr::memmem::find(&bytes, &SEAL[..SEAL_MARKER_LEN]).unwrap();
        let written = seal_length(&bytes[location..]);
        assert_eq!(written, bytes.len() as u64);
        assert!(Bundle::of_length(&path, written).unwrap().is_some());
        for length in (0..bytes.len()).step_by(7) {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = Bundle::of_length(&path, written).unwrap_err().to_string();
            assert_eq!(error, format!("the bundle is damaged: it has {length} bytes instead of {written}"));
        }
        std::fs::write(&path, [&bytes, &b"signature"[..]].concat()).unwrap();
        assert!(matches!(Bundle::of_length(&path, written), Err(BundleError::Length { .. })));
        let zeros = [&bytes[..bytes.len() - TRAILER], &[0; TRAILER]].concat();
        std::fs::write(&path, zeros).unwrap();
        assert!(matches!(Bundle::of_length(&path, written), Err(BundleError::Damaged(_))));
    }

    #[test]
    fn an_executable_without_a_seal_cannot_become_a_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let executable = directory.path().join("other");
        for content in [b"an executable".to_vec(), [SEAL, SEAL].concat()] {
            std::fs::write(&executable, content).unwrap();
            let written = write_with(&executable, None, contents(), &mut Vec::new(), &|_| ());
            assert!(matches!(written, Err(BundleError::NoSeal(_))), "{written:?}");
        }
    }

    #[test]
    fn a_dynamic_executable_is_refused() {
        let file = File::open("/bin/sh").unwrap();
        let error = check_static(&file).unwrap_err().to_string();
        assert!(error.starts_with("this qus is dynamically linked (needs /"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn damage_is_found(at in 13_usize..400, bit in 0_u8..8, cut in any::<bool>()) {
            let directory = tempfile::tempdir().unwrap();
            let (path, mut bytes) = bundle(directory.path());
            let at = at.min(bytes.len() - 1);
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(Some(bundle)) = Bundle::open(&path) {
                for member in bundle.members() {
                    if let Ok(content) = bundle.unpack(member) {
                        let requested = contents().into_iter().find(|content| content.name == member.name);
                        prop_assert_eq!(content, requested.unwrap().bytes);
                    }
                }
            }
        }
    }
}
