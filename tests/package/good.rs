//! Files that are extracted from packages, directories and files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use qus::package::{MemberFilter, Outcome, Package, PackageError, PackageInfo};
use tar::EntryType;

use crate::build::{Tree, ar, control, deb, elf, good_tree, pack};
use crate::scene::{Scene, placed, wanted};

#[test]
fn every_compression_gives_the_same_files() {
    for suffix in ["", ".gz", ".xz", ".zst"] {
        let scene = Scene::new();
        let content = deb(suffix, &good_tree());
        let info = Package::open(&scene.package(&content)).unwrap().info().cloned();
        let expected = PackageInfo {
            name: "qemu-user-static".to_owned(),
            version: "1:7.2".to_owned(),
            architecture: "amd64".to_owned(),
        };
        assert_eq!(info, Some(expected), "{suffix}");
        let names = ["qemu-aarch64", "qemu-arm", "qemu-arm64"];
        let extraction = scene.extract(&content, &names).unwrap();
        assert_eq!(
            placed(&extraction),
            [("qemu-aarch64", 150_004, Outcome::New), ("qemu-arm", 70_005, Outcome::Replaced)],
            "{suffix}"
        );
        let expected = [("qemu-aarch64", elf(1, 150_000)), ("qemu-arm", elf(2, 70_001))];
        assert_eq!(scene.state(), expected.map(|(name, content)| (name.to_owned(), content)).into());

        let inode = fs::metadata(scene.dest().join("qemu-arm")).unwrap().ino();
        let extraction = scene.extract(&content, &names).unwrap();
        assert!(extraction.placed.iter().all(|placed| placed.outcome == Outcome::Same), "{suffix}");
        assert_eq!(fs::metadata(scene.dest().join("qemu-arm")).unwrap().ino(), inode);
    }
}

#[test]
fn a_file_of_another_mode_is_replaced() {
    let scene = Scene::new();
    let content = deb("", &good_tree());
    scene.extract(&content, &["qemu-arm"]).unwrap();
    fs::set_permissions(scene.dest().join("qemu-arm"), fs::Permissions::from_mode(0o777)).unwrap();
    let extraction = scene.extract(&content, &["qemu-arm"]).unwrap();
    assert_eq!(extraction.placed[0].outcome, Outcome::Replaced);
    assert_eq!(fs::metadata(scene.dest().join("qemu-arm")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn several_frames_and_streams_are_one_content() {
    let tree = good_tree();
    let (head, tail) = tree.split_at(100_000);
    for suffix in [".gz", ".xz", ".zst"] {
        let scene = Scene::new();
        let data = [pack(suffix, head), pack(suffix, tail)].concat();
        let name = format!("data.tar{suffix}");
        let content = ar(&[("debian-binary/", b"2.0\n"), ("control.tar", &control()), (&name, &data)]);
        let extraction = scene.extract(&content, &["qemu-arm"]).unwrap();
        assert_eq!(placed(&extraction), [("qemu-arm", 70_005, Outcome::Replaced)], "{suffix}");
    }
}

#[test]
fn frames_of_zstd_that_are_to_be_skipped_are_skipped() {
    let tree = good_tree();
    let (head, tail) = tree.split_at(100_000);
    // RFC 8878, section 3.1.2: one of sixteen magic numbers, a length, and any content.
    let skipped = |magic: u8, content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[magic, 0x2a, 0x4d, 0x18][..], &length, content].concat()
    };
    let (head, tail) = (pack(".zst", head), pack(".zst", tail));
    let frames = [skipped(0x50, b""), head, skipped(0x5f, &vec![7; 70_000]), tail, skipped(0x58, b"table")];
    let content = frames.concat();
    let scene = Scene::new();
    let extraction = scene.extract(&content, &["qemu-aarch64", "qemu-arm", "qemu-none"]).unwrap();
    assert_eq!(extraction.placed.len(), 2);
    assert_eq!(scene.state()["qemu-arm"], elf(2, 70_001));
    // The last frame lacks one byte.
    let message = Scene::new().refused(&content[..content.len() - 1]);
    assert_eq!(message, "cannot unpack the archive of PACKAGE: unexpected end of file");
}

#[test]
fn reading_stops_behind_the_last_wanted_member() {
    let mut tree = good_tree();
    let end = tree.len() - 1024;
    tree.truncate(end);
    tree.extend([0xff; 4096]);
    let scene = Scene::new();
    let content = deb("", &tree);
    scene.extract(&content, &["qemu-aarch64", "qemu-arm"]).unwrap();
    assert!(scene.extract(&content, &["qemu-none"]).is_err());
}

#[test]
fn a_refused_file_is_named_and_not_placed() {
    let scene = Scene::new();
    let tree = Tree::new()
        .file("./usr/bin/qemu-arm", b"#!/bin/sh\n")
        .file("./usr/bin/qemu-s390x", &elf(3, 9))
        .done();
    let extraction = scene.extract(&deb(".xz", &tree), &["qemu-arm", "qemu-s390x"]).unwrap();
    assert_eq!(placed(&extraction), [("qemu-s390x", 13, Outcome::New)]);
    assert_eq!(extraction.refused[0].name, "qemu-arm");
    assert_eq!(extraction.refused[0].reason, "not an ELF file");
    assert_eq!(scene.state()["qemu-arm"], b"old");
    assert_eq!(scene.state().len(), 2);
}

#[test]
fn a_link_in_the_way_is_replaced_and_not_followed() {
    let scene = Scene::new();
    let victim = scene.directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::remove_file(scene.dest().join("qemu-arm")).unwrap();
    symlink(&victim, scene.dest().join("qemu-arm")).unwrap();
    let extraction = scene.extract(&deb("", &good_tree()), &["qemu-arm"]).unwrap();
    assert_eq!(extraction.placed[0].outcome, Outcome::Replaced);
    assert!(fs::symlink_metadata(scene.dest().join("qemu-arm")).unwrap().is_file());
    assert_eq!(fs::read(victim).unwrap(), b"precious");
}

#[test]
fn a_directory_in_the_way_changes_nothing() {
    let scene = Scene::new();
    fs::remove_file(scene.dest().join("qemu-arm")).unwrap();
    fs::create_dir(scene.dest().join("qemu-arm")).unwrap();
    let error = scene.extract(&deb("", &good_tree()), &["qemu-aarch64", "qemu-arm"]).unwrap_err();
    assert!(matches!(error, PackageError::Write { path, .. } if path == scene.dest().join("qemu-arm")));
    let names: Vec<_> = fs::read_dir(scene.dest()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["qemu-arm"]);
}

#[test]
fn a_missing_directory_is_created_only_for_extracted_files() {
    let scene = Scene::new();
    let path = scene.package(&deb("", &good_tree()));
    let dest = scene.directory.path().join("a/b");
    let extract = |names: &[&str]| {
        Package::open(&path).unwrap().extract(&mut wanted(names), &dest, &()).map(|found| found.placed.len())
    };
    assert_eq!(extract(&["qemu-none"]).unwrap(), 0);
    assert!(!dest.exists());
    assert_eq!(extract(&["qemu-arm", "qemu-none"]).unwrap(), 1);
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o022, 0);

    let broken = Tree::new().file("./qemu-arm", &elf(1, 9)).file("/qemu-s390x", b"").done();
    let dest = scene.directory.path().join("c/d");
    Package::open(&scene.package(&deb("", &broken)))
        .unwrap()
        .extract(&mut wanted(&["qemu-arm", "qemu-none"]), &dest, &())
        .unwrap_err();
    assert!(!scene.directory.path().join("c").exists());
}

#[test]
fn a_directory_gives_its_own_files_and_those_of_its_bin() {
    let scene = Scene::new();
    let root = scene.directory.path().join("root");
    fs::create_dir_all(root.join("usr/bin/deeper")).unwrap();
    fs::write(root.join("qemu-s390x"), elf(1, 10)).unwrap();
    fs::write(root.join("usr/bin/qemu-arm-static"), elf(2, 20)).unwrap();
    fs::write(root.join("usr/bin/deeper/qemu-aarch64"), elf(3, 30)).unwrap();
    symlink("qemu-s390x", root.join("qemu-riscv64")).unwrap();
    symlink("nowhere", root.join("qemu-ppc64")).unwrap();
    symlink("qemu-sh4", root.join("qemu-sh4")).unwrap();
    nix::unistd::mkfifo(&root.join("qemu-mips"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let names =
        ["s390x", "arm", "aarch64", "riscv64", "ppc64", "sh4", "mips"].map(|arch| format!("qemu-{arch}"));
    let mut selection = wanted(&names.each_ref().map(String::as_str));
    let extraction = Package::open(&root).unwrap().extract(&mut selection, &scene.dest(), &()).unwrap();
    assert_eq!(
        placed(&extraction),
        [
            ("qemu-riscv64", 14, Outcome::New),
            ("qemu-s390x", 14, Outcome::New),
            ("qemu-arm", 24, Outcome::Replaced),
        ]
    );
    assert!(fs::symlink_metadata(scene.dest().join("qemu-riscv64")).unwrap().is_file());
}

#[test]
fn a_single_program_needs_a_wanted_name() {
    let scene = Scene::new();
    let program = scene.directory.path().join("qemu-s390x-static");
    fs::write(&program, elf(1, 10)).unwrap();
    let extract =
        |names: &[&str]| Package::open(&program).unwrap().extract(&mut wanted(names), &scene.dest(), &());
    assert!(matches!(extract(&["qemu-arm"]), Err(PackageError::NotWanted { .. })));
    assert_eq!(placed(&extract(&["qemu-s390x"]).unwrap()), [("qemu-s390x", 14, Outcome::New)]);
}

#[test]
fn a_stored_name_is_never_a_path() {
    struct Evil(&'static str);
    impl MemberFilter for Evil {
        fn want(&mut self, _: &[u8]) -> Option<String> {
            Some(self.0.to_owned())
        }
        fn complete(&self) -> bool {
            false
        }
        fn accept(&mut self, _: &str, _: &Path) -> Result<(), String> {
            Ok(())
        }
    }
    let scene = Scene::new();
    let path = scene.package(&deb("", &good_tree()));
    for name in ["", ".", "..", "a/b", "/a", "a\0"] {
        let error = Package::open(&path).unwrap().extract(&mut Evil(name), &scene.dest(), &()).unwrap_err();
        assert!(matches!(error, PackageError::StoredName { .. }), "{name:?}");
    }
}

#[test]
fn long_names_are_read_in_both_ways() {
    let directory = format!("./{}/", "d".repeat(300));
    for suffix in ["gnu", "pax"] {
        let path = format!("{directory}qemu-s390x");
        let mut tree = tar::Builder::new(Vec::new());
        if suffix == "pax" {
            tree.append_pax_extensions([("path", path.as_bytes())]).unwrap();
            let mut header = Tree::header(EntryType::Regular, "short", 9);
            header.set_cksum();
            tree.append(&header, &elf(1, 5)[..]).unwrap();
        } else {
            tree.append_data(&mut Tree::header(EntryType::Regular, "", 9), &path, &elf(1, 5)[..]).unwrap();
        }
        let scene = Scene::new();
        let content = deb("", &tree.into_inner().unwrap());
        let extraction = scene.extract(&content, &["qemu-s390x", "short"]).unwrap();
        assert_eq!(placed(&extraction), [("qemu-s390x", 9, Outcome::New)], "{suffix}");
    }
}
