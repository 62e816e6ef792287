//! Compares the patterns of qus with the rules in QEMU's `scripts/qemu-binfmt-conf.sh` (QEMU 10.2). Every difference
//! must have a `Reason`.

use crate::arch::invariants::{HEADER, at, pattern};
use crate::arch::{ARCHES, Arch};
use crate::binfmt::Pattern;

/// Reason why a pattern of qus differs from QEMU's rule for the same machine number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// QEMU's rule also matches the value 0 of `EI_DATA`, which the emulator refuses.
    DataMask,
    /// QEMU's rule also matches the value 0 of `EI_VERSION`, which the emulator refuses.
    VersionMask,
    /// QEMU's rule requires one value of `EI_OSABI`; the emulator accepts every value.
    OsAbi,
    /// QEMU's rule requires one value of `EI_ABIVERSION`; the emulator accepts every value.
    AbiVersion,
    /// QEMU's rule requires empty padding, so it misses every `AppImage`; the emulator accepts any padding.
    Padding,
    /// QEMU's rule contains `e_type` in the wrong byte order, so it matches no program.
    TypeByteOrder,
    /// QEMU's rule matches every high byte of `e_machine`; the emulator accepts only the right one.
    MachineHighByte,
    /// QEMU's rule requires the value 1 of `e_version`; the emulator accepts every value.
    EVersion,
}

impl Reason {
    /// Returns the reason for a difference at the byte `position` of the ELF header.
    fn at(position: usize) -> Self {
        match position {
            5 => Self::DataMask,
            6 => Self::VersionMask,
            7 => Self::OsAbi,
            8 => Self::AbiVersion,
            9..16 => Self::Padding,
            16..18 => Self::TypeByteOrder,
            18..20 => Self::MachineHighByte,
            20..24 => Self::EVersion,
            _ => panic!("a difference at byte {position} has no reason"),
        }
    }

    /// Reports whether a pattern of qus that differs for this reason matches all files that QEMU's rule matches, and
    /// others as well.
    fn is_wider(self) -> bool {
        match self {
            Self::OsAbi | Self::AbiVersion | Self::Padding | Self::EVersion => true,
            Self::DataMask | Self::VersionMask | Self::TypeByteOrder | Self::MachineHighByte => false,
        }
    }
}

/// A rule in QEMU's `qemu-binfmt-conf.sh`.
struct Rule {
    /// Name of the architecture in QEMU's script.
    script: &'static str,
    /// Name of the architecture in [`ARCHES`].
    row: &'static str,
    magic: &'static str,
    mask: &'static str,
    /// Reason for every header field in which the pattern of qus differs from this rule, in the order of the fields.
    reasons: &'static [Reason],
}

use Reason::{AbiVersion, DataMask, EVersion, MachineHighByte, OsAbi, Padding, TypeByteOrder, VersionMask};

const USUAL: &[Reason] = &[AbiVersion, Padding];

#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { script: "aarch64", row: "aarch64", magic: "7f454c460201010000000000000000000200b700", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "aarch64_be", row: "aarch64_be", magic: "7f454c46020201000000000000000000000200b7", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "alpha", row: "alpha", magic: "7f454c4602010100000000000000000002002690", mask: "fffffffffffefe00fffffffffffffffffeffffff", reasons: &[DataMask, VersionMask, AbiVersion, Padding] },
    Rule { script: "arm", row: "arm", magic: "7f454c4601010100000000000000000002002800", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "armeb", row: "armeb", magic: "7f454c4601020100000000000000000000020028", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "hexagon", row: "hexagon", magic: "7f454c460101010000000000000000000200a400", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "hppa", row: "hppa", magic: "7f454c460102010000000000000000000002000f", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "i386", row: "i386", magic: "7f454c4601010100000000000000000002000300", mask: "fffffffffffefe00fffffffffffffffffeffffff", reasons: &[DataMask, VersionMask, AbiVersion, Padding] },
    Rule { script: "loongarch64", row: "loongarch64", magic: "7f454c4602010100000000000000000002000201", mask: "fffffffffffffffc00fffffffffffffffeffffff", reasons: &[OsAbi, Padding] },
    Rule { script: "m68k", row: "m68k", magic: "7f454c4601020100000000000000000000020004", mask: "fffffffffffffe00fffffffffffffffffffeffff", reasons: &[VersionMask, AbiVersion, Padding] },
    Rule { script: "microblaze", row: "microblaze", magic: "7f454c460102010000000000000000000200baab", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: &[AbiVersion, Padding, TypeByteOrder] },
    Rule { script: "microblazeel", row: "microblazeel", magic: "7f454c460101010000000000000000000200abba", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "mips", row: "mips", magic: "7f454c46010201000000000000000000000200080000000100000000000000000000000000000000", mask: "ffffffffffffff0000fffffffffffffffffeffffffffffff00000000000000000000000000000020", reasons: &[Padding, EVersion] },
    Rule { script: "mips64", row: "mips64", magic: "7f454c4602020100000000000000000000020008", mask: "ffffffffffffff0000fffffffffffffffffeffff", reasons: &[Padding] },
    Rule { script: "mips64el", row: "mips64el", magic: "7f454c4602010100000000000000000002000800", mask: "ffffffffffffff0000fffffffffffffffeffffff", reasons: &[Padding] },
    Rule { script: "mipsel", row: "mipsel", magic: "7f454c46010101000000000000000000020008000100000000000000000000000000000000000000", mask: "ffffffffffffff0000fffffffffffffffeffffffffffffff00000000000000000000000020000000", reasons: &[Padding, EVersion] },
    Rule { script: "mipsn32", row: "mipsn32", magic: "7f454c46010201000000000000000000000200080000000100000000000000000000000000000020", mask: "ffffffffffffff0000fffffffffffffffffeffffffffffff00000000000000000000000000000020", reasons: &[Padding, EVersion] },
    Rule { script: "mipsn32el", row: "mipsn32el", magic: "7f454c46010101000000000000000000020008000100000000000000000000000000000020000000", mask: "ffffffffffffff0000fffffffffffffffeffffffffffffff00000000000000000000000020000000", reasons: &[Padding, EVersion] },
    Rule { script: "or1k", row: "or1k", magic: "7f454c460102010000000000000000000002005c", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "ppc", row: "ppc", magic: "7f454c4601020100000000000000000000020014", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "ppc64", row: "ppc64", magic: "7f454c4602020100000000000000000000020015", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "ppc64le", row: "ppc64le", magic: "7f454c4602010100000000000000000002001500", mask: "ffffffffffffff00fffffffffffffffffeffff00", reasons: &[AbiVersion, Padding, MachineHighByte] },
    Rule { script: "riscv32", row: "riscv32", magic: "7f454c460101010000000000000000000200f300", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "riscv64", row: "riscv64", magic: "7f454c460201010000000000000000000200f300", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "s390x", row: "s390x", magic: "7f454c4602020100000000000000000000020016", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "sh4", row: "sh4", magic: "7f454c4601010100000000000000000002002a00", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "sh4eb", row: "sh4eb", magic: "7f454c460102010000000000000000000002002a", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "sparc", row: "sparc", magic: "7f454c4601020100000000000000000000020002", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "sparc32plus", row: "sparc32plus", magic: "7f454c4601020100000000000000000000020012", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "sparc64", row: "sparc64", magic: "7f454c460202010000000000000000000002002b", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "x86_64", row: "x86_64", magic: "7f454c4602010100000000000000000002003e00", mask: "fffffffffffefe00fffffffffffffffffeffffff", reasons: &[DataMask, VersionMask, AbiVersion, Padding] },
    Rule { script: "xtensa", row: "xtensa", magic: "7f454c4601010100000000000000000002005e00", mask: "ffffffffffffff00fffffffffffffffffeffffff", reasons: USUAL },
    Rule { script: "xtensaeb", row: "xtensaeb", magic: "7f454c460102010000000000000000000002005e", mask: "ffffffffffffff00fffffffffffffffffffeffff", reasons: USUAL },
    Rule { script: "i486", row: "i386", magic: "7f454c4601010100000000000000000002000600", mask: "fffffffffffefe00fffffffffffffffffeffffff", reasons: &[DataMask, VersionMask, AbiVersion, Padding] },
];

/// Patterns of qus for which QEMU's script has no rule: name of the architecture, name of the handler.
const WITHOUT_RULE: &[(&str, &str)] = &[
    ("cris", "qemu-cris"),
    // No other tool has a rule for the machine number that current toolchains write.
    ("microblaze", "qemu-microblaze"),
    ("microblazeel", "qemu-microblazeel"),
    ("nios2", "qemu-nios2"),
];

/// Returns the pattern of qus for the machine number in QEMU's `rule`.
fn counterpart(rule: &Rule) -> Pattern {
    let arch = Arch::named(rule.row).unwrap();
    // The MicroBlaze rules have the old machine number, which belongs to our second pattern.
    let index = usize::from(rule.script == "i486" || rule.script.starts_with("microblaze"));
    arch.identity.patterns()[index].clone()
}

#[test]
fn every_difference_from_qemus_rule_has_its_reason() {
    for rule in RULES {
        let ours = counterpart(rule);
        let theirs = pattern(rule.magic, rule.mask);
        let mut reasons: Vec<_> =
            (0..HEADER).filter(|&byte| at(&ours, byte) != at(&theirs, byte)).map(Reason::at).collect();
        reasons.dedup();
        assert_eq!(reasons, rule.reasons, "{}", rule.script);
        assert_eq!(reasons.is_empty(), ours.equivalent(&theirs), "{}", rule.script);
        assert_eq!(reasons.iter().all(|reason| reason.is_wider()), ours.covers(&theirs), "{}", rule.script);
        assert_eq!(!reasons.contains(&TypeByteOrder), ours.overlaps(&theirs), "{}", rule.script);
    }
}

#[test]
fn every_pattern_has_a_rule_or_is_listed_without() {
    let without: Vec<_> = ARCHES
        .iter()
        .flat_map(|arch| {
            arch.identity.patterns().into_iter().zip(arch.handler_names()).map(move |pair| (arch.name, pair))
        })
        .filter(|(_, (ours, _))| !RULES.iter().any(|rule| counterpart(rule).equivalent(ours)))
        .map(|(row, (_, handler))| (row, handler))
        .collect();
    let without: Vec<_> = without.iter().map(|(row, handler)| (*row, &**handler)).collect();
    assert_eq!(without, WITHOUT_RULE);
}

#[test]
fn qemus_rules_decode_to_their_rows() {
    for rule in RULES {
        let rows = Arch::matching_pattern(&pattern(rule.magic, rule.mask));
        let names: Vec<_> = rows.iter().map(|arch| arch.name).collect();
        // A rule that matches no program is assigned to no architecture.
        let expected: &[&str] = if rule.reasons.contains(&TypeByteOrder) { &[] } else { &[rule.row] };
        assert_eq!(names, expected, "{}", rule.script);
    }
}
