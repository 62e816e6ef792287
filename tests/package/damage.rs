//! Packages that are truncated or changed anywhere.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use crate::build::{Cpio, Tree, apk, ar, control, deb, descriptor, docker, elf, oci, pack, rpm};
use crate::scene::Scene;

/// Returns a small package tree and its files by name.
fn small_tree() -> (Vec<u8>, BTreeMap<&'static str, Vec<u8>>) {
    let files = BTreeMap::from([("qemu-aarch64", elf(1, 700)), ("qemu-arm", elf(2, 300))]);
    let tree = files
        .iter()
        .fold(Tree::new(), |tree, (name, content)| tree.file(&format!("./usr/bin/{name}-static"), content));
    (tree.done(), files)
}

/// Returns the files of [`small_tree`] in every other format.
fn shapes(suffix: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (tree, files) = small_tree();
    let cpio =
        files.iter().fold(Cpio::new(), |cpio, (name, content)| cpio.file(&format!("./{name}"), content));
    let layers =
        [Tree::new().file("./usr/bin/.wh.x", b"").done(), tree.clone()].map(|layer| pack(suffix, &layer));
    let manifest = serde_json::json!({"layers": [descriptor("0", None), descriptor("1", None)]});
    let [low, up] = layers.clone();
    let blobs = [("0", low), ("1", up), ("m", manifest.to_string().into_bytes())];
    vec![
        ("rpm", rpm(&pack(suffix, &cpio.done()))),
        ("tar", pack(suffix, &tree)),
        ("apk", apk(&tree)),
        ("docker", docker(&[("amd64", &layers)])),
        ("oci", pack(suffix, &oci(&[descriptor("m", None)], &blobs))),
    ]
}

#[test]
fn every_shape_cut_anywhere_gives_nothing_wrong() {
    let files = small_tree().1;
    for suffix in ["", ".gz", ".xz", ".zst"] {
        let scene = Scene::new();
        let old = scene.state();
        for (shape, content) in shapes(suffix) {
            // All lengths near both ends, and some in between.
            let near =
                |length: &usize| *length < 300 || *length + 100 > content.len() || length.is_multiple_of(31);
            for length in (0..content.len()).filter(near) {
                match scene.extract(&content[..length], &["qemu-aarch64", "qemu-arm"]) {
                    Err(_) => assert_eq!(scene.state(), old, "{shape} {suffix} {length}"),
                    Ok(extraction) => {
                        for placed in extraction.placed {
                            assert_eq!(fs::read(&placed.path).unwrap(), files[placed.name.as_str()]);
                            fs::remove_file(placed.path).unwrap();
                        }
                        fs::write(scene.dest().join("qemu-arm"), "old").unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn a_package_cut_anywhere_gives_nothing() {
    let (tree, files) = small_tree();
    for suffix in ["", ".gz", ".xz", ".zst"] {
        let scene = Scene::new();
        let content = deb(suffix, &tree);
        let before = scene.state();
        for length in 0..content.len() {
            if scene.extract(&content[..length], &["qemu-aarch64", "qemu-arm"]).is_err() {
                assert_eq!(scene.state(), before, "{suffix} {length}");
            } else {
                // The padding byte that makes the length even carries no data.
                assert_eq!((length, content.len() % 2), (content.len() - 1, 0), "{suffix}");
                assert_eq!(scene.state()["qemu-arm"], files["qemu-arm"]);
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
            let scene = Scene::new();
            let cut = &data[..length];
            let content = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (&name, cut)]);
            let before = scene.state();
            match scene.extract(&content, &["qemu-aarch64", "qemu-arm"]) {
                Err(_) => assert_eq!(scene.state(), before, "{suffix} {length}"),
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
        let scene = Scene::new();
        let before = scene.state();
        let content = [&b"!<arch>\n"[..], &bytes].concat();
        prop_assert!(scene.extract(&content, &["qemu-arm"]).is_err());
        prop_assert_eq!(scene.state(), before);
    }

    #[test]
    fn any_data_is_read_without_a_panic(
        suffix in prop::sample::select(vec!["", ".gz", ".xz", ".zst"]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        keep in 0_usize..40,
    ) {
        let scene = Scene::new();
        let mut data = pack(suffix, &small_tree().0);
        data.truncate(keep);
        data.extend(bytes);
        let name = format!("data.tar{suffix}");
        let content = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (&name, &data)]);
        let _ = scene.extract(&content, &["qemu-arm", "qemu-none"]);
    }

    #[test]
    fn any_shape_is_read_without_a_panic(
        begin in prop::sample::select(vec![
            &b"\xed\xab\xee\xdb"[..], b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b".PKGINFO", b"",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..1000),
    ) {
        let scene = Scene::new();
        let before = scene.state();
        prop_assert!(scene.extract(&[begin, &bytes].concat(), &["qemu-arm"]).is_err());
        prop_assert_eq!(scene.state(), before);
    }

    #[test]
    fn any_payload_and_layer_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let scene = Scene::new();
        let before = scene.state();
        for content in [
            rpm(&[b"070701", &bytes[..]].concat()),
            docker(&[("amd64", std::slice::from_ref(&bytes))]),
            Tree::new().file("manifest.json", &bytes).done(),
            Tree::new().file("index.json", &bytes).done(),
        ] {
            // An empty layer has no files, which is valid.
            let placed = scene.extract(&content, &["qemu-arm"]).map_or(0, |extraction| extraction.placed.len());
            prop_assert_eq!((placed, &scene.state()), (0, &before));
        }
    }

    #[test]
    fn a_changed_shape_gives_nothing_half(
        suffix in prop::sample::select(vec!["", ".gz", ".xz", ".zst"]),
        which in 0_usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (_, mut content) = shapes(suffix).swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(content.len());
            content[at] = byte;
        }
        let scene = Scene::new();
        let before = scene.state();
        match scene.extract(&content, &["qemu-aarch64", "qemu-arm", "qemu-none"]) {
            Err(_) => prop_assert_eq!(scene.state(), before),
            // Formats without checksums cannot detect the damage, but each extracted file has its full size.
            Ok(extraction) => for placed in extraction.placed {
                prop_assert_eq!(fs::metadata(placed.path).unwrap().len(), placed.size);
            }
        }
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
        let scene = Scene::new();
        let before = scene.state();
        // The name is never found, so the archive is read up to its checksum.
        match scene.extract(&content, &["qemu-aarch64", "qemu-arm", "qemu-none"]) {
            Err(_) => prop_assert_eq!(scene.state(), before),
            // ruzstd writes checksums, so no extracted file can differ.
            Ok(extraction) => for placed in extraction.placed {
                prop_assert_eq!(&fs::read(placed.path).unwrap(), &files[placed.name.as_str()]);
            }
        }
    }
}
