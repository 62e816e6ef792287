//! Packages in the formats of rpm, Alpine and Arch, tar archives and images: extracted files and refused content.

use qus::package::{Outcome, Package, PackageInfo, Sha256};
use tar::EntryType;

use crate::build::{Cpio, Tree, apk, descriptor, docker, elf, oci, pack, rpm, rpm_header, rpm_with};
use crate::scene::{Scene, placed};

const COMPRESSIONS: [&str; 4] = ["", ".gz", ".xz", ".zst"];

fn info(content: &[u8]) -> Option<PackageInfo> {
    Package::open(&Scene::new().package(content)).unwrap().info().cloned()
}

fn tree() -> Vec<u8> {
    Tree::new()
        .link(EntryType::Directory, "usr/bin/", "")
        .file("usr/bin/qemu-aarch64-static", &elf(1, 150_000))
        .link(EntryType::Symlink, "usr/bin/qemu-none", "qemu-aarch64")
        .file("usr/bin/qemu-arm", &elf(2, 301))
        .done()
}

fn cpio() -> Cpio {
    Cpio::new()
        .member("./usr/bin", 0o040_755, (2, 2), 0, b"")
        .file("./usr/bin/qemu-aarch64-static", &elf(1, 150_000))
        .member("./usr/bin/qemu-none", 0o120_777, (3, 1), 12, b"qemu-aarch64")
        .file("./usr/bin/qemu-arm", &elf(2, 301))
}

/// Expects that the files of [`tree`] and [`cpio`] are extracted from `content`.
fn gives_all(content: &[u8], what: &str) {
    let scene = Scene::new();
    let extraction = scene.extract(content, &["qemu-aarch64", "qemu-arm", "qemu-none"]).unwrap();
    let expected = [("qemu-aarch64", 150_004, Outcome::New), ("qemu-arm", 305, Outcome::Replaced)];
    assert_eq!(placed(&extraction), expected, "{what}");
    let expected = [("qemu-aarch64", elf(1, 150_000)), ("qemu-arm", elf(2, 301))];
    assert_eq!(scene.state(), expected.map(|(name, content)| (name.to_owned(), content)).into(), "{what}");
}

#[test]
fn an_rpm_of_every_compression_gives_its_files() {
    for suffix in COMPRESSIONS {
        let content = rpm(&pack(suffix, &cpio().done()));
        gives_all(&content, suffix);
        let info = info(&content).unwrap();
        assert_eq!((info.name.as_str(), info.version.as_str()), ("qemu-user-static-arm", "2:9.1.0-2.fc41"));
        assert_eq!(info.architecture, "x86_64");
    }
}

#[test]
fn an_archive_of_every_compression_gives_its_files() {
    for suffix in COMPRESSIONS {
        let content = pack(suffix, &tree());
        gives_all(&content, suffix);
        assert_eq!(info(&content), None);
    }
}

#[test]
fn packages_of_arch_and_alpine_describe_themselves() {
    let content = apk(&tree());
    gives_all(&content, "apk");
    let description = info(&content).unwrap();
    assert_eq!((description.name.as_str(), description.version.as_str()), ("qemu-arm", "9.1.0-r2"));

    let info_file = b"pkgname = qemu-user-static\npkgbase = qemu\npkgver = 9.1.0-1\narch = x86_64\n";
    let package = |info_file: &[u8]| {
        let mut head = Tree::new().file(".BUILDINFO", b"x").file(".PKGINFO", info_file).done();
        head.truncate(head.len() - 1024);
        pack(".zst", &[head, tree()].concat())
    };
    gives_all(&package(info_file), "arch");
    let description = info(&package(info_file)).unwrap();
    assert_eq!((description.name.as_str(), description.version.as_str()), ("qemu-user-static", "9.1.0-1"));
    assert_eq!(
        Scene::new().refused(&package(b"pkgname = x\n")),
        "PACKAGE is damaged: .PKGINFO has no pkgver"
    );
    let large = vec![b' '; (1 << 20) + 1];
    let message = "PACKAGE: .PKGINFO exceeds a limit: larger than 1 MiB";
    assert_eq!(Scene::new().refused(&package(&large)), message);
}

#[test]
fn hard_links_share_the_content_that_comes_with_the_last() {
    let scene = Scene::new();
    let links = Cpio::new()
        .member("./usr/bin/qemu-arm", 0o100_755, (7, 3), 0, b"")
        .member("./usr/bin/other", 0o100_755, (7, 3), 0, b"")
        .member("./usr/bin/qemu-s390x", 0o100_755, (7, 3), 9, &elf(1, 5))
        .done();
    let extraction = scene.extract(&rpm(&links), &["qemu-arm", "qemu-s390x", "qemu-none"]).unwrap();
    assert_eq!(placed(&extraction), [("qemu-arm", 9, Outcome::Replaced), ("qemu-s390x", 9, Outcome::New)]);
    assert_eq!(scene.state()["qemu-arm"], elf(1, 5));
    let scene = Scene::new();
    let hostile = Cpio::new()
        .member("../qemu-arm", 0o100_755, (7, 2), 0, b"")
        .member("./qemu-s390x", 0o100_755, (7, 2), 9, &elf(1, 5))
        .done();
    let message = "PACKAGE is hostile: the name ../qemu-arm points outside of the package";
    assert_eq!(scene.refused(&rpm(&hostile)), message);
}

/// Returns a package of format 6 with a directory, a symbolic link and files, of which two are hard links.
fn rpm_of_format_6(payload: &[u8]) -> Vec<u8> {
    let words = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>();
    let modes: [u16; 5] = [0o040_755, 0o120_777, 0o100_755, 0o100_755, 0o100_755];
    let modes: Vec<u8> = modes.iter().flat_map(|mode| mode.to_be_bytes()).collect();
    let arm = elf(2, 301).len() as u64;
    let s390x = elf(3, 9).len() as u64;
    let sizes: Vec<u8> = [4096, 3, arm, s390x, s390x].iter().flat_map(|size| size.to_be_bytes()).collect();
    let entries: [(u32, u32, &[u8]); 7] = [
        (1030, 3, &modes),
        (1095, 4, &words(&[1; 5])),
        (1096, 4, &words(&[1, 2, 3, 4, 4])),
        (1116, 4, &words(&[0, 1, 1, 1, 1])),
        (1117, 8, b"bin\0link\0qemu-arm\0qemu-s390x\0qemu-390\0"),
        (1118, 8, b"/usr/\0/usr/bin/\0"),
        (5008, 5, &sizes),
    ];
    rpm_with(&entries, payload)
}

#[test]
fn members_of_an_rpm_may_have_numbers_for_names() {
    let scene = Scene::new();
    let whole = || {
        Cpio::new()
            .numbered(0, b"")
            .numbered(1, b"arm")
            .numbered(2, &elf(2, 301))
            .numbered(3, b"")
            .numbered(4, &elf(3, 9))
    };
    let content = rpm_of_format_6(&pack(".gz", &whole().done()));
    let extraction = scene.extract(&content, &["qemu-arm", "qemu-s390x", "qemu-390", "link"]).unwrap();
    assert_eq!(extraction.placed.len(), 3);
    assert_eq!(scene.state()["qemu-arm"], elf(2, 301));
    assert_eq!(scene.state()["qemu-s390x"], elf(3, 9));
    assert_eq!(scene.state()["qemu-390"], elf(3, 9));

    let number = "PACKAGE is damaged: the payload: a member has a number that no file has";
    assert_eq!(scene.refused(&rpm_of_format_6(&Cpio::new().numbered(5, b"").done())), number);
    assert_eq!(scene.refused(&rpm(&whole().done())), number);
    assert_eq!(
        scene.refused(&rpm_of_format_6(b"07070X+0000001")),
        "PACKAGE is damaged: the payload: a field of a header is not a number"
    );
    let names = vec![0; 100_001];
    let entries: [(u32, u32, &[u8]); 1] = [(1117, 8, &names)];
    assert_eq!(
        scene.refused(&rpm_with(&entries, b"0707")),
        "PACKAGE is damaged: a list of files is too large"
    );
}

#[test]
fn a_broken_rpm_is_refused() {
    let scene = Scene::new();
    let good = rpm(&cpio().done());
    let refused = |at: usize, bytes: &[u8]| {
        let mut content = good.clone();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        scene.refused(&content)
    };
    assert_eq!(refused(96, b"x"), "PACKAGE is damaged: no header at byte 96");
    assert_eq!(refused(99, b"\x02"), "PACKAGE is damaged: no header at byte 96");
    let large = "PACKAGE is damaged: the header at byte 96 is larger than rpm accepts";
    assert_eq!(refused(104, &[0xff; 4]), large);
    assert_eq!(refused(108, &[0xff; 4]), large);
    assert_eq!(refused(108, &[0x0f, 0xff, 0xff, 0xff]), "PACKAGE ends too early");
    // Offset of the second header: 96 + 16 + 16 + 4, rounded up to a multiple of eight.
    assert_eq!(refused(136, b"x"), "PACKAGE is damaged: no header at byte 136");
    assert_eq!(refused(152, &[9]), "PACKAGE is damaged: the header has no name");
    assert_eq!(refused(160, &[0xff; 4]), "PACKAGE ends too early");

    let payload = good.len() - cpio().done().len();
    assert_eq!(scene.refused(&good[..payload]), "PACKAGE ends too early");
    let unknown = "PACKAGE: the payload has an unknown compression; xz, zstd and gzip are supported";
    assert_eq!(refused(payload, b"BZh9"), unknown);
    let magic = "PACKAGE is damaged: the payload: a member does not begin with 070701, 070702 or 07070X";
    assert_eq!(refused(payload, b"070707"), magic);
    assert_eq!(
        refused(payload + 6, b"+0000001"),
        "PACKAGE is damaged: the payload: a field of a header is not a number"
    );
    assert_eq!(
        refused(payload + 94, b"00010001"),
        "PACKAGE: the payload exceeds a limit: a name longer than 64 KiB"
    );
    assert_eq!(
        refused(payload + 94, b"00000005"),
        "PACKAGE is damaged: the payload: a name does not end with its only zero byte"
    );
    let endless = rpm_header(&[(1000, 6, b"name")]);
    let content = [&good[..136], &endless, b"070701"].concat();
    assert_eq!(scene.refused(&content), "PACKAGE is damaged: a text in the header is not terminated");
}

#[test]
fn a_hostile_cpio_archive_is_refused() {
    let scene = Scene::new();
    let refused = |cpio: Cpio| scene.refused(&rpm(&cpio.done()));
    for path in ["../qemu-arm", "/usr/bin/qemu-arm", "./a/../../qemu-arm"] {
        let message = format!("PACKAGE is hostile: the name {path} points outside of the package");
        assert_eq!(refused(cpio().file(path, b"")), message);
        assert_eq!(refused(cpio().member(path, 0o120_777, (9, 1), 1, b"x")), message);
    }
    let sized = |size| Cpio::new().member("qemu-arm", 0o100_755, (9, 1), size, b"");
    let large = "PACKAGE: qemu-arm exceeds a limit: larger than 128 MiB";
    assert_eq!(refused(sized((128 << 20) + 1)), large);
    assert!(refused(sized(2000)).starts_with("cannot unpack qemu-arm of PACKAGE"));
    // Devices and links with a selected name are not files.
    for mode in [0o020_755, 0o060_755, 0o120_777, 0o010_644, 0o140_755] {
        let content = rpm(&Cpio::new().member("qemu-arm", mode, (9, 1), 0, b"").done());
        assert!(scene.extract(&content, &["qemu-arm"]).unwrap().placed.is_empty());
    }
    let mut full_range = Cpio::new();
    for _ in 0..=1000 {
        full_range = full_range.member("l", 0o100_755, (9, 2), 0, b"");
    }
    let message = "PACKAGE is damaged: the payload: more than 1000 hard links wait for their content";
    assert_eq!(refused(full_range), message);
}

#[test]
fn the_sum_of_a_file_is_compared_where_there_is_one() {
    let mut content = Cpio::new().file("qemu-arm", &elf(1, 9)).done();
    let sum: u32 = elf(1, 9).iter().map(|byte| u32::from(*byte)).sum();
    content[..6].copy_from_slice(b"070702");
    let scene = Scene::new();
    let message = "cannot unpack qemu-arm of PACKAGE: the sum of a file does not match";
    assert_eq!(scene.refused(&rpm(&content)), message);
    content[102..110].copy_from_slice(format!("{sum:08x}").as_bytes());
    assert_eq!(scene.extract(&rpm(&content), &["qemu-arm"]).unwrap().placed.len(), 1);
}

#[test]
fn an_image_gives_what_its_layers_leave() {
    let lower = Tree::new()
        .file("usr/bin/qemu-aarch64", &elf(1, 150_000))
        .file("usr/bin/qemu-arm", &elf(9, 9))
        .file("usr/bin/qemu-s390x", &elf(3, 9))
        .file("opt/a/qemu-mips", &elf(4, 9))
        .file("opt/b/qemu-ppc", &elf(5, 9))
        .file("srv/qemu-hppa", &elf(6, 9))
        .done();
    let upper = Tree::new()
        .file("./usr/bin/qemu-arm", &elf(2, 301))
        .file("./usr/bin/.wh.qemu-s390x", b"")
        .file("./opt/.wh.a", b"")
        .file("./opt/b/.wh..wh..opq", b"")
        .file("./opt/b/qemu-sparc", &elf(7, 9))
        .link(EntryType::Symlink, "./srv", "usr")
        .done();
    let names = ["aarch64", "arm", "s390x", "mips", "ppc", "hppa", "sparc"];
    let names = names.map(|name| format!("qemu-{name}"));
    let names = names.each_ref().map(String::as_str);
    let expected = [
        ("qemu-arm", 305, Outcome::Replaced),
        ("qemu-sparc", 13, Outcome::New),
        ("qemu-aarch64", 150_004, Outcome::New),
    ];
    for suffix in COMPRESSIONS {
        let layers = [pack(suffix, &lower), pack(suffix, &upper)];
        let manifest = serde_json::json!({"layers": [descriptor("low", None), descriptor("up", None)]});
        let blobs = [
            ("low", layers[0].clone()),
            ("up", layers[1].clone()),
            ("manifest", manifest.to_string().into_bytes()),
        ];
        let images = [docker(&[("amd64", &layers)]), oci(&[descriptor("manifest", Some("amd64"))], &blobs)];
        for image in images {
            let scene = Scene::new();
            assert_eq!(placed(&scene.extract(&image, &names).unwrap()), expected, "{suffix}");
            assert_eq!(scene.state()["qemu-arm"], elf(2, 301));
            let scene = Scene::new();
            assert_eq!(placed(&scene.extract(&pack(suffix, &image), &names).unwrap()), expected, "{suffix}");
        }
    }
}

/// Returns the architecture of this host and another one, by the names that images use.
fn architectures() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", "arm64"),
        "aarch64" => ("arm64", "amd64"),
        other => (other, "amd64"),
    }
}

#[test]
fn of_several_images_the_one_for_this_host_is_taken() {
    let (own, other) = architectures();
    let third = if own == "s390x" { "ppc64le" } else { "s390x" };
    let layer = |tag| vec![Tree::new().file("usr/bin/qemu-arm", &elf(tag, 9)).done()];
    let (wrong, right) = (layer(1), layer(2));
    let scene = Scene::new();
    scene.extract(&docker(&[(other, &wrong), (own, &right)]), &["qemu-arm"]).unwrap();
    assert_eq!(scene.state()["qemu-arm"], elf(2, 9));
    let message = "PACKAGE has no image for this host";
    assert_eq!(scene.refused(&docker(&[(other, &wrong), (third, &right)])), message);
    // A single image is accepted whatever its architecture is, because the user chose it.
    scene.extract(&docker(&[(other, &wrong)]), &["qemu-arm"]).unwrap();
    assert_eq!(scene.state()["qemu-arm"], elf(1, 9));

    let manifest = |layer: &str, config: &str| {
        let config = descriptor(config, None);
        serde_json::json!({"config": config, "layers": [descriptor(layer, None)]}).to_string().into_bytes()
    };
    let index = serde_json::json!({"manifests": [descriptor("m1", None), descriptor("m2", None)]});
    let config = |architecture: &str| format!(r#"{{"architecture":"{architecture}"}}"#).into_bytes();
    let blobs = [
        ("l1", wrong[0].clone()),
        ("l2", right[0].clone()),
        ("c1", config(other)),
        ("c2", config(own)),
        ("m1", manifest("l1", "c1")),
        ("m2", manifest("l2", "c2")),
        ("index", index.to_string().into_bytes()),
    ];
    // An index within the index, and a descriptor whose platform is another one and whose blob is missing.
    scene
        .extract(&oci(&[descriptor("gone", Some(other)), descriptor("index", None)], &blobs), &["qemu-arm"])
        .unwrap();
    assert_eq!(scene.state()["qemu-arm"], elf(2, 9));
}

#[test]
fn a_lying_image_is_refused() {
    let scene = Scene::new();
    let image = |manifest: &str| Tree::new().file("manifest.json", manifest.as_bytes());
    let refused = |manifest: &str| scene.refused(&image(manifest).done());
    assert!(refused("{").starts_with("PACKAGE is damaged: manifest.json is not JSON: "));
    assert!(refused(&"[".repeat(100_000)).starts_with("PACKAGE is damaged: manifest.json is not JSON: "));
    assert_eq!(refused("[]"), "PACKAGE has no image for this host");
    assert_eq!(refused(r#"[{"Layers":1}]"#), "PACKAGE is damaged: manifest.json names no layers");
    assert_eq!(
        refused(r#"[{"Layers":[1]}]"#),
        "PACKAGE is damaged: manifest.json has a layer without a path"
    );
    assert_eq!(refused(r#"[{"Layers":["../x"]}]"#), "PACKAGE is damaged: it has no ../x");
    assert_eq!(
        refused(&" ".repeat((1 << 20) + 1)),
        "PACKAGE: manifest.json exceeds a limit: larger than 1 MiB"
    );
    let full_range = serde_json::json!([{"Layers": vec!["manifest.json"; 513]}]).to_string();
    assert_eq!(refused(&full_range), "PACKAGE is damaged: it has more than 512 layers");
    // An image is not a layer of itself.
    let message = refused(r#"[{"Layers":["manifest.json"]}]"#);
    assert!(message.starts_with("cannot unpack manifest.json of PACKAGE"), "{message}");

    let hostile = Tree::new().file("a/../../qemu-arm", &elf(1, 9)).done();
    let message = "PACKAGE is hostile: the name a/../../qemu-arm points outside of the package";
    assert_eq!(scene.refused(&docker(&[("amd64", &[hostile])])), message);

    // A blob whose name is a digest must have this digest.
    let layer = Tree::new().file("usr/bin/qemu-arm", &elf(1, 9)).done();
    let digest = |mut content: &[u8]| Sha256::of(&mut content).unwrap().to_string();
    let name = digest(&layer);
    let manifest = serde_json::json!({"layers": [descriptor(&name, None)]}).to_string().into_bytes();
    let index = [descriptor(&digest(&manifest), None)];
    let good = [(name.as_str(), layer.clone()), (&digest(&manifest), manifest.clone())];
    Scene::new().extract(&oci(&index, &good), &["qemu-arm"]).unwrap();
    for liar in 0..2 {
        let mut lying = good.clone();
        lying[liar].1.push(b' ');
        let (name, content) = &lying[liar];
        let message = format!("PACKAGE is damaged: blobs/sha256/{name} has the SHA-256 {}", digest(content));
        assert_eq!(scene.refused(&oci(&index, &lying)), message);
    }

    let cycle = serde_json::json!({"manifests": [descriptor("cycle", None)]}).to_string().into_bytes();
    assert_eq!(
        scene.refused(&oci(&[descriptor("cycle", None)], &[("cycle", cycle)])),
        "PACKAGE is damaged: its indexes form a loop"
    );
    // Each of 1000 indexes contains the same 1000 indexes.
    let wide = |name| serde_json::json!({"manifests": vec![descriptor(name, None); 1000]});
    let wide = |name| wide(name).to_string().into_bytes();
    let blobs = [("a", wide("b")), ("b", wide("c")), ("c", b"{\"manifests\":[]}".to_vec())];
    let message = scene.refused(&oci(&[descriptor("a", None)], &blobs));
    assert_eq!(message, "PACKAGE is damaged: it has more than 1000 images and indexes");
    let message = scene.refused(&oci(&[serde_json::json!({"digest": "x"})], &[]));
    assert_eq!(message, "PACKAGE is damaged: a descriptor has no digest");
}

#[test]
fn layers_share_one_limit_of_unpacked_bytes() {
    // Unpacking a layer of 4 GiB would take long, so the headers state false sizes. Each is above the remaining limit.
    let layer = |size| Tree::new().raw(&Tree::header(EntryType::Regular, "big", size), b"").done();
    let message = Scene::new().refused(&docker(&[("amd64", &[layer((4 << 30) + 1)])]));
    assert_eq!(message, "PACKAGE: big exceeds a limit: larger than 4 GiB unpacked");
}

#[test]
fn what_is_no_archive_inside_is_refused() {
    let scene = Scene::new();
    let unknown = "PACKAGE is not a package, archive, image, directory or ELF program";
    for suffix in [".gz", ".xz", ".zst"] {
        assert_eq!(scene.refused(&pack(suffix, b"just text")), unknown, "{suffix}");
        assert_eq!(scene.refused(&pack(suffix, &pack(suffix, &tree()))), unknown, "{suffix}");
    }
    let hostile = Tree::new().file("../qemu-arm", &elf(1, 9)).done();
    let message = "PACKAGE is hostile: the name ../qemu-arm points outside of the package";
    assert_eq!(scene.refused(&hostile), message);
}
