//! Each reason to refuse a package has its own message, and a refused package changes nothing.

use std::path::Path;

use qus::package::{Limit, Package, PackageError};
use tar::EntryType;

use crate::build::{CONTROL, Tree, ar, control, deb, elf, good_tree, pack, xz};
use crate::scene::Scene;

#[test]
fn what_is_no_package_is_refused() {
    let scene = Scene::new();
    assert_eq!(scene.refused(b""), "PACKAGE is empty");
    let unknown = "PACKAGE is not a package, archive, image, directory or ELF program";
    assert_eq!(scene.refused(b"garbage in a file"), unknown);
    assert_eq!(scene.refused(b"!<arch>"), "PACKAGE ends too early");
    assert_eq!(scene.refused(b"!<arch>\n"), "PACKAGE has no debian-binary at its beginning");
    let fifo = scene.directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(Package::open(&fifo), Err(PackageError::Unknown { .. })));
    let error = Package::open(Path::new("/nowhere/at/all")).unwrap_err();
    assert_eq!(error.to_string(), "cannot open /nowhere/at/all");
}

#[test]
fn a_broken_container_is_refused() {
    let scene = Scene::new();
    let (control, data) = (control(), good_tree());
    let format: (&str, &[u8]) = ("debian-binary", b"2.0\n");
    let refused = |members: &[(&str, &[u8])]| scene.refused(&ar(members));

    assert_eq!(refused(&[("data.tar", &data)]), "PACKAGE has no debian-binary at its beginning");
    let old: (&str, &[u8]) = ("debian-binary", b"3.0\n");
    assert_eq!(refused(&[old, ("data.tar", &data)]), "PACKAGE has package format 3.0, not 2");
    assert_eq!(refused(&[format]), "PACKAGE has no control.tar");
    assert_eq!(refused(&[format, ("data.tar", &data)]), "PACKAGE has no control.tar");
    assert_eq!(refused(&[format, ("control.tar", &control)]), "PACKAGE has no data.tar");
    assert_eq!(
        refused(&[format, ("control.tar", &control), ("data.tar.lzma", &data)]),
        "PACKAGE: data.tar.lzma has an unknown compression; xz, zstd and gzip are supported"
    );
    let empty = Tree::new().done();
    assert_eq!(
        refused(&[format, ("control.tar", &empty), ("data.tar", &data)]),
        "PACKAGE has no control file"
    );
    let nameless = Tree::new().file("./control", b"Version: 1\nDescription: x\n Package: y\n").done();
    assert_eq!(
        refused(&[format, ("control.tar", &nameless), ("data.tar", &data)]),
        "PACKAGE is damaged: the control file has no field Package"
    );

    let good = ar(&[format, ("control.tar", &control), ("data.tar", &data)]);
    let mut content = good.clone();
    content[66] = b'x';
    assert_eq!(scene.refused(&content), "PACKAGE is damaged: no end mark in the member header at byte 8");
    for size in ["-4", "+4", "4 4", "", "0x4", "9999999999"] {
        let mut content = good.clone();
        content[56..66].copy_from_slice(format!("{size:<10}").as_bytes());
        let message = if size.starts_with('9') {
            "PACKAGE ends too early, in debian-binary"
        } else {
            "PACKAGE is damaged: the size is not a number in the member header at byte 8"
        };
        assert_eq!(scene.refused(&content), message, "{size}");
    }
    let cut = good.len() - 2;
    assert_eq!(scene.refused(&good[..cut]), "PACKAGE ends too early, in data.tar");
    assert_eq!(scene.refused(&good[..100]), "PACKAGE ends too early");
}

/// Returns an archive with one good member, to which tests add others.
fn tree() -> Tree {
    Tree::new().file("./usr/bin/qemu-aarch64", &elf(1, 10))
}

#[test]
fn a_name_that_leads_out_is_refused() {
    let scene = Scene::new();
    let refused = |tree: Tree| scene.refused(&deb("", &tree.done()));
    for path in ["../qemu-arm", "./usr/../../qemu-arm", "/usr/bin/qemu-arm", "..", "a/.."] {
        let message = format!("PACKAGE is hostile: the name {path} points outside of the package");
        assert_eq!(refused(tree().file(path, &elf(2, 9))), message);
        assert_eq!(refused(tree().link(EntryType::Symlink, path, "x")), message);
    }
    assert_eq!(
        refused(tree().file("../\u{1b}[2J", b"")),
        "PACKAGE is hostile: the name ../\\x1b[2J points outside of the package"
    );
}

#[test]
fn a_wrong_size_is_refused() {
    let scene = Scene::new();
    let refused = |tree: Tree| scene.refused(&deb("", &tree.done()));
    let sized = |size| Tree::header(EntryType::Regular, "./qemu-arm", size);
    assert_eq!(refused(tree().raw(&sized(2000), b"")), "PACKAGE ends too early, in qemu-arm");
    assert_eq!(
        refused(tree().raw(&sized((128 << 20) + 1), b"")),
        "PACKAGE: qemu-arm exceeds a limit: larger than 128 MiB"
    );
    for size in [(4 << 30) + 1, u64::MAX / 2] {
        assert_eq!(
            refused(tree().raw(&sized(size), b"")),
            "PACKAGE: ./qemu-arm exceeds a limit: larger than 4 GiB unpacked"
        );
    }
}

#[test]
fn a_damaged_header_is_refused() {
    let scene = Scene::new();
    let refused = |tree: Tree| scene.refused(&deb("", &tree.done()));
    let sized = |size| Tree::header(EntryType::Regular, "./qemu-arm", size);
    let mut negative = sized(0);
    negative.as_mut_bytes()[124..136].fill(0xff);
    negative.set_cksum();
    assert!(refused(tree().raw(&negative, b"")).starts_with("cannot unpack data.tar of PACKAGE: "));
    let mut letters = sized(0);
    letters.as_mut_bytes()[124..136].fill(b'z');
    letters.set_cksum();
    assert!(refused(tree().raw(&letters, b"")).starts_with("cannot unpack data.tar of PACKAGE: "));
    // The decoder's message contains unescaped names.
    let mut forged = Tree::header(EntryType::Regular, "q\u{1b}[2J\n     hint: x", 0);
    forged.as_mut_bytes()[124..136].fill(b'z');
    forged.set_cksum();
    let message = refused(tree().raw(&forged, b""));
    assert!(message.contains("q\\u{1b}[2J\\n     hint: x"), "{message:?}");
    assert!(!message.contains(char::is_control), "{message:?}");
    let mut unsummed = sized(0);
    unsummed.as_mut_bytes()[0] = b'x';
    assert_eq!(
        refused(tree().raw(&unsummed, b"")),
        "cannot unpack data.tar of PACKAGE: archive header checksum mismatch"
    );
}

#[test]
fn a_sparse_file_or_a_second_size_is_refused() {
    let scene = Scene::new();
    let refused = |tree: Tree| scene.refused(&deb("", &tree.done()));
    let sparse = Tree::header(EntryType::GNUSparse, "./qemu-arm", 0);
    let message = "PACKAGE: ./qemu-arm is a sparse file, which is not supported";
    assert_eq!(refused(tree().raw(&sparse, b"")), message);
    let mut pax = tree();
    pax.0.append_pax_extensions([("GNU.sparse.realsize", &b"9"[..])]).unwrap();
    assert_eq!(refused(pax.file("./qemu-arm", b"")), message);
    for (size, message) in [
        ("5", "PACKAGE is damaged: data.tar: ./qemu-arm has two sizes"),
        ("-5", "PACKAGE is damaged: data.tar: a size in an extended header is not a number"),
        ("99999999999", "PACKAGE: ./qemu-arm exceeds a limit: larger than 4 GiB unpacked"),
    ] {
        let mut pax = tree();
        pax.0.append_pax_extensions([("size", size.as_bytes())]).unwrap();
        assert_eq!(refused(pax.file("./qemu-arm", b"")), message);
    }
    let name = vec![b'n'; (64 << 10) + 1];
    let long = Tree::header(EntryType::GNULongName, "././@LongLink", name.len() as u64);
    assert_eq!(
        refused(tree().raw(&long, &name)),
        "PACKAGE: data.tar exceeds a limit: a name longer than 64 KiB"
    );
}

#[test]
fn too_many_members_are_refused() {
    let mut tree = Tree::new();
    let header = Tree::header(EntryType::Symlink, "./l", 0);
    for _ in 0..=100_000 {
        tree = tree.raw(&header, b"");
    }
    assert_eq!(
        Scene::new().refused(&deb(".gz", &tree.done())),
        "PACKAGE: package exceeds a limit: more than 100000 files"
    );
}

#[test]
fn too_large_a_control_is_refused() {
    let scene = Scene::new();
    let data = good_tree();
    let refused = |control: &[u8]| {
        let members: [(&str, &[u8]); 3] =
            [("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar", &data)];
        scene.refused(&ar(&members))
    };
    let large = Tree::new().file("./control", &vec![b' '; (1 << 20) + 1]).done();
    assert_eq!(refused(&pack(".gz", &large)), "PACKAGE: control exceeds a limit: larger than 1 MiB");
    let tree = Tree::new().file("./md5sums", &vec![b' '; 40 << 20]);
    let tree = tree.file("./postinst", &vec![b' '; 40 << 20]).file("./control", CONTROL.as_bytes());
    assert_eq!(
        refused(&pack(".gz", &tree.done())),
        "PACKAGE: control.tar.gz exceeds a limit: larger than 64 MiB unpacked"
    );
}

#[test]
fn a_decoder_that_needs_too_much_memory_is_refused() {
    // An encoder for 512 MiB needs more memory than a 32-bit host has. So the test writes that size over the size in a
    // small file. The size is in the header of the only block, whose only filter is LZMA2, and the header ends with its
    // checksum.
    let mut xz = xz(&good_tree(), 1 << 20);
    let (header, sum) = xz[12..24].split_at_mut(8);
    assert_eq!(header[..4], [2, 0, 0x21, 1]);
    header[4] = 34;
    let mut crc = flate2::Crc::new();
    crc.update(header);
    sum.copy_from_slice(&crc.sum().to_le_bytes());
    // Magic, a descriptor without a content size, and the window's exponent and mantissa: 2 GiB.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0, 0, 0];
    for (name, data) in [("data.tar.xz", &xz[..]), ("data.tar.zst", &zstd)] {
        let scene = Scene::new();
        let content = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (name, data)]);
        let error = scene.extract(&content, &["qemu-arm"]).unwrap_err();
        assert!(matches!(error, PackageError::Limit { limit: Limit::Memory, .. }), "{name}: {error:?}");
        let limit = "more memory needed to unpack than 80 MiB (xz) or 128 MiB (zstd)";
        assert_eq!(scene.refused(&content), format!("PACKAGE: {name} exceeds a limit: {limit}"));
    }
}

#[test]
fn data_of_another_compression_than_its_name_is_refused() {
    for suffix in ["", ".gz", ".xz", ".zst"] {
        for other in ["", ".gz", ".xz", ".zst"] {
            if suffix == other {
                continue;
            }
            let (name, data) = (format!("data.tar{suffix}"), pack(other, &good_tree()));
            let content = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (&name, &data)]);
            let message = Scene::new().refused(&content);
            assert!(message.starts_with(&format!("cannot unpack {name} of PACKAGE: ")), "{other}: {message}");
        }
    }
}
