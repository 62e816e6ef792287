//! Determines which level of x86-64 programs get here: from the processor, or from an emulator.

use super::image::with_code;
use super::launch::{ProbeError, run_on_host};
use super::{End, Variant};
use crate::arch::{Arch, ProbeCode};

/// Exit status of the program for level 1. The status of each higher level is one more.
const FIRST_STATUS: i32 = 41;

/// Program whose exit status names the highest level that the processor has, up to level 3 (System V ABI, x86-64
/// supplement, §3.1.1).
#[rustfmt::skip]
const CODE: ProbeCode = ProbeCode {
    arch: "x86_64",
    e_flags: 0,
    code: &[
        0xb8, 1, 0, 0, 0, 0x0f, 0xa2,       // mov eax, 1; cpuid
        0x89, 0xce,                         // mov esi, ecx
        0xb8, 1, 0, 0, 0x80, 0x0f, 0xa2,    // mov eax, 0x80000001; cpuid
        0x41, 0x89, 0xc8,                   // mov r8d, ecx
        0xb8, 7, 0, 0, 0, 0x31, 0xc9,       // mov eax, 7; xor ecx, ecx
        0x0f, 0xa2,                         // cpuid
        0xbf, 41, 0, 0, 0,                  // mov edi, 41
        // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT
        0x89, 0xf0,                         // mov eax, esi
        0x25, 0x01, 0x22, 0x98, 0,          // and eax, 0x982201
        0x3d, 0x01, 0x22, 0x98, 0,          // cmp eax, 0x982201
        0x75, 0x39,                         // jne end
        0x41, 0xf6, 0xc0, 0x01, 0x74, 0x33, // test r8b, LAHF; je end
        0xff, 0xc7,                         // inc edi
        // FMA, MOVBE, OSXSAVE, AVX, F16C
        0x81, 0xe6, 0, 0x10, 0x40, 0x38,    // and esi, 0x38401000
        0x81, 0xfe, 0, 0x10, 0x40, 0x38,    // cmp esi, 0x38401000
        0x75, 0x23,                         // jne end
        0x41, 0xf6, 0xc0, 0x20, 0x74, 0x1d, // test r8b, LZCNT; je end
        // BMI1, AVX2, BMI2
        0x81, 0xe3, 0x28, 0x01, 0, 0,       // and ebx, 0x128
        0x81, 0xfb, 0x28, 0x01, 0, 0,       // cmp ebx, 0x128
        0x75, 0x0f,                         // jne end
        // The kernel saves the registers of AVX.
        0x31, 0xc9, 0x0f, 0x01, 0xd0,       // xor ecx, ecx; xgetbv
        0x83, 0xe0, 6, 0x83, 0xf8, 6,       // and eax, 6; cmp eax, 6
        0x75, 0x02,                         // jne end
        0xff, 0xc7,                         // inc edi
        0xb8, 60, 0, 0, 0, 0x0f, 0x05,      // end: mov eax, 60; syscall
    ],
};

/// Executes a program of x86-64 that tells the highest level it can use: 1, 2 or 3. Returns `None` if the program does
/// not run here.
///
/// # Errors
/// No program could be executed.
pub fn x86_64_level() -> Result<Option<u8>, ProbeError> {
    let Some(arch) = Arch::from_qemu_target(CODE.arch) else { return Ok(None) };
    let Some(&machine) = arch.identity.machines.first() else { return Ok(None) };
    let outcomes = run_on_host(vec![with_code(arch, machine, Variant::default(), &CODE)])?;
    let level = outcomes.first().and_then(|outcome| match outcome.end {
        End::Exited(status) => u8::try_from(status.checked_sub(FIRST_STATUS)? + 1).ok(),
        _ => None,
    });
    Ok(level.filter(|level| (1..=3).contains(level)))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::is_x86_feature_detected as has;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_level_is_that_of_the_processor() {
        let second = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
        let third = second && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma");
        let third = third && has!("lzcnt") && has!("movbe");
        let arch = Arch::from_qemu_target("x86_64").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("level");
        fs::write(&path, with_code(arch, arch.identity.machines[0], Variant::default(), &CODE)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Another test may have forked while the file was open for writing; `execve(2)` then fails with ETXTBSY.
        let status = loop {
            match Command::new(&path).status() {
                Err(error) if error.raw_os_error() == Some(nix::libc::ETXTBSY) => {}
                ended => break ended.unwrap(),
            }
        };
        assert_eq!(status.code(), Some(FIRST_STATUS + i32::from(second) + i32::from(third)));
    }
}
