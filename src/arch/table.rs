//! [`ARCHES`]: the table of architectures.

use goblin::elf::header::{
    EM_68K, EM_386, EM_AARCH64, EM_ALTERA_NIOS2, EM_ARM, EM_CRIS, EM_IAMCU, EM_LOONGARCH, EM_MICROBLAZE,
    EM_MIPS, EM_OPENRISC, EM_PARISC, EM_PPC, EM_PPC64, EM_QDSP6, EM_RISCV, EM_S390, EM_SH, EM_SPARC,
    EM_SPARC32PLUS, EM_SPARCV9, EM_X86_64, EM_XTENSA,
};

use super::ByteOrder::{Big, Little};
use super::{Arch, ByteOrder, Class, EF_MIPS_ABI2, EM_ALPHA, EM_MICROBLAZE_OLD, FlagBits, Identity, Names};

/// Requires that the bit `EF_MIPS_ABI2` is zero, as in o32 programs. `qemu-mips` does not check the bit, and crashes on
/// an n32 program.
const O32: FlagBits = FlagBits { mask: EF_MIPS_ABI2, value: 0 };
/// Requires that the bit `EF_MIPS_ABI2` is set, as in n32 programs. `qemu-mipsn32` refuses a program without the bit.
const N32: FlagBits = FlagBits { mask: EF_MIPS_ABI2, value: EF_MIPS_ABI2 };

const fn elf32(order: ByteOrder, machines: &'static [u16]) -> Identity {
    Identity { class: Class::Elf32, order, machines, abi: None }
}

const fn elf64(order: ByteOrder, machines: &'static [u16]) -> Identity {
    Identity { class: Class::Elf64, order, machines, abi: None }
}

/// Returns the identity of a 32-bit MIPS architecture. Machine number, class and byte order do not distinguish o32 from
/// n32, so the bits in `abi` are compared too.
const fn mips32(order: ByteOrder, abi: FlagBits) -> Identity {
    Identity { class: Class::Elf32, order, machines: &[EM_MIPS], abi: Some(abi) }
}

/// Table of all architectures, sorted by name: every linux-user target of QEMU 11, and `cris` and `nios2`, which only
/// older versions of QEMU have.
///
/// x32, aarch64 with 32-bit pointers, big-endian RISC-V, little-endian 32-bit PowerPC, 31-bit s390 and nanoMIPS are
/// missing, because QEMU has no linux-user target for them.
pub static ARCHES: &[Arch] = &[
    Arch {
        name: "aarch64",
        description: "64-bit Arm, little-endian",
        identity: elf64(Little, &[EM_AARCH64]),
        names: Names {
            uname: &["aarch64"],
            debian: &["arm64"],
            rpm: &["aarch64"],
            alpine: &["aarch64"],
            platforms: &["linux/arm64", "linux/arm64/v8", "linux/arm64/v9"],
            goarch: &["arm64"],
            triples: &["aarch64"],
            nix: &["aarch64-linux"],
            dbhi: &["arm64v8", "arm64", "armv8"],
        },
    },
    Arch {
        name: "aarch64_be",
        description: "64-bit Arm, big-endian",
        identity: elf64(Big, &[EM_AARCH64]),
        names: Names {
            uname: &["aarch64_be"],
            platforms: &["linux/arm64be"],
            goarch: &["arm64be"],
            triples: &["aarch64_be"],
            nix: &["aarch64_be-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "alpha",
        description: "64-bit Alpha, little-endian",
        identity: elf64(Little, &[EM_ALPHA]),
        names: Names {
            uname: &["alpha"],
            debian: &["alpha"],
            rpm: &["alpha"],
            triples: &["alpha"],
            nix: &["alpha-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "arm",
        description: "32-bit Arm, little-endian",
        identity: elf32(Little, &[EM_ARM]),
        names: Names {
            // `armv8l` is a 32-bit process on a 64-bit machine.
            uname: &["armv4l", "armv4tl", "armv5tl", "armv5tel", "armv5tejl", "armv6l", "armv7l", "armv8l"],
            debian: &["armel", "armhf"],
            rpm: &["armv5tel", "armv6hl", "armv7hl", "armv7hnl"],
            alpine: &["armhf", "armv7"],
            platforms: &["linux/arm", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8"],
            goarch: &["arm"],
            triples: &["arm", "armv4t", "armv5te", "armv6", "armv7", "armv7a", "thumbv7neon"],
            nix: &["armv6l-linux", "armv7l-linux"],
            dbhi: &[
                "arm32v5", "arm32v6", "arm32v7", "arm", "aarch32", "armv8l", "armv7", "armv7l", "armhf",
                "armel", "armv7hl",
            ],
        },
    },
    Arch {
        name: "armeb",
        description: "32-bit Arm, big-endian",
        identity: elf32(Big, &[EM_ARM]),
        names: Names {
            uname: &["armv4b", "armv4tb", "armv5tb", "armv5teb", "armv5tejb", "armv6b", "armv7b", "armv8b"],
            debian: &["armeb"],
            goarch: &["armbe"],
            triples: &["armeb"],
            ..Names::NONE
        },
    },
    // Removed in QEMU 9.2.
    Arch {
        name: "cris",
        description: "32-bit CRIS, little-endian",
        identity: elf32(Little, &[EM_CRIS]),
        names: Names { uname: &["cris"], ..Names::NONE },
    },
    // The identity leaves out the processor version in e_flags: QEMU's version determines which ones run.
    Arch {
        name: "hexagon",
        description: "32-bit Hexagon, little-endian",
        identity: elf32(Little, &[EM_QDSP6]),
        names: Names { uname: &["hexagon"], triples: &["hexagon"], ..Names::NONE },
    },
    Arch {
        name: "hppa",
        description: "32-bit PA-RISC, big-endian",
        identity: elf32(Big, &[EM_PARISC]),
        names: Names {
            uname: &["parisc"],
            debian: &["hppa"],
            rpm: &["hppa"],
            triples: &["hppa", "hppa1.1", "hppa2.0"],
            ..Names::NONE
        },
    },
    // Machine 6 was EM_486 and is now EM_IAMCU. QEMU accepts it, but no Linux toolchain writes it.
    Arch {
        name: "i386",
        description: "32-bit x86, little-endian",
        identity: elf32(Little, &[EM_386, EM_IAMCU]),
        names: Names {
            uname: &["i386", "i486", "i586", "i686"],
            debian: &["i386"],
            rpm: &["i386", "i486", "i586", "i686"],
            alpine: &["x86"],
            platforms: &["linux/386"],
            goarch: &["386"],
            triples: &["i386", "i486", "i586", "i686"],
            nix: &["i386-linux", "i486-linux", "i586-linux", "i686-linux"],
            dbhi: &["i386", "i686", "x86"],
        },
    },
    Arch {
        name: "loongarch64",
        description: "64-bit LoongArch, little-endian",
        identity: elf64(Little, &[EM_LOONGARCH]),
        names: Names {
            uname: &["loongarch64"],
            debian: &["loong64"],
            rpm: &["loongarch64"],
            alpine: &["loongarch64"],
            platforms: &["linux/loong64"],
            goarch: &["loong64"],
            triples: &["loongarch64"],
            nix: &["loongarch64-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "m68k",
        description: "32-bit Motorola 68000, big-endian",
        identity: elf32(Big, &[EM_68K]),
        names: Names {
            uname: &["m68k"],
            debian: &["m68k"],
            rpm: &["m68k"],
            triples: &["m68k"],
            ..Names::NONE
        },
    },
    // `uname -m` prints microblaze in both byte orders. Here the name means QEMU's big-endian target.
    Arch {
        name: "microblaze",
        description: "32-bit MicroBlaze, big-endian",
        identity: elf32(Big, &[EM_MICROBLAZE, EM_MICROBLAZE_OLD]),
        names: Names { uname: &["microblaze"], triples: &["microblaze"], ..Names::NONE },
    },
    Arch {
        name: "microblazeel",
        description: "32-bit MicroBlaze, little-endian",
        identity: elf32(Little, &[EM_MICROBLAZE, EM_MICROBLAZE_OLD]),
        names: Names { triples: &["microblazeel"], ..Names::NONE },
    },
    // `uname -m` prints mips in both byte orders, and dbhi/qus uses mips for little-endian. Here the name means QEMU's
    // big-endian target. The same applies to mips64, which `uname -m` also prints for n32.
    Arch {
        name: "mips",
        description: "32-bit MIPS (o32), big-endian",
        identity: mips32(Big, O32),
        names: Names {
            uname: &["mips"],
            debian: &["mips"],
            rpm: &["mips"],
            platforms: &["linux/mips"],
            goarch: &["mips"],
            triples: &["mips", "mipsisa32r6"],
            nix: &["mips-linux"],
            ..Names::NONE
        },
    },
    // qemu-mips64 refuses a program with EF_MIPS_ABI2, and no toolchain writes one. So the class is enough.
    Arch {
        name: "mips64",
        description: "64-bit MIPS (n64), big-endian",
        identity: elf64(Big, &[EM_MIPS]),
        names: Names {
            uname: &["mips64"],
            debian: &["mips64"],
            rpm: &["mips64"],
            platforms: &["linux/mips64"],
            goarch: &["mips64"],
            triples: &["mips64", "mipsisa64r6"],
            nix: &["mips64-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "mips64el",
        description: "64-bit MIPS (n64), little-endian",
        identity: elf64(Little, &[EM_MIPS]),
        names: Names {
            debian: &["mips64el"],
            rpm: &["mips64el"],
            platforms: &["linux/mips64le"],
            goarch: &["mips64le"],
            triples: &["mips64el", "mipsisa64r6el"],
            nix: &["mips64el-linux"],
            dbhi: &["mips64le", "mips64el"],
            ..Names::NONE
        },
    },
    Arch {
        name: "mipsel",
        description: "32-bit MIPS (o32), little-endian",
        identity: mips32(Little, O32),
        names: Names {
            debian: &["mipsel"],
            rpm: &["mipsel"],
            platforms: &["linux/mipsle"],
            goarch: &["mipsle"],
            triples: &["mipsel", "mipsisa32r6el"],
            nix: &["mipsel-linux"],
            dbhi: &["mipsle", "mipsel"],
            ..Names::NONE
        },
    },
    // A triple of n32 begins with mips64 and ends in abin32 (mips64-linux-gnuabin32). The lookup handles the ending.
    Arch {
        name: "mipsn32",
        description: "64-bit MIPS with 32-bit pointers (n32), big-endian",
        identity: mips32(Big, N32),
        names: Names {
            debian: &["mipsn32"],
            goarch: &["mips64p32"],
            nix: &["mips64-linuxabin32"],
            ..Names::NONE
        },
    },
    Arch {
        name: "mipsn32el",
        description: "64-bit MIPS with 32-bit pointers (n32), little-endian",
        identity: mips32(Little, N32),
        names: Names {
            debian: &["mipsn32el"],
            goarch: &["mips64p32le"],
            nix: &["mips64el-linuxabin32"],
            ..Names::NONE
        },
    },
    // Removed in QEMU 9.1.
    Arch {
        name: "nios2",
        description: "32-bit Nios II, little-endian",
        identity: elf32(Little, &[EM_ALTERA_NIOS2]),
        names: Names { uname: &["nios2"], ..Names::NONE },
    },
    Arch {
        name: "or1k",
        description: "32-bit OpenRISC 1000, big-endian",
        identity: elf32(Big, &[EM_OPENRISC]),
        names: Names { uname: &["openrisc"], debian: &["or1k"], triples: &["or1k"], ..Names::NONE },
    },
    Arch {
        name: "ppc",
        description: "32-bit PowerPC, big-endian",
        identity: elf32(Big, &[EM_PPC]),
        names: Names {
            uname: &["ppc"],
            debian: &["powerpc"],
            rpm: &["ppc"],
            goarch: &["ppc"],
            triples: &["powerpc"],
            nix: &["powerpc-linux"],
            ..Names::NONE
        },
    },
    // dbhi/qus uses ppc64 for little-endian. Here the name means QEMU's big-endian target.
    Arch {
        name: "ppc64",
        description: "64-bit PowerPC, big-endian",
        identity: elf64(Big, &[EM_PPC64]),
        names: Names {
            uname: &["ppc64"],
            debian: &["ppc64"],
            rpm: &["ppc64"],
            platforms: &["linux/ppc64"],
            goarch: &["ppc64"],
            triples: &["powerpc64"],
            nix: &["powerpc64-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "ppc64le",
        description: "64-bit PowerPC, little-endian",
        identity: elf64(Little, &[EM_PPC64]),
        names: Names {
            uname: &["ppc64le"],
            debian: &["ppc64el"],
            rpm: &["ppc64le"],
            alpine: &["ppc64le"],
            platforms: &["linux/ppc64le"],
            goarch: &["ppc64le"],
            triples: &["powerpc64le"],
            nix: &["powerpc64le-linux"],
            dbhi: &["ppc64le", "ppc64el", "power8"],
        },
    },
    // Go reserves `riscv` for 32 bits; Linux and most people use it for both widths. So it is not a name here.
    Arch {
        name: "riscv32",
        description: "32-bit RISC-V, little-endian",
        identity: elf32(Little, &[EM_RISCV]),
        names: Names {
            uname: &["riscv32"],
            triples: &["riscv32", "riscv32gc"],
            nix: &["riscv32-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "riscv64",
        description: "64-bit RISC-V, little-endian",
        identity: elf64(Little, &[EM_RISCV]),
        names: Names {
            uname: &["riscv64"],
            debian: &["riscv64"],
            rpm: &["riscv64"],
            alpine: &["riscv64"],
            platforms: &["linux/riscv64"],
            goarch: &["riscv64"],
            triples: &["riscv64", "riscv64gc", "riscv64a23"],
            nix: &["riscv64-linux"],
            ..Names::NONE
        },
    },
    Arch {
        name: "s390x",
        description: "64-bit IBM Z, big-endian",
        identity: elf64(Big, &[EM_S390]),
        names: Names {
            uname: &["s390x"],
            debian: &["s390x"],
            rpm: &["s390x"],
            alpine: &["s390x"],
            platforms: &["linux/s390x"],
            goarch: &["s390x"],
            triples: &["s390x"],
            nix: &["s390x-linux"],
            dbhi: &["s390x"],
        },
    },
    // `uname -m` prints sh4 or sh4a in both byte orders. Here sh4 means QEMU's little-endian target, and sh4a is not a
    // name.
    Arch {
        name: "sh4",
        description: "32-bit SuperH SH-4, little-endian",
        identity: elf32(Little, &[EM_SH]),
        names: Names { uname: &["sh4"], debian: &["sh4"], rpm: &["sh4"], triples: &["sh4"], ..Names::NONE },
    },
    Arch {
        name: "sh4eb",
        description: "32-bit SuperH SH-4, big-endian",
        identity: elf32(Big, &[EM_SH]),
        names: Names { triples: &["sh4eb"], ..Names::NONE },
    },
    Arch {
        name: "sparc",
        description: "32-bit SPARC, big-endian",
        identity: elf32(Big, &[EM_SPARC]),
        names: Names {
            uname: &["sparc"],
            debian: &["sparc"],
            rpm: &["sparc"],
            goarch: &["sparc"],
            triples: &["sparc"],
            ..Names::NONE
        },
    },
    // qemu-sparc32plus also accepts EM_SPARC, which belongs to sparc here, because no two patterns of the table match
    // the same file. sparc32plus has no other names: Debian's sparc is QEMU's sparc, `uname -m` prints sparc64, and
    // sparcv9 means sparc32plus for RPM but sparc64 for LLVM and the ELF specification.
    Arch {
        name: "sparc32plus",
        description: "32-bit SPARC V8+, big-endian",
        identity: elf32(Big, &[EM_SPARC32PLUS]),
        names: Names::NONE,
    },
    Arch {
        name: "sparc64",
        description: "64-bit SPARC, big-endian",
        identity: elf64(Big, &[EM_SPARCV9]),
        names: Names {
            uname: &["sparc64"],
            debian: &["sparc64"],
            rpm: &["sparc64"],
            goarch: &["sparc64"],
            triples: &["sparc64"],
            ..Names::NONE
        },
    },
    Arch {
        name: "x86_64",
        description: "64-bit x86, little-endian",
        identity: elf64(Little, &[EM_X86_64]),
        names: Names {
            uname: &["x86_64"],
            debian: &["amd64"],
            rpm: &["x86_64", "x86_64_v2", "x86_64_v3", "x86_64_v4"],
            alpine: &["x86_64"],
            platforms: &[
                "linux/amd64",
                "linux/amd64/v1",
                "linux/amd64/v2",
                "linux/amd64/v3",
                "linux/amd64/v4",
            ],
            goarch: &["amd64"],
            triples: &["x86_64"],
            nix: &["x86_64-linux"],
            dbhi: &["amd64", "x86-64"],
        },
    },
    // `uname -m` prints xtensa in both byte orders. Here the name means QEMU's little-endian target.
    Arch {
        name: "xtensa",
        description: "32-bit Xtensa, little-endian",
        identity: elf32(Little, &[EM_XTENSA]),
        names: Names { uname: &["xtensa"], triples: &["xtensa"], ..Names::NONE },
    },
    Arch {
        name: "xtensaeb",
        description: "32-bit Xtensa, big-endian",
        identity: elf32(Big, &[EM_XTENSA]),
        names: Names::NONE,
    },
];
