//! The architecture of a handler is that of its pattern, and an emulator is recognised by any name that systems give it.

use std::fs;
use std::path::Path;

use qus::binfmt::Flags;

use crate::downloads::interpreter;
use crate::lab::{Lab, OURS, order};

kernel_test!(the_pattern_decides_the_architecture_of_a_handler);
/// Tests a handler that starts the emulator of another architecture.
fn the_pattern_decides_the_architecture_of_a_handler(lab: &Lab) {
    lab.handler("mine", "sparc", &interpreter("sparc64"), OURS);
    assert_eq!(lab.json(["list"])["handlers"][0]["arches"], serde_json::json!(["sparc"]));
    let item = &lab.json(["verify"])["items"][0];
    assert_eq!(
        (&item["arch"], &item["name"], &item["state"]),
        (&"sparc".into(), &"mine".into(), &"broken".into())
    );
    assert_ne!(item["reason"], "its pattern matches no program");
    // Nothing of sparc64 is registered.
    lab.done_with(["reset", "sparc64"], crate::lab::NO_HANDLER);
    assert_eq!(order(), ["mine"]);
    // A broken handler is replaced, with and without a probe.
    let printed = lab.done(["register", "sparc"]);
    assert!(printed.starts_with("sparc  replaced "), "{printed}");
    assert_eq!(order(), ["qemu-sparc"]);
    lab.done(["reset"]);
    lab.handler("mine", "sparc", &interpreter("sparc64"), OURS);
    lab.done(["register", "--no-verify", "sparc"]);
    assert_eq!(order(), ["qemu-sparc"]);
    lab.done(["reset", "sparc"]);
    assert!(order().is_empty());
}

kernel_test!(links_and_wrappers_of_emulators_are_recognised);
/// Tests the names of `NixOS` and of the Open Build Service.
fn links_and_wrappers_of_emulators_are_recognised(lab: &Lab) {
    let store = lab.path("store/bin");
    fs::create_dir_all(&store).unwrap();
    fs::copy(interpreter("arm"), store.join("qemu-arm-binfmt-P")).unwrap();
    let first = lab.link("run/binfmt/armv7l-linux", Path::new("../../store/current/qemu-arm-binfmt-P"));
    lab.link("store/current", Path::new("bin"));
    let dangling = lab.link("run/binfmt/s390x-linux", Path::new("/nix/store/gone/bin/qemu-s390x"));
    let wrapper = lab.link("run/binfmt/qemu-wrapper", Path::new("/nix/store/gone/bin/qemu-ppc64le"));
    let other = lab.link("run/binfmt/riscv64-linux", Path::new("/nix/store/gone/bin/box64"));
    let handlers = [
        ("armv7l-linux", "arm", first.as_path(), Flags::PRESERVE_ARGV0),
        ("s390x-linux", "s390x", &dangling, Flags::empty()),
        ("wrapper", "ppc64le", &wrapper, Flags::empty()),
        ("obs", "aarch64", Path::new("/usr/bin/qemu-aarch64-binfmt"), Flags::PRESERVE_ARGV0),
    ];
    lab.handler("box", "riscv64", &other, Flags::empty());
    for (name, arch, path, flags) in handlers {
        lab.handler(name, arch, path, flags);
        let view = &lab.json(["list"])["handlers"][0];
        assert_eq!((&view["name"], &view["emulator"]), (&name.into(), &true.into()));
        let printed = lab.done(["reset", arch]);
        assert!(printed.starts_with(&format!("{arch}  removed  {name}")), "{printed}");
        // A handler that containers cannot use is replaced, and is no conflict.
        lab.handler(name, arch, path, flags);
        let printed = lab.done(["register", arch]);
        assert!(printed.starts_with(&format!("{arch}  replaced ")), "{printed}");
        lab.done(["reset"]);
    }
    // The link of another emulator is not QEMU's.
    assert_eq!(order(), ["box"]);
}
