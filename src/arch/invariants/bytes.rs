//! Tests that every pattern consists of the bytes that QEMU's emulators accept.

use std::fmt::Write as _;

use crate::arch::{ARCHES, Arch};

/// Architecture, magic and mask of each pattern. The values were found by running QEMU's emulators on many kinds of
/// headers. The mask does not contain the bits that the emulators ignore.
const ACCEPTED: &[(&str, &str, &str)] = &[
    ("aarch64", "7f454c460201010000000000000000000200b700", "ffffffffffffff000000000000000000feffffff"),
    ("aarch64_be", "7f454c46020201000000000000000000000200b7", "ffffffffffffff000000000000000000fffeffff"),
    ("alpha", "7f454c4602010100000000000000000002002690", "ffffffffffffff000000000000000000feffffff"),
    ("arm", "7f454c4601010100000000000000000002002800", "ffffffffffffff000000000000000000feffffff"),
    ("armeb", "7f454c4601020100000000000000000000020028", "ffffffffffffff000000000000000000fffeffff"),
    ("cris", "7f454c4601010100000000000000000002004c00", "ffffffffffffff000000000000000000feffffff"),
    ("hexagon", "7f454c460101010000000000000000000200a400", "ffffffffffffff000000000000000000feffffff"),
    ("hppa", "7f454c460102010000000000000000000002000f", "ffffffffffffff000000000000000000fffeffff"),
    ("i386", "7f454c4601010100000000000000000002000300", "ffffffffffffff000000000000000000feffffff"),
    ("i386", "7f454c4601010100000000000000000002000600", "ffffffffffffff000000000000000000feffffff"),
    ("loongarch64", "7f454c4602010100000000000000000002000201", "ffffffffffffff000000000000000000feffffff"),
    ("m68k", "7f454c4601020100000000000000000000020004", "ffffffffffffff000000000000000000fffeffff"),
    ("microblaze", "7f454c46010201000000000000000000000200bd", "ffffffffffffff000000000000000000fffeffff"),
    ("microblaze", "7f454c460102010000000000000000000002baab", "ffffffffffffff000000000000000000fffeffff"),
    ("microblazeel", "7f454c460101010000000000000000000200bd00", "ffffffffffffff000000000000000000feffffff"),
    ("microblazeel", "7f454c460101010000000000000000000200abba", "ffffffffffffff000000000000000000feffffff"),
    (
        "mips",
        "7f454c46010201000000000000000000000200080000000000000000000000000000000000000000",
        "ffffffffffffff000000000000000000fffeffff0000000000000000000000000000000000000020",
    ),
    ("mips64", "7f454c4602020100000000000000000000020008", "ffffffffffffff000000000000000000fffeffff"),
    ("mips64el", "7f454c4602010100000000000000000002000800", "ffffffffffffff000000000000000000feffffff"),
    (
        "mipsel",
        "7f454c46010101000000000000000000020008000000000000000000000000000000000000",
        "ffffffffffffff000000000000000000feffffff0000000000000000000000000000000020",
    ),
    (
        "mipsn32",
        "7f454c46010201000000000000000000000200080000000000000000000000000000000000000020",
        "ffffffffffffff000000000000000000fffeffff0000000000000000000000000000000000000020",
    ),
    (
        "mipsn32el",
        "7f454c46010101000000000000000000020008000000000000000000000000000000000020",
        "ffffffffffffff000000000000000000feffffff0000000000000000000000000000000020",
    ),
    ("nios2", "7f454c4601010100000000000000000002007100", "ffffffffffffff000000000000000000feffffff"),
    ("or1k", "7f454c460102010000000000000000000002005c", "ffffffffffffff000000000000000000fffeffff"),
    ("ppc", "7f454c4601020100000000000000000000020014", "ffffffffffffff000000000000000000fffeffff"),
    ("ppc64", "7f454c4602020100000000000000000000020015", "ffffffffffffff000000000000000000fffeffff"),
    ("ppc64le", "7f454c4602010100000000000000000002001500", "ffffffffffffff000000000000000000feffffff"),
    ("riscv32", "7f454c460101010000000000000000000200f300", "ffffffffffffff000000000000000000feffffff"),
    ("riscv64", "7f454c460201010000000000000000000200f300", "ffffffffffffff000000000000000000feffffff"),
    ("s390x", "7f454c4602020100000000000000000000020016", "ffffffffffffff000000000000000000fffeffff"),
    ("sh4", "7f454c4601010100000000000000000002002a00", "ffffffffffffff000000000000000000feffffff"),
    ("sh4eb", "7f454c460102010000000000000000000002002a", "ffffffffffffff000000000000000000fffeffff"),
    ("sparc", "7f454c4601020100000000000000000000020002", "ffffffffffffff000000000000000000fffeffff"),
    ("sparc32plus", "7f454c4601020100000000000000000000020012", "ffffffffffffff000000000000000000fffeffff"),
    ("sparc64", "7f454c460202010000000000000000000002002b", "ffffffffffffff000000000000000000fffeffff"),
    ("x86_64", "7f454c4602010100000000000000000002003e00", "ffffffffffffff000000000000000000feffffff"),
    ("xtensa", "7f454c4601010100000000000000000002005e00", "ffffffffffffff000000000000000000feffffff"),
    ("xtensaeb", "7f454c460102010000000000000000000002005e", "ffffffffffffff000000000000000000fffeffff"),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn patterns_are_what_qemu_accepts() {
    let derived: Vec<_> = ARCHES
        .iter()
        .flat_map(|arch| arch.identity.patterns().into_iter().map(move |pattern| (arch.name, pattern)))
        .map(|(name, pattern)| {
            assert_eq!(pattern.offset(), 0);
            (name, hex(pattern.magic()), hex(pattern.mask().unwrap()))
        })
        .collect();
    let derived: Vec<_> = derived.iter().map(|(name, magic, mask)| (*name, &**magic, &**mask)).collect();
    assert_eq!(derived, ACCEPTED);
}

#[test]
fn there_is_one_pattern_and_one_handler_name_for_every_machine() {
    for arch in ARCHES {
        let Arch { name, identity, .. } = arch;
        assert_eq!(identity.patterns().len(), identity.machines.len(), "{name}");
        assert_eq!(arch.handler_names().len(), identity.machines.len(), "{name}");
        assert_eq!(arch.handler_names()[0], format!("qemu-{name}"));
    }
    assert_eq!(Arch::named("i386").unwrap().handler_names(), ["qemu-i386", "qemu-i486"]);
    assert_eq!(
        Arch::named("microblazeel").unwrap().handler_names(),
        ["qemu-microblazeel", "qemu-microblazeel-old"]
    );
}
