//! `qus register --from` with packages of Debian, and with packages and archives that rpmbuild, bsdtar and tar make of
//! an emulator. With each source, a foreign program runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, Ran, busybox, run};
use crate::tools;

/// Directory from which the tools pack.
const TREE: &str = "tree";
/// Name of the packed interpreter.
const NAME: &str = "qemu-aarch64-static";

/// Registers arm64 from `source`, with the interpreter in `dest`. Expects that no handler exists before.
fn register(lab: &Lab, source: &Path, dest: &str) -> Ran {
    let words = ["register", "--from", source.to_str().unwrap(), "--dest", dest, "arm64"];
    let ran = lab.qus(words);
    if ran.status == 0 {
        let path = lab.path(dest).join(NAME);
        let row = format!("aarch64  registered  POF  {} (QEMU ", path.display());
        assert!(ran.stdout.starts_with(&row) && ran.stdout.lines().count() == 1, "{ran:#?}");
        assert!(lab.entries()["qemu-aarch64"].contains(&format!("interpreter {}\n", path.display())));
    }
    ran
}

/// Expects that a program of arm64 runs after `register --from source`, with the interpreter from that source.
fn works(lab: &Lab, source: &Path) {
    let dest = format!("dest-{}", source.file_name().unwrap().display());
    let ran = register(lab, source, &dest);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n", "{ran:#?}");
    assert_eq!(fs::read(lab.path(&dest).join(NAME)).unwrap(), fs::read(interpreter("aarch64")).unwrap());
    lab.clear();
}

/// Runs a shell script in the directory of the test, with the packages' programs in its `PATH`.
fn shell(lab: &Lab, script: &str) {
    let mut command = tools::command("sh");
    command.args(["-euc", script]).current_dir(lab.path("")).env("HOME", lab.path("home"));
    let ran = run(&mut command);
    assert_eq!(ran.status, 0, "{ran:#?}");
}

/// Creates the tree that the tools pack, and returns its path.
fn tree(lab: &Lab) -> PathBuf {
    tools::install();
    lab.copy(&format!("{TREE}/usr/bin/{NAME}"), &interpreter("aarch64"));
    lab.path(TREE)
}

kernel_test!(packages_of_debian_are_sources);
/// Tests both packages of emulators. `qemu-user-static` has static ones until Debian 12, `qemu-user` since Debian 13.
/// For the other package, with dynamically linked emulators or links, qus reports an error and registers nothing.
fn packages_of_debian_are_sources(lab: &Lab) {
    for part in ["distribution", "newer"] {
        let mut working = 0;
        for package in downloads::packages(part) {
            let name = format!("{part}-{}", package.file_stem().unwrap().display());
            let ran = register(lab, &package, &name);
            if ran.status == 0 {
                assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n", "{ran:#?}");
                lab.clear();
                working += 1;
            } else {
                assert_eq!(ran.status, 2, "{ran:#?}");
                let message = "qus: the source has no static interpreter for aarch64\n";
                assert!(ran.messages().starts_with(message), "{ran:#?}");
                assert!(lab.entries().is_empty());
            }
        }
        assert_eq!(working, 1, "of {part}");
    }
}

kernel_test!(packages_of_rpmbuild_are_sources);
fn packages_of_rpmbuild_are_sources(lab: &Lab) {
    let tree = tree(lab);
    for (compression, payload) in [("zstd", "w3.zstdio"), ("xz", "w2.xzdio"), ("gzip", "w6.gzdio")] {
        let spec = format!(
            "Name: qemu-user-static-aarch64\n\
             Version: 1.{compression}\n\
             Release: 1\n\
             Summary: an emulator\n\
             License: GPL\n\
             %define _binary_payload {payload}\n\
             %global __os_install_post %{{nil}}\n\
             %description\n\
             An emulator.\n\
             %install\n\
             mkdir -p %{{buildroot}}/usr/bin\n\
             cp {}/usr/bin/* %{{buildroot}}/usr/bin\n\
             %files\n\
             /usr/bin/*\n",
            tree.display()
        );
        fs::write(lab.path("spec"), spec).unwrap();
        shell(
            lab,
            "rpmbuild --quiet -bb --define \"_topdir $PWD/rpm\" --define \"_tmppath $PWD/rpm-tmp\" \
             --define 'debug_package %{nil}' --define '_build_id_links none' spec",
        );
        shell(lab, &format!("mv rpm/RPMS/*/*.rpm {compression}.rpm"));
        works(lab, &lab.path(&format!("{compression}.rpm")));
    }
}

/// Creates the tree of a package, with the description that packages of Arch Linux and Alpine have.
fn tree_with_pkginfo(lab: &Lab) -> PathBuf {
    let tree = tree(lab);
    let info = format!("pkgname = qemu-aarch64\npkgver = 9.1.0-r2\narch = {}\n", std::env::consts::ARCH);
    fs::write(tree.join(".PKGINFO"), info).unwrap();
    tree
}

kernel_test!(packages_of_bsdtar_are_sources);
/// Tests packages of bsdtar, with which Arch Linux makes its packages.
fn packages_of_bsdtar_are_sources(lab: &Lab) {
    tree_with_pkginfo(lab);
    for compression in ["zstd", "xz", "gzip"] {
        shell(
            lab,
            &format!(
                "bsdtar -c --{compression} --options compression-level=1 -f arch-{compression} -C tree .PKGINFO usr"
            ),
        );
        works(lab, &lab.path(&format!("arch-{compression}")));
    }
}

kernel_test!(archives_of_tar_are_sources);
/// Tests archives of tar. Alpine's packages are gzip streams, of which the first has no end-of-archive marker
/// (apk-v2(5)).
fn archives_of_tar_are_sources(lab: &Lab) {
    let tree = tree_with_pkginfo(lab);
    shell(lab, "{ tar -c -C tree .PKGINFO | head -c 1024 | gzip; tar -c -C tree usr | gzip; } >alpine.apk");
    works(lab, &lab.path("alpine.apk"));
    shell(lab, "tar -c -C tree usr >tar");
    works(lab, &lab.path("tar"));
    works(lab, &tree);
}
