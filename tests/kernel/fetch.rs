//! `qus fetch --from` and `qus register --from`: from a directory, a file, a package, and files that only resemble one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};

use crate::build::{Cpio, Tree, apk, ar, control, deb, descriptor, docker, oci, pack, rpm};
use crate::downloads::{self, interpreter};
use crate::lab::{Lab, Ran, busybox, order};

/// Returns the interpreters in the directory `dest`, with their sizes.
fn files(lab: &Lab) -> BTreeMap<String, u64> {
    let Ok(files) = fs::read_dir(lab.path("dest")) else { return BTreeMap::new() };
    files
        .map(|file| file.unwrap())
        .filter(|file| file.path().extension().is_none_or(|end| end != "json"))
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len()))
        .collect()
}

/// Expects that `qus fetch` and `qus register` refuse `source` for arm, and leave the directory `dest` unchanged.
fn refused(lab: &Lab, source: &str, message: &str) -> Ran {
    let before = files(lab);
    for word in ["fetch", "register"] {
        let words = [word, "--from", source, "--dest", "dest", "arm"];
        lab.refused(words, 2, message).suggests("qus fetch --dest dest arm");
        assert_eq!(files(lab), before);
    }
    lab.refused(["fetch", "--from", source, "--dest", "dest", "all"], 2, message)
}

kernel_test!(fetch_takes_from_a_directory);
fn fetch_takes_from_a_directory(lab: &Lab) {
    let source = downloads::distribution();
    let words = ["fetch", "--from", source.to_str().unwrap(), "--dest", "dest", "arm", "linux/s390x"];
    let dest = lab.path("dest");
    let description = |arm: &str, s390x: &str| {
        let printed = lab.done(words);
        let rows: Vec<String> =
            printed.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let row = |arch: &str, word: &str| format!("{arch} {word} {}/qemu-{arch}-static", dest.display());
        assert_eq!(rows, [row("arm", arm), row("s390x", s390x)]);
    };
    description("fetched", "fetched");
    for arch in ["arm", "s390x"] {
        let file = format!("qemu-{arch}-static");
        assert_eq!(fs::read(dest.join(&file)).unwrap(), fs::read(source.join(&file)).unwrap());
    }
    let before = files(lab);
    assert_eq!(before.len(), 2);
    description("unchanged", "unchanged");
    assert_eq!(files(lab), before);
    fs::write(dest.join("qemu-arm-static"), "old").unwrap();
    description("replaced", "unchanged");
    assert_eq!(files(lab), before);

    let value = lab.json(words);
    assert_eq!(value["dest"], dest.to_str().unwrap());
    assert_eq!((&value["missing"], &value["refused"]), (&serde_json::json!([]), &serde_json::json!([])));
    let file = &value["files"][0];
    assert_eq!((&file["arch"], &file["outcome"]), (&"arm".into(), &"unchanged".into()));
    assert_eq!(file["size"], before["qemu-arm-static"]);
    // No handler is registered.
    assert!(order().is_empty());
}

kernel_test!(fetch_takes_a_single_file);
fn fetch_takes_a_single_file(lab: &Lab) {
    let source = interpreter("arm");
    let source = source.to_str().unwrap();
    assert!(lab.done(["fetch", "--from", source, "--dest", "dest", "all"]).contains(" fetched "));
    assert!(lab.done(["fetch", "--from", source, "--dest", "dest", "arm"]).contains(" unchanged "));
    let message = format!("{source} does not have the name of a requested interpreter");
    lab.refused(["fetch", "--from", source, "--dest", "dest", "s390x"], 2, &message);
    assert_eq!(files(lab).len(), 1);
}

/// Returns a tree with the interpreter of arm at Debian's path.
fn tree() -> Tree {
    Tree::new().file("./usr/bin/qemu-arm-static", &fs::read(interpreter("arm")).unwrap())
}

kernel_test!(fetch_takes_from_a_package);
fn fetch_takes_from_a_package(lab: &Lab) {
    fs::write(lab.path("some.deb"), deb(".gz", &tree().done())).unwrap();
    let words = ["fetch", "--from", "some.deb", "--dest", "dest", "arm"];
    let printed = lab.done(words);
    assert!(
        printed.starts_with("arm  fetched  ") && printed.ends_with("  from qemu-user-static 1:7.2\n"),
        "{printed}"
    );
    let file = &lab.json(words)["files"][0];
    assert_eq!((&file["package"], &file["version"]), (&"qemu-user-static".into(), &"1:7.2".into()));
    assert!(lab.done(["register", "--interpreter-dir", "dest", "arm"]).contains(" registered "));
    // `register --from` does both: it fetches the interpreter, and registers it.
    lab.done(["reset"]);
    let words = ["register", "--from", "some.deb", "--dest", "other", "arm"];
    assert!(lab.done(words).contains(" registered "));
    assert!(lab.done(words).contains(" unchanged "));
}

kernel_test!(fetch_reports_what_is_missing);
fn fetch_reports_what_is_missing(lab: &Lab) {
    fs::write(lab.path("some.deb"), deb("", &tree().done())).unwrap();
    let message = "the source has no static interpreter for s390x sparc";
    let words = ["fetch", "--from", "some.deb", "--dest", "dest", "arm", "s390x", "sparc"];
    let ran = lab.qus(words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stdout.starts_with("arm  fetched  "), "{ran:#?}");
    assert!(ran.stderr.contains(message), "{ran:#?}");
    ran.hints("name a package that has them: qus fetch --from PACKAGE s390x sparc");
    let value = lab.json(words);
    assert_eq!(value["missing"], serde_json::json!(["s390x", "sparc"]));
    assert_eq!(value["files"][0]["outcome"], "unchanged");
    fs::create_dir(lab.path("empty")).unwrap();
    let words = ["fetch", "--from", "empty", "--dest", "dest", "all"];
    let ran = lab.qus(words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("the source has no static interpreter for anything"), "{ran:#?}");
    ran.hints("name a package that has them: qus fetch --from PACKAGE all");
    let words = ["register", "--from", "empty", "--dest", "dest"];
    lab.refused(words, 2, "the source has no static interpreter for anything");
}

kernel_test!(fetch_reports_unusable_files);
fn fetch_reports_unusable_files(lab: &Lab) {
    lab.copy("source/qemu-arm-static", Path::new("/bin/true"));
    lab.copy("source/qemu-s390x-static", &downloads::busybox("s390x"));
    lab.link("source/qemu-mips-static", &interpreter("mips"));
    let words = ["fetch", "--from", "source", "--dest", "dest", "arm", "mips", "s390x"];
    let ran = lab.qus(words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("the source has no static interpreter for arm s390x\n"), "{ran:#?}");
    assert!(ran.stderr.contains("\n  arm: is not static: it needs /lib"), "{ran:#?}");
    assert!(ran.stderr.contains("\n  s390x: is a program for s390x, not for this host"), "{ran:#?}");
    assert_eq!(files(lab).keys().collect::<Vec<_>>(), ["qemu-mips-static"]);
    let value = lab.json(words);
    let refused: Vec<_> = value["refused"].as_array().unwrap().iter().map(|one| &one["arch"]).collect();
    assert_eq!(refused, ["arm", "s390x"]);

    let ran = lab.qus(["register", "--from", "source", "--dest", "dest", "arm", "mips"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(
        ran.stdout.contains("missing          the interpreter in source is not static: it needs /lib"),
        "{ran:#?}"
    );
    ran.suggests("qus register --fetch --dest dest arm");
    assert_eq!(order(), ["qemu-mips"]);
}

kernel_test!(a_damaged_package_is_refused);
fn a_damaged_package_is_refused(lab: &Lab) {
    let good = deb(".gz", &tree().done());
    let write = |content: &[u8]| fs::write(lab.path("some.deb"), content).unwrap();
    write(b"<html>404 Not Found</html>\n");
    refused(lab, "some.deb", "some.deb is not a package, archive, image, directory or ELF program");
    write(b"");
    refused(lab, "some.deb", "some.deb is empty");
    write(&good[..good.len() / 2]);
    refused(lab, "some.deb", "some.deb ends too early, in data.tar.gz");
    write(&good[..100]);
    refused(lab, "some.deb", "some.deb ends too early");
    write(&ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control())]));
    refused(lab, "some.deb", "some.deb has no data.tar");
    refused(lab, "nowhere.deb", "cannot open nowhere.deb: No such file or directory");
    // A good package works after all the bad ones.
    write(&good);
    lab.done(["fetch", "--from", "some.deb", "--dest", "dest", "arm"]);
}

kernel_test!(a_hostile_package_is_refused);
fn a_hostile_package_is_refused(lab: &Lab) {
    fs::create_dir(lab.path("dest")).unwrap();
    fs::write(lab.path("dest/qemu-arm-static"), "as it was").unwrap();
    let elf = fs::read(interpreter("arm")).unwrap();
    for path in ["./../qemu-arm-static", "/usr/bin/qemu-arm-static", "./usr/bin/../../../qemu-arm-static"] {
        fs::write(lab.path("some.deb"), deb("", &Tree::new().file(path, &elf).done())).unwrap();
        let message = format!("some.deb is hostile: the name {path} points outside of the package");
        refused(lab, "some.deb", &message);
    }
    let header = Tree::header(tar::EntryType::Regular, "./usr/bin/qemu-arm-static", 1 << 40);
    fs::write(lab.path("some.deb"), deb("", &Tree::new().raw(&header, b"\x7fELF").done())).unwrap();
    refused(lab, "some.deb", "some.deb: ./usr/bin/qemu-arm-static exceeds a limit: ");
    let names: Vec<String> = fs::read_dir(lab.path("."))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

kernel_test!(fetch_without_a_place_is_refused);
fn fetch_without_a_place_is_refused(lab: &Lab) {
    let source = interpreter("arm");
    let words = ["fetch", "--from", source.to_str().unwrap(), "arm"];
    lab.refused(words, 2, "this user has no home directory for interpreters")
        .hints("name a directory: qus fetch --dest DIR …");
    let words = ["fetch", "--from", source.to_str().unwrap(), "--dest", "/proc/nowhere", "arm"];
    lab.refused(words, 2, "cannot write /proc/nowhere: ")
        .hints("name a directory that can be written: qus fetch --dest DIR arm");
}

kernel_test!(fetch_without_space_leaves_what_was_there);
fn fetch_without_space_leaves_what_was_there(lab: &Lab) {
    let content = fs::read(interpreter("arm")).unwrap();
    let cpio = Cpio::new().file("./usr/bin/qemu-arm-static", &content).done();
    fs::write(lab.path("some.deb"), deb("", &tree().done())).unwrap();
    fs::write(lab.path("some.rpm"), rpm(&cpio)).unwrap();
    fs::write(lab.path("image"), docker(&[("amd64", &[tree().done()])])).unwrap();
    let dest = lab.path("dest");
    fs::create_dir(&dest).unwrap();
    mount(Some("none"), &dest, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    fs::write(dest.join("qemu-arm-static"), "as it was").unwrap();
    for source in ["some.deb", "some.rpm", "image"] {
        let words = ["fetch", "--from", source, "--dest", "dest", "arm"];
        let ran = lab.refused(words, 2, "/dest/qemu-arm-static: No space left on device");
        assert!(ran.messages().starts_with("qus: cannot write "), "{ran:#?}");
        ran.hints("name a directory that can be written: qus fetch --dest DIR arm");
        assert_eq!(fs::read(dest.join("qemu-arm-static")).unwrap(), b"as it was");
        assert_eq!(files(lab).len(), 1);
    }
    umount(&dest).unwrap();
}

kernel_test!(register_takes_from_every_shape);
fn register_takes_from_every_shape(lab: &Lab) {
    let content = fs::read(interpreter("arm")).unwrap();
    let cpio = Cpio::new().file("./usr/bin/qemu-arm-static", &content).done();
    let tar = tree().done();
    let manifest = serde_json::json!({"layers": [descriptor("layer", None)]}).to_string();
    let blobs = [("layer", pack(".gz", &tar)), ("manifest", manifest.into_bytes())];
    let shapes = [
        ("rpm", rpm(&pack(".gz", &cpio))),
        ("apk", apk(&tar)),
        ("docker", docker(&[("amd64", std::slice::from_ref(&tar))])),
        ("oci", oci(&[descriptor("manifest", None)], &blobs)),
        ("tar", tar),
    ];
    for (name, shape) in shapes {
        fs::write(lab.path("source"), shape).unwrap();
        let words = ["register", "--from", "source", "--dest", name, "--replace", "arm"];
        let printed = lab.done(words);
        assert!(printed.contains(&format!("/{name}/qemu-arm-static")), "{printed}");
        assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n", "{name}");
    }
    // Standard input is empty in these tests.
    lab.refused(["fetch", "--from", "-", "--dest", "dest", "arm"], 2, "standard input is empty");
}

kernel_test!(register_takes_from_a_directory);
fn register_takes_from_a_directory(lab: &Lab) {
    lab.copy("one/qemu-arm-static", &interpreter("arm"));
    lab.copy_with_a_byte_more("other/qemu-arm-static", &interpreter("arm"));
    let words = ["register", "--from", "one", "--dest", "dest", "arm"];
    let printed = lab.done(words);
    assert!(
        printed.contains(" registered ") && printed.contains("/dest/qemu-arm-static (QEMU "),
        "{printed}"
    );
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    assert!(lab.done(words).contains(" unchanged "));
    // The handler gets the other file that replaces the first.
    let words = ["register", "--from", "other", "--dest", "dest", "arm"];
    assert!(lab.done(words).contains("qemu-arm still ran the file that was replaced"));
}

kernel_test!(register_takes_from_the_named_source_alone);
fn register_takes_from_the_named_source_alone(lab: &Lab) {
    lab.link("dest/qemu-sparc-static", &interpreter("sparc"));
    lab.link("source/qemu-arm-static", &interpreter("arm"));
    let ran = lab.qus(["register", "--from", "source", "--dest", "dest", "arm", "sparc"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stdout.contains("sparc  missing          source has no interpreter for it\n"), "{ran:#?}");
    ran.suggests("qus register --fetch --dest dest sparc");
    assert_eq!(order(), ["qemu-arm"]);
    let words = ["register", "--from", "source", "--dest", "dest", "sparc"];
    lab.refused(words, 2, "the source has no static interpreter for sparc");
}
