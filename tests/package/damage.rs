//! Packages that are cut or changed anywhere.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use crate::build::{Tree, ar, control, deb, elf, pack};
use crate::lab::Lab;

/// The files of a small package, by name.
fn small_tree() -> (Vec<u8>, BTreeMap<&'static str, Vec<u8>>) {
    let files = BTreeMap::from([("qemu-aarch64", elf(1, 700)), ("qemu-arm", elf(2, 300))]);
    let tree = files
        .iter()
        .fold(Tree::new(), |tree, (name, content)| tree.file(&format!("./usr/bin/{name}-static"), content));
    (tree.done(), files)
}

#[test]
fn a_package_cut_anywhere_gives_nothing() {
    let (tree, files) = small_tree();
    for suffix in ["", ".gz", ".xz", ".zst"] {
        let lab = Lab::new();
        let content = deb(suffix, &tree);
        let before = lab.state();
        for length in 0..content.len() {
            if lab.extract(&content[..length], &["qemu-aarch64", "qemu-arm"]).is_err() {
                assert_eq!(lab.state(), before, "{suffix} {length}");
            } else {
                // The byte that makes the length even carries nothing.
                assert_eq!((length, content.len() % 2), (content.len() - 1, 0), "{suffix}");
                assert_eq!(lab.state()["qemu-arm"], files["qemu-arm"]);
            }
        }
    }
}

#[test]
fn compressed_data_cut_anywhere_gives_nothing_wrong() {
    let (tree, files) = small_tree();
    for suffix in ["", ".gz", ".xz", ".zst"] {
        let data = pack(suffix, &tree);
        let name = format!("data.tar{suffix}");
        for length in 0..data.len() {
            let lab = Lab::new();
            let cut = &data[..length];
            let content = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (&name, cut)]);
            let before = lab.state();
            match lab.extract(&content, &["qemu-aarch64", "qemu-arm"]) {
                Err(_) => assert_eq!(lab.state(), before, "{suffix} {length}"),
                Ok(extraction) => {
                    for placed in extraction.placed {
                        assert_eq!(fs::read(placed.path).unwrap(), files[placed.name.as_str()]);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let lab = Lab::new();
        let before = lab.state();
        let content = [&b"!<arch>\n"[..], &bytes].concat();
        prop_assert!(lab.extract(&content, &["qemu-arm"]).is_err());
        prop_assert_eq!(lab.state(), before);
    }

    #[test]
    fn any_data_is_read_without_a_panic(
        suffix in prop::sample::select(vec!["", ".gz", ".xz", ".zst"]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        keep in 0_usize..40,
    ) {
        let lab = Lab::new();
        let mut data = pack(suffix, &small_tree().0);
        data.truncate(keep);
        data.extend(bytes);
        let name = format!("data.tar{suffix}");
        let content = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (&name, &data)]);
        let _ = lab.extract(&content, &["qemu-arm", "qemu-none"]);
    }

    #[test]
    fn a_changed_package_gives_nothing_wrong(
        suffix in prop::sample::select(vec![".gz", ".xz", ".zst"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (tree, files) = small_tree();
        let mut content = deb(suffix, &tree);
        for (at, byte) in changes {
            let at = at.index(content.len());
            content[at] = byte;
        }
        let lab = Lab::new();
        let before = lab.state();
        // Something that is never found, so that the archive is read to its checksum.
        match lab.extract(&content, &["qemu-aarch64", "qemu-arm", "qemu-none"]) {
            Err(_) => prop_assert_eq!(lab.state(), before),
            // ruzstd writes checksums, so nothing that is placed can differ.
            Ok(extraction) => for placed in extraction.placed {
                prop_assert_eq!(&fs::read(placed.path).unwrap(), &files[placed.name.as_str()]);
            }
        }
    }
}
