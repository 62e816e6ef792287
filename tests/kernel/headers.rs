//! ELF headers as toolchains and packers write them. All such programs run. The kernel refuses programs that no
//! emulator supports.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use qus::arch::{ARCHES, Arch};
use qus::probe::{ProbeTarget, STATUS_ARGV0, Variant, image};

use crate::downloads;
use crate::lab::Lab;
use crate::programs::{E_MACHINE, ET_DYN, arch, execute, probe};

const EM_MIPS: u16 = 8;
/// Offsets in every ELF header.
const EI_VERSION: usize = 6;
const E_TYPE: usize = 16;

kernel_test!(headers_with_the_distribution);
fn headers_with_the_distribution(lab: &Lab) {
    headers(lab, &downloads::distribution());
}

kernel_test!(headers_with_a_newer_qemu);
fn headers_with_a_newer_qemu(lab: &Lab) {
    headers(lab, &downloads::newer());
}

fn headers(lab: &Lab, directory: &Path) {
    lab.done(["register", "--interpreter-dir", directory.to_str().unwrap(), "all"]);
    let entries = lab.entries();
    let served: Vec<&'static Arch> =
        ARCHES.iter().filter(|arch| entries.contains_key(&format!("qemu-{}", arch.name))).collect();
    let interpreters = downloads::interpreters(directory);
    for name in interpreters.keys().filter(|name| !matches!(name.as_str(), "i386" | "x86_64")) {
        assert!(served.iter().any(|arch| arch.name == name), "{name} among {served:?}");
    }
    for name in ["microblaze", "microblazeel", "mips", "mips64", "mipsn32", "mipsel", "mips64el", "mipsn32el"]
    {
        assert!(served.contains(&arch(name)), "{name}");
    }
    let good = served.iter().flat_map(|arch| variants(arch));
    let bad = served.iter().flat_map(|arch| damaged(arch)).chain(elsewhere());
    let programs: Vec<_> = good
        .map(|(what, image)| (what, image, Ok(STATUS_ARGV0)))
        .chain(bad.map(|(what, image)| (what, image, Err(Errno::ENOEXEC))))
        .enumerate()
        .map(|(index, (what, image, expected))| {
            (what, lab.executable(&format!("h{index}"), &image), expected)
        })
        .collect();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while let Some((what, path, expected)) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = execute(path);
                    if outcome != *expected {
                        wrong.lock().unwrap().push(format!("{what}: {outcome:?}, not {expected:?}"));
                    }
                }
            });
        }
    });
    assert!(programs.len() > served.len() * 20);
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), programs.len(), wrong.join("\n"));
}

/// Returns programs of `arch`, under each of its machine numbers, that have to run.
fn variants(arch: &'static Arch) -> Vec<(String, Vec<u8>)> {
    let usual = Variant::default();
    let dynamic = Variant { e_type: ET_DYN, ..usual };
    let mut variants = vec![usual, dynamic];
    variants.extend([3, 65, 97].map(|os_abi| Variant { os_abi, ..usual }));
    variants.push(Variant { os_abi: 3, ..dynamic });
    variants.extend([usual, dynamic].map(|variant| Variant { abi_version: *b"AI\x02", ..variant }));
    if arch.identity.machines.contains(&EM_MIPS) {
        variants.extend((1..=5).map(|version| Variant { abi_version: [version, 0, 0], ..usual }));
        variants.extend((0..=5).map(|version| Variant {
            os_abi: 3,
            abi_version: [version, 0, 0],
            ..dynamic
        }));
    }
    let machines = ProbeTarget::all_of(arch).map(|subject| subject.machine);
    let build = |machine| {
        let name = format!("{} with machine {machine:#x}", arch.name);
        variants
            .iter()
            .map(move |variant| (format!("{name} and {variant:?}"), image(arch, machine, *variant)))
    };
    machines.flat_map(build).collect()
}

/// Returns programs of `arch` with an invalid value in the header. No handler takes them.
fn damaged(arch: &'static Arch) -> Vec<(String, Vec<u8>)> {
    let order = arch.identity.order;
    let mut damaged = Vec::new();
    let mut damage = |what: String, offset: usize, bytes: &[u8]| {
        let mut image = probe(arch);
        image.splice(offset..offset + bytes.len(), bytes.iter().copied());
        if Arch::from_header(&image).is_none() {
            damaged.push((format!("{} with {what}", arch.name), image));
        }
    };
    damage("EI_VERSION 0".to_owned(), EI_VERSION, &[0]);
    damage("EI_VERSION 2".to_owned(), EI_VERSION, &[2]);
    for (name, e_type) in [("ET_NONE", 0), ("ET_REL", 1), ("ET_CORE", 4)] {
        damage(name.to_owned(), E_TYPE, &order.half(e_type));
    }
    for bit in 0..16 {
        let machine = arch.identity.machines[0] ^ 1 << bit;
        damage(format!("machine {machine:#x}"), E_MACHINE, &order.half(machine));
    }
    damaged
}

/// Returns programs of architectures that QEMU does not emulate, with headers similar to those of others.
fn elsewhere() -> Vec<(String, Vec<u8>)> {
    let others = [
        ("x32", "i386", 62),
        ("nanoMIPS", "mipsel", 249),
        ("big-endian nanoMIPS", "mips", 249),
        ("0x0115, little-endian", "ppc64le", 0x0115),
        ("0x0115, big-endian", "ppc64", 0x0115),
        ("31-bit s390", "ppc", 22),
        ("aarch64 with 32-bit pointers", "arm", 183),
        ("big-endian RISC-V", "s390x", 243),
    ];
    let build = |(what, like, machine): (&str, &str, u16)| {
        let mut image = probe(arch(like));
        image.splice(E_MACHINE..E_MACHINE + 2, arch(like).identity.order.half(machine));
        assert_eq!(Arch::from_header(&image), None, "{what}");
        (what.to_owned(), image)
    };
    others.into_iter().map(build).collect()
}
