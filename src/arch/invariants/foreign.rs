//! Tests that the binfmt_misc rules of other tools are assigned to the right architectures, even if a rule is
//! imprecise.

use crate::arch::invariants::pattern;
use crate::arch::{ARCHES, Arch};
use crate::binfmt::Pattern;

fn rows(pattern: &Pattern) -> Vec<&'static str> {
    Arch::matching_pattern(pattern).iter().map(|arch| arch.name).collect()
}

#[test]
fn the_patterns_of_the_table_decode_to_their_rows() {
    for arch in ARCHES {
        for pattern in arch.identity.patterns() {
            assert_eq!(rows(&pattern), [arch.name]);
        }
    }
}

/// Rules of other tools. Each has the tool's name with a remark, the architectures that match the rule, the magic, and
/// the mask.
#[rustfmt::skip]
const RULES: &[(&str, &[&str], &str, &str)] = &[
    ("linuxkit, without the high byte of e_machine", &["aarch64"],
        "7f454c460201010000000000000000000200b7", "ffffffffffffff00fffffffffffffffffeffff"),
    ("NixOS, with a hole in the padding", &["arm"],
        "7f454c4601010100000000000000000002002800", "ffffffffffffff00ffffffffffff00fffeffffff"),
    ("Debian, EI_OSABI under 0xfc", &["i386"],
        "7f454c4601010100000000000000000002000300", "fffffffffffefefcfffffffffffffffffeffffff"),
    ("Debian, EI_OSABI under 0xfc and no high byte of e_machine", &["ppc64le"],
        "7f454c4602010100000000000000000002001500", "fffffffffffffffcfffffffffffffffffeffff00"),
    ("Debian, the old MicroBlaze", &["microblaze"],
        "7f454c460102010000000000000000000002baab", "ffffffffffffff00fffffffffffffffffffeffff"),
    ("multiarch, o32 and n32 alike", &["mips", "mipsn32"],
        "7f454c4601020100000000000000000000020008", "ffffffffffffff00fffffffffffffffffffeffff"),
    ("multiarch, o32 and n32 alike", &["mipsel", "mipsn32el"],
        "7f454c4601010100000000000000000002000800", "ffffffffffffff00fffffffffffffffffeffffff"),
    ("FEX, without AppImage's magic", &["x86_64"],
        "7f454c4602010100000000000000000002003e00", "fffffffffffefe00000000fffffffffffeffffff"),
    ("NixOS, sparc-linux", &["sparc32plus"],
        "7f454c4601020100000000000000000000020012", "ffffffffffffff00fffffffffffffffffffeffff"),
    ("without EI_CLASS", &["mips", "mips64", "mipsn32"],
        "7f454c4600020100000000000000000000020008", "ffffffff00ffff00fffffffffffffffffffeffff"),
    ("without a mask", &["s390x"],
        "7f454c4602020100000000000000000000020016", ""),
    // These rules match no program of any architecture.
    ("obs-build, e_type and e_machine in the wrong byte order", &[],
        "7f454c4602010100000000000000000000020015", "ffffffffffffff00fffffffffffffffffeffff00"),
    ("x32", &[],
        "7f454c4601010100000000000000000002003e00", "ffffffffffffff00fffffffffffffffffeffffff"),
    // These rules match programs of many architectures.
    ("any ELF file", &[], "7f454c46", ""),
    ("any 64-bit little-endian ELF program", &[],
        "7f454c4602010100000000000000000002000000", "ffffffffffffff000000000000000000feff0000"),
    ("half a machine", &[],
        "7f454c4602010100000000000000000002003e00", "ffffffffffffff000000000000000000fefff0ff"),
    ("any file", &[], "00", "00"),
    ("any file, written at length", &[],
        "7f454c4602010100000000000000000002003e00", "0000000000000000000000000000000000000000"),
    ("Windows programs", &[], "4d5a", ""),
    ("jar files", &[], "504b0304", ""),
];

#[test]
fn foreign_rules_decode() {
    for (name, expected, magic, mask) in RULES {
        assert_eq!(rows(&pattern(magic, mask)), *expected, "{name}");
    }
}

#[test]
fn a_pattern_of_the_machine_alone_matches_no_architecture() {
    let pattern = Pattern::new(18, vec![0xb7, 0], None).unwrap();
    assert_eq!(rows(&pattern), Vec::<&str>::new());
}
