//! Tests of the architecture names: each name is found, no name means two architectures, and a misspelled name gets a
//! good suggestion.

use std::collections::BTreeMap;

use crate::arch::{ARCHES, Arch, UnknownArch};

fn row(query: &str) -> Option<&'static str> {
    Arch::named(query).ok().map(|arch| arch.name)
}

/// Each QEMU target, and its names in the sources that [`Names`](crate::arch::Names) lists. A name on which two sources
/// disagree is left out.
#[rustfmt::skip]
const SOURCES: &[(&str, &str)] = &[
    ("aarch64", "linux/arm64 arm64 aarch64 aarch64-linux arm64v8 armv8 ARMv8"),
    ("aarch64_be", "linux/arm64be arm64be aarch64_be aarch64_be-linux"),
    ("alpha", "alpha alpha-linux"),
    ("arm", "linux/arm/v5 linux/arm/v6 linux/arm/v7 arm armel armhf armv5tel armv6hl armv7hl armv7 armv4l armv5tl armv6l armv7l armv8l armv4t armv5te thumbv7neon armv6l-linux armv7l-linux arm32v5 arm32v6 arm32v7 aarch32"),
    ("armeb", "armbe armeb armv4b armv5tb armv6b armv7b"),
    ("cris", "cris"),
    ("hexagon", "hexagon"),
    ("hppa", "hppa parisc"),
    ("i386", "linux/386 386 i386 i486 i586 i686 x86 i386-linux"),
    ("loongarch64", "linux/loong64 loong64 loongarch64 loongarch64-linux"),
    ("m68k", "m68k"),
    ("microblaze", "microblaze"),
    ("microblazeel", ""),
    ("mips", "linux/mips mips mipsisa32r6 mips-linux"),
    ("mips64", "linux/mips64 mips64 mipsisa64r6 mips64-linux"),
    ("mips64el", "linux/mips64le mips64le mips64el mipsisa64r6el mips64el-linux"),
    ("mipsel", "linux/mipsle mipsle mipsel mipsisa32r6el mipsel-linux"),
    ("mipsn32", "mips64p32 mipsn32 mips64-linuxabin32"),
    ("mipsn32el", "mips64p32le mipsn32el mips64el-linuxabin32"),
    ("nios2", "nios2"),
    ("or1k", "or1k openrisc"),
    ("ppc", "ppc powerpc powerpc-linux"),
    ("ppc64", "linux/ppc64 ppc64 powerpc64 powerpc64-linux"),
    ("ppc64le", "linux/ppc64le ppc64le ppc64el powerpc64le powerpc64le-linux POWER8"),
    ("riscv32", "riscv32 riscv32gc riscv32-linux"),
    ("riscv64", "linux/riscv64 riscv64 riscv64gc riscv64a23 riscv64-linux"),
    ("s390x", "linux/s390x s390x s390x-linux"),
    ("sh4", "sh4"),
    ("sh4eb", ""),
    ("sparc", "sparc"),
    ("sparc32plus", ""),
    ("sparc64", "sparc64"),
    ("x86_64", "linux/amd64 amd64 x86_64 x86_64-linux x86-64 AMD64"),
    ("xtensa", "xtensa"),
    ("xtensaeb", ""),
];

#[test]
fn every_name_of_every_source_resolves() {
    assert!(SOURCES.iter().map(|&(target, _)| target).eq(ARCHES.iter().map(|arch| arch.name)));
    for (target, names) in SOURCES {
        for name in names.split_whitespace().chain([*target]) {
            assert_eq!(row(name), Some(*target), "{name}");
        }
    }
}

#[test]
fn every_name_in_the_table_resolves_to_its_row() {
    for arch in ARCHES {
        let names = arch.words().chain(arch.names.iter()).map(str::to_owned).chain(arch.handler_names());
        for name in names {
            assert_eq!(name, name.to_ascii_lowercase(), "{}", arch.name);
            assert_eq!(row(&name), Some(arch.name), "{name}");
            assert_eq!(row(&name.to_ascii_uppercase()), Some(arch.name), "{name}");
            assert_eq!(row(&format!("{name}-static")), Some(arch.name), "{name}");
        }
        for name in [format!("qemu-{}", arch.name), format!("linux/{}", arch.name)] {
            assert_eq!(row(&name), Some(arch.name), "{name}");
        }
    }
}

#[test]
fn no_name_means_two_rows() {
    let mut owners = BTreeMap::new();
    for arch in ARCHES {
        let handlers = arch.handler_names();
        let handlers = handlers.iter().filter_map(|handler| handler.strip_prefix("qemu-"));
        for word in arch.words().map(str::to_owned).chain(handlers.map(str::to_owned)) {
            let owner = *owners.entry(word.clone()).or_insert(arch.name);
            assert_eq!(owner, arch.name, "{word}");
        }
        for (kind, names) in arch.names.kinds() {
            let mut unique = names.to_vec();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{} {kind}", arch.name);
        }
    }
}

#[test]
fn a_contested_name_means_qemus_target_or_nothing() {
    let contested = [
        ("microblaze", Some("microblaze")),
        ("mips", Some("mips")),
        ("mips64", Some("mips64")),
        ("ppc64", Some("ppc64")),
        ("riscv", None),
        ("sh4", Some("sh4")),
        ("sh4a", None),
        ("sparc", Some("sparc")),
        ("sparc64", Some("sparc64")),
        ("sparcv9", None),
        ("xtensa", Some("xtensa")),
    ];
    for (name, target) in contested {
        assert_eq!(row(name), target, "{name}");
    }
}

#[test]
fn platforms_resolve_with_and_without_their_system() {
    for (platform, target) in [
        ("arm/v7", "arm"),
        ("linux/arm/v6", "arm"),
        ("arm64/v8", "aarch64"),
        ("Linux/AMD64/v3", "x86_64"),
        ("amd64/v1", "x86_64"),
        ("386", "i386"),
        ("linux/aarch64", "aarch64"),
    ] {
        assert_eq!(row(platform), Some(target), "{platform}");
    }
    for platform in ["windows/amd64", "linux/", "linux/amd64/v9", "/amd64", "amd64/"] {
        assert_eq!(row(platform), None, "{platform}");
    }
}

#[test]
fn triples_resolve_by_machine_and_abi() {
    for (triple, target) in [
        ("aarch64-unknown-linux-gnu", "aarch64"),
        ("aarch64-linux-android", "aarch64"),
        ("aarch64_be-unknown-linux-musl", "aarch64_be"),
        ("arm-linux-gnueabihf", "arm"),
        ("armv5te-unknown-linux-uclibceabi", "arm"),
        ("armv7-unknown-linux-gnueabihf", "arm"),
        ("armv7l-unknown-linux-gnueabihf", "arm"),
        ("armeb-unknown-linux-gnueabi", "armeb"),
        ("hexagon-unknown-linux-musl", "hexagon"),
        ("hppa2.0-unknown-linux-gnu", "hppa"),
        ("i686-pc-linux-gnu", "i386"),
        ("loongarch64-unknown-linux-ohos", "loongarch64"),
        ("microblazeel-linux-gnu", "microblazeel"),
        ("mips-unknown-linux-uclibc", "mips"),
        ("mips64-linux-gnuabi64", "mips64"),
        ("mips64-linux-gnuabin32", "mipsn32"),
        ("mips64el-linux-gnuabi64", "mips64el"),
        ("mips64el-unknown-linux-gnuabin32", "mipsn32el"),
        ("mipsisa64r6-linux-gnuabin32", "mipsn32"),
        ("mipsisa64r6el-unknown-linux-gnuabi64", "mips64el"),
        ("mipsisa32r6el-unknown-linux-gnu", "mipsel"),
        ("powerpc-unknown-linux-gnuspe", "ppc"),
        ("powerpc64-linux-gnu", "ppc64"),
        ("powerpc64le-linux-gnu", "ppc64le"),
        ("powerpc64le-unknown-linux-musl", "ppc64le"),
        ("riscv32gc-unknown-linux-gnu", "riscv32"),
        ("riscv64a23-unknown-linux-gnu", "riscv64"),
        ("s390x-unknown-linux-gnu", "s390x"),
        ("sparc64-linux", "sparc64"),
        ("thumbv7neon-unknown-linux-gnueabihf", "arm"),
        ("x86-64-linux-gnu", "x86_64"),
        ("X86_64-Unknown-Linux-GNU", "x86_64"),
    ] {
        assert_eq!(row(triple), Some(target), "{triple}");
    }
}

#[test]
fn triples_that_no_emulator_serves_are_unknown() {
    for triple in [
        "aarch64-apple-darwin",
        "aarch64-unknown-linux-gnu_ilp32",
        "csky-unknown-linux-gnuabiv2",
        "hppa64-linux-gnu",
        "ppc64le-linux-gnuabin32",
        "s390-linux-gnu",
        "x86_64-pc-windows-gnu",
        "x86_64-linux-gnux32",
        "-linux-gnu",
        "linux-gnu",
    ] {
        assert_eq!(row(triple), None, "{triple}");
    }
}

#[test]
fn a_slip_gets_the_nearest_name() {
    for (query, nearest) in [
        ("arm65", Some("arm64")),
        ("aarch46", Some("aarch64")),
        ("risc64", Some("riscv64")),
        ("x86_46", Some("x86_64")),
        ("s390", Some("s390x")),
        ("AARCH46", Some("aarch64")),
        ("linux/arm65", Some("arm64")),
        ("qemu-aarch46-static", Some("aarch64")),
        ("aarch46-unknown-linux-gnu", Some("aarch64")),
        // No name is similar.
        ("", None),
        ("-", None),
        ("windows", None),
        ("vax", None),
        // The machine is known, but no emulator supports the ending of the triple.
        ("x86_64-linux-gnux32", None),
    ] {
        let error = Arch::named(query).unwrap_err();
        assert_eq!(error, UnknownArch { query: query.to_owned(), nearest }, "{query}");
    }
    assert_eq!(Arch::named(&"a".repeat(1 << 20)).unwrap_err().nearest, None);
}

#[test]
fn an_unknown_name_is_explained() {
    let error = Arch::named("arm65").unwrap_err();
    assert_eq!(error.to_string(), r#"unknown architecture "arm65"; did you mean "arm64"?"#);
    let error = Arch::named("").unwrap_err();
    assert_eq!(error.to_string(), r#"unknown architecture """#);
    let error = Arch::named("\u{1b}[2J\n").unwrap_err();
    assert_eq!(error.to_string(), r#"unknown architecture "\u{1b}[2J\n""#);
}
