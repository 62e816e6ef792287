//! Programs made for a test, for this host's architecture and for others.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use qus::arch::{Arch, Class};
use qus::binfmt::HEADER_LEN;
use qus::probe::{ProbeTarget, Variant, image};

use crate::namespace::emulated_on;
use crate::starter::start;

/// `e_type` of a position-independent program.
pub(crate) const ET_DYN: u16 = 3;
/// Offset of `e_machine` in every ELF header.
pub(crate) const E_MACHINE: usize = 18;

/// Returns the architecture of this host: the one whose programs its kernel runs.
pub(crate) fn host() -> &'static Arch {
    static HOST: OnceLock<&Arch> = OnceLock::new();
    HOST.get_or_init(|| {
        if let Some(name) = emulated_on() {
            return arch(&name);
        }
        let mut header = [0; HEADER_LEN];
        File::open("/proc/self/exe").unwrap().read_exact(&mut header).unwrap();
        Arch::from_header(&header).expect("a row of the table for this host")
    })
}

/// Returns the architecture that QEMU calls `name`.
pub(crate) fn arch(name: &str) -> &'static Arch {
    Arch::from_qemu_target(name).unwrap()
}

/// Returns a program of `arch` that ends with the first byte of its `argv[0]`.
pub(crate) fn probe(arch: &'static Arch) -> Vec<u8> {
    ProbeTarget::all_of(arch).next().unwrap().image()
}

/// Returns a static program of this host that a signal ends. Its code is zeros, which no processor can execute further.
pub(crate) fn crashing() -> Vec<u8> {
    let mut program = probe(host());
    let code = program.len() - host().probe_code().unwrap().code.len();
    program[code..].fill(0);
    program
}

/// Returns a static program of this host that runs for ever. Returns `None` if the test has no code for this host.
pub(crate) fn hanging() -> Option<Vec<u8>> {
    // A jump to itself.
    let jump: &[u8] = match host().name {
        "x86_64" | "i386" => &[0xeb, 0xfe],
        "aarch64" => &[0, 0, 0, 0x14],
        "arm" => &[0xfe, 0xff, 0xff, 0xea],
        "riscv64" => &[0x6f, 0, 0, 0],
        "ppc64le" => &[0, 0, 0, 0x48],
        "s390x" => &[0xa7, 0xf4, 0, 0],
        "loongarch64" => &[0, 0, 0, 0x50],
        _ => return None,
    };
    let mut program = probe(host());
    let code = program.len() - host().probe_code().unwrap().code.len();
    program[code..code + jump.len()].copy_from_slice(jump);
    Some(program)
}

/// Returns a program of this host that needs a loader: the kernel starts `loader` instead.
pub(crate) fn dynamic(loader: &Path) -> Vec<u8> {
    let mut program = probe(host());
    let (class, order) = (host().identity.class, host().identity.order);
    let [header_size, entry_size, _] = class.header_sizes().map(usize::from);
    let load = program[header_size..header_size + entry_size].to_vec();
    let path = [loader.as_os_str().as_bytes(), b"\0"].concat();
    let wide = |value: usize| match class {
        Class::Elf64 => order.xword(value as u64).to_vec(),
        Class::Elf32 => order.word(u32::try_from(value).unwrap()).to_vec(),
    };
    // The program headers move to the end, a second one next to the first; the path of the loader comes last.
    program.resize(program.len().next_multiple_of(8), 0);
    let table = program.len();
    let [offset, address, size, alignment] = [table + 2 * entry_size, 0, path.len(), 1].map(wide);
    let (kind, flags) = (order.word(3).to_vec(), order.word(4).to_vec());
    let interp = match class {
        Class::Elf64 => [kind, flags, offset, address.clone(), address, size.clone(), size, alignment],
        Class::Elf32 => [kind, offset, address.clone(), address, size.clone(), size, flags, alignment],
    };
    program.extend([load, interp.concat(), path].concat());
    let address_size = wide(0).len();
    let e_phoff = 24 + address_size;
    program.splice(e_phoff..e_phoff + address_size, wide(table));
    let e_phnum = class.flags_offset() + 8;
    program.splice(e_phnum..e_phnum + 2, order.half(2));
    program
}

/// Returns a loader for [`dynamic`] that ends with the first byte of its `argv[0]`.
pub(crate) fn loader() -> Vec<u8> {
    let variant = Variant { e_type: ET_DYN, ..Variant::default() };
    image(host(), host().identity.machines[0], variant)
}

/// Starts the file at `path` as `*`, and returns its exit status, or the errno of `execve(2)`.
pub(crate) fn execute(path: &Path) -> Result<i32, Errno> {
    let status = start(path, OsStr::new("*"))?;
    Ok(status.unwrap_or_else(|| panic!("a signal ended {}", path.display())))
}
