//! Verification by execution: each kind of broken handler has its own verdict, a failed verification leaves nothing
//! behind, and architectures that the host runs natively get no handler.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::downloads;
use crate::lab::{Lab, Ran};
use crate::programs::{arch, crashing, dynamic, execute, host, loader, probe};

const NOT_STATIC: &str = "it works on this host, but not in an empty root directory, as in a container: \
                          the interpreter is not static, or the handler has no F flag";

/// Registers `interpreter` for the programs of the architecture called `name`, without qus.
fn register(lab: &Lab, handler: &str, name: &str, interpreter: &Path, flags: &str) {
    let rule =
        &qus::handler::classify::rules(arch(name), Path::new("/i"), qus::binfmt::Flags::empty()).unwrap()[0];
    let line = String::from_utf8(rule.to_line()).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    let line = format!(":{handler}:M::{}:{}:{}:{flags}", fields[4], fields[5], interpreter.display());
    lab.register(line.as_bytes()).unwrap();
}

fn qemu(name: &str) -> PathBuf {
    downloads::distribution().join(format!("qemu-{name}-static"))
}

fn json<'a>(lab: &Lab, words: impl IntoIterator<Item = &'a str>) -> (i32, Value) {
    let ran = lab.qus(words.into_iter().chain(["--json"]));
    let value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
    (ran.status, value)
}

/// Compares the output of `verify` and `list --probe`, as text and as JSON, with `expected`: name and architecture of
/// each handler, its state, and the reason.
fn expect(lab: &Lab, expected: &[(&str, &str, &str, Option<&str>)]) {
    let broken = expected.iter().any(|(_, _, state, _)| *state == "broken");
    let (status, verify) = json(lab, ["verify"]);
    let (list_status, list) = json(lab, ["list", "--probe"]);
    assert_eq!((status, list_status), (i32::from(broken), i32::from(broken)), "{verify:#}");
    let (verify_text, list_text) = (lab.qus(["verify"]), lab.qus(["list", "--probe"]));
    assert_eq!((verify_text.status, list_text.status), (status, status));
    assert_eq!(verify["items"].as_array().unwrap().len(), expected.len(), "{verify:#}");
    for (name, arch, state, reason) in expected {
        let items = verify["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["name"] == *name).unwrap();
        assert_eq!(
            (&item["arch"], &item["state"], item["reason"].as_str()),
            (&Value::from(*arch), &Value::from(*state), *reason),
            "{item:#}"
        );
        let handlers = list["handlers"].as_array().unwrap();
        let probe = &handlers.iter().find(|handler| handler["name"] == *name).unwrap()["probe"];
        assert_eq!((&probe["state"], probe["reason"].as_str()), (&Value::from(*state), *reason), "{probe:#}");
        for (Ran { stdout, .. }, state_first) in [(&verify_text, true), (&list_text, false)] {
            let line = stdout.lines().find(|line| line.split_whitespace().any(|word| word == *name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {stdout}"));
            assert!(line.contains(state), "{line}");
            assert!(reason.is_none_or(|reason| line.ends_with(&format!(": {reason}"))), "{line}");
            assert!(!state_first || line.starts_with(arch), "{line}");
        }
    }
}

/// Registers a handler for each kind of breakage, and some that work.
fn register_broken(lab: &Lab) {
    fs::write(lab.path("loader"), loader()).unwrap();
    lab.executable("loader", &loader());
    let dynamic = lab.executable("dynamic", &dynamic(&lab.path("loader")));
    assert_eq!(execute(&dynamic), Ok(42), "it works on the host");
    let crashing = lab.executable("crashing", &crashing());
    register(lab, "good", "aarch64", &qemu("aarch64"), "POF");
    register(lab, "no-p", "arm", &qemu("arm"), "OF");
    register(lab, "dynamic", "riscv64", &dynamic, "OF");
    register(lab, "crashes", "ppc64le", &crashing, "POF");
    register(lab, "hidden", "s390x", &qemu("s390x"), "POF");
    register(lab, "in-front", "s390x", &qemu("s390x"), "F");
    register(lab, "off", "mips", &qemu("mips"), "POF");
    lab.command("off", "0");
    register(lab, "no-f", "m68k", &qemu("m68k"), "PO");
    register(lab, "shifted", "sh4", &lab.executable("old", &probe(host())), "POF");
    // The interpreter ends with the first byte of its own name, which is a wrong status.
    lab.executable("x", &probe(host()));
    std::env::set_current_dir(lab.path("")).unwrap();
    register(lab, "wrong", "hppa", Path::new("x"), "OF");
    register(lab, "missing", "alpha", Path::new("/nowhere/qemu-alpha"), "PO");
    lab.register(b":jar:E::jar::/usr/bin/jexec:").unwrap();
}

kernel_test!(verification_names_what_is_broken);
fn verification_names_what_is_broken(lab: &Lab) {
    register_broken(lab);
    let (_, verify) = json(lab, ["verify"]);
    let item = |name: &str| {
        verify["items"].as_array().unwrap().iter().find(|item| item["name"] == name).unwrap().clone()
    };
    let crashed = item("crashes")["reason"].as_str().unwrap().to_owned();
    assert!(crashed.starts_with("its interpreter crashed (signal "), "{crashed}");
    assert_eq!(item("good")["verification"], serde_json::json!({ "argv0": true, "empty_root": true }));
    assert_eq!(item("no-p")["verification"], serde_json::json!({ "argv0": false, "empty_root": true }));
    assert!(item("good")["version"].as_str().is_some_and(|version| version.contains('.')), "{verify:#}");
    expect(
        lab,
        &[
            ("good", "aarch64", "working", None),
            ("no-p", "arm", "working", None),
            ("dynamic", "riscv64", "broken", Some(NOT_STATIC)),
            ("crashes", "ppc64le", "broken", Some(&crashed)),
            (
                "hidden",
                "s390x",
                "broken",
                Some("another handler comes first and matches its programs: in-front"),
            ),
            ("in-front", "s390x", "working", None),
            ("off", "mips", "broken", Some("it is disabled")),
            ("no-f", "m68k", "broken", Some(NOT_STATIC)),
            (
                "shifted",
                "sh4",
                "broken",
                Some("its interpreter does not support the flag P: programs get shifted arguments"),
            ),
            ("wrong", "hppa", "broken", Some("its probe ended with status 120, not 42")),
            (
                "missing",
                "alpha",
                "broken",
                Some("its interpreter cannot be started: it, or the loader it needs, does not exist"),
            ),
        ],
    );
    only_what_is_asked_for_counts(lab);
}

fn only_what_is_asked_for_counts(lab: &Lab) {
    assert_eq!(lab.qus(["verify", "aarch64", "arm"]).status, 0);
    assert_eq!(lab.qus(["verify", "aarch64", "mips"]).status, 1);
    let ran = lab.qus(["verify", "xtensa"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(
        ran.stdout.contains("no handler matches its programs\n")
            && ran.stderr.contains("no handler is registered for xtensa\n  try: qus register xtensa\n"),
        "{ran:#?}"
    );
    assert_eq!(lab.qus(["list"]).status, 0, "without a probe there is no verdict");
}

kernel_test!(verification_with_the_instance_off);
fn verification_with_the_instance_off(lab: &Lab) {
    register(lab, "one", "aarch64", &qemu("aarch64"), "POF");
    register(lab, "two", "arm", &qemu("arm"), "POF");
    expect(lab, &[("one", "aarch64", "working", None), ("two", "arm", "working", None)]);
    lab.command("status", "0");
    let off = Some("the whole instance is disabled");
    expect(lab, &[("one", "aarch64", "broken", off), ("two", "arm", "broken", off)]);
    lab.command("status", "1");
    expect(lab, &[("one", "aarch64", "working", None), ("two", "arm", "working", None)]);
}

kernel_test!(verification_of_an_interpreter_that_is_gone);
fn verification_of_an_interpreter_that_is_gone(lab: &Lab) {
    let copy = lab.executable("qemu-arm", &fs::read(qemu("arm")).unwrap());
    register(lab, "qemu-arm", "arm", &copy, "POF");
    fs::remove_file(&copy).unwrap();
    // The file was opened at registration (K49).
    expect(lab, &[("qemu-arm", "arm", "working", None)]);
}

/// Reports whether the kernel runs programs of the architecture called `name` with the existing handlers.
fn runs(lab: &Lab, name: &str) -> bool {
    execute(&lab.executable(&format!("runs-{name}"), &probe(arch(name)))) == Ok(42)
}

kernel_test!(verification_of_what_the_host_runs);
fn verification_of_what_the_host_runs(lab: &Lab) {
    assert!(runs(lab, host().name));
    for name in host().same_family().iter().chain([&host().name]) {
        let native = runs(lab, name);
        let (status, verify) = json(lab, ["verify", name]);
        let item = &verify["items"][0];
        assert_eq!((&item["arch"], &item["name"]), (&Value::from(*name), &Value::Null), "{verify:#}");
        assert_eq!(item["state"], if native { "native" } else { "broken" }, "{verify:#}");
        assert_eq!(status, i32::from(!native));
    }
    let Some(companion) = companion(lab) else { return };
    // A disabled handler does not matter.
    register(lab, "off", companion, &qemu(companion), "POF");
    lab.command("off", "0");
    expect(lab, &[("off", companion, "native", None)]);
}

/// Returns another architecture that this host runs natively and for which the distribution has an emulator.
fn companion(lab: &Lab) -> Option<&'static str> {
    let others = host().same_family().iter().filter(|name| **name != host().name);
    let companion = others.copied().find(|name| runs(lab, name) && qemu(name).exists());
    if companion.is_none() {
        eprintln!("this host runs no architecture natively but {}", host().name);
    }
    companion
}

kernel_test!(verification_without_p);
fn verification_without_p(lab: &Lab) {
    // Like an emulator without support for P, it takes the first argument of the program for its own.
    let old = lab.executable("old", &probe(host()));
    let line = lab.done(["register", "--interpreter", old.to_str().unwrap(), "arm"]);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..3], ["arm", "registered", "OF"], "{line}");
    assert!(
        line.trim_end().ends_with("without the flag P, which its interpreter does not support"),
        "{line}"
    );
    let entries = lab.entries();
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["qus-arm"]);
    assert!(entries["qus-arm"].contains("\nflags: OF\n"), "{entries:?}");
    expect(lab, &[("qus-arm", "arm", "working", None)]);
    let again = lab.done(["register", "--interpreter", old.to_str().unwrap(), "arm"]);
    assert!(again.contains(" unchanged "), "{again}");
    assert_eq!(lab.entries(), entries);
}

kernel_test!(verification_that_fails_leaves_nothing);
fn verification_that_fails_leaves_nothing(lab: &Lab) {
    let crashing = lab.executable("crashing", &crashing());
    let crashing = crashing.to_str().unwrap();
    lab.refused(["register", "--interpreter", crashing, "arm"], 1, "its interpreter crashed (signal ");
    // A static program that is not an interpreter.
    if !crate::lab::is_dynamic() {
        let qus = env!("CARGO_BIN_EXE_qus");
        lab.refused(["register", "--interpreter", qus, "arm"], 1, "its probe ended with status 2, not 42");
    }
    let (status, value) = json(lab, ["register", "--interpreter", crashing, "arm"]);
    let item = &value["items"][0];
    assert_eq!(
        (status, &item["outcome"], &item["verified"]),
        (1, &Value::from("verification-failed"), &Value::from(false)),
        "{value:#}"
    );
    assert_eq!(item["handlers"], serde_json::json!([]));
    assert!(lab.entries().is_empty());
    let line = lab.done(["register", "--no-verify", "--interpreter", crashing, "arm"]);
    assert!(line.contains(", unverified"), "{line}");
    assert_eq!(lab.qus(["verify"]).status, 1);
}

kernel_test!(verification_that_fails_restores);
fn verification_that_fails_restores(lab: &Lab) {
    let crashing = lab.executable("crashing", &crashing());
    lab.done(["register", "microblaze"]);
    let crash = ["register", "--replace", "--interpreter", crashing.to_str().unwrap(), "microblaze"];
    lab.refused(crash, 1, "its interpreter crashed (signal ");
    assert_eq!(lab.qus(["verify"]).status, 0);
    // The new interpreter has the names of the existing handlers.
    fs::create_dir(lab.path("bad")).unwrap();
    let named = lab.executable("bad/qemu-microblaze", &fs::read(&crashing).unwrap());
    let crash = ["register", "--replace", "--interpreter", named.to_str().unwrap(), "microblaze"];
    lab.refused(crash, 1, "its interpreter crashed (signal ");
    assert_eq!(lab.qus(["verify"]).status, 0);
    // A handler that was broken before stays, too.
    register(lab, "qemu-arm", "arm", &named, "OF");
    let crash = ["register", "--replace", "--interpreter", named.to_str().unwrap(), "arm"];
    lab.refused(crash, 1, "its interpreter crashed (signal ");
    let line = lab.done(["register", "arm"]);
    assert!(
        line.contains(" replaced ") && line.contains("qemu-arm failed: its interpreter crashed"),
        "{line}"
    );
    assert_eq!(lab.qus(["verify"]).status, 0);
}

kernel_test!(verification_that_fails_spares_the_others);
fn verification_that_fails_spares_the_others(lab: &Lab) {
    fs::create_dir(lab.path("mixed")).unwrap();
    lab.executable("mixed/qemu-arm-static", &crashing());
    for name in ["aarch64", "riscv64"] {
        std::os::unix::fs::symlink(qemu(name), lab.path(&format!("mixed/qemu-{name}-static"))).unwrap();
    }
    let ran = lab.qus(["register", "--interpreter-dir", lab.path("mixed").to_str().unwrap(), "all"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(
        ran.stderr.contains(
            "1 of 3 architectures were not registered (verification failed); 2 of 3 architectures work in "
        ),
        "{ran:#?}"
    );
    assert_eq!(lab.entries().keys().collect::<Vec<_>>(), ["qemu-aarch64", "qemu-riscv64"]);
    assert_eq!(lab.qus(["verify"]).status, 0);
}

kernel_test!(verify_refuses_the_hosts_own);
fn verify_refuses_the_hosts_own(lab: &Lab) {
    let name = host().name;
    let old = lab.executable("old", &probe(host()));
    let own = format!("this host runs {name} natively, and all its programs would go through the emulator");
    let guard = "its rule matches this host's own programs, which would all fail";
    for options in [&[][..], &["--no-verify"], &["--replace"]] {
        needs_none(lab, options, name);
    }
    lab.refused(["register", "--interpreter", old.to_str().unwrap(), name], 2, &own);
    for words in
        [vec!["register", "--force-native"], vec!["register", "--force-native", "--replace", "--no-verify"]]
    {
        lab.refused(words.iter().copied().chain([name]), 2, guard);
        let interpreter = ["--interpreter", old.to_str().unwrap(), name];
        lab.refused(words.iter().copied().chain(interpreter), 2, guard);
    }
    assert!(runs(lab, name));
    let (status, value) = json(lab, ["register", name, "arm"]);
    let outcomes: Vec<_> =
        value["items"].as_array().unwrap().iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!((status, outcomes), (0, vec!["native", "registered"]), "{value:#}");
}

kernel_test!(verification_refuses_companions);
fn verification_refuses_companions(lab: &Lab) {
    let Some(name) = companion(lab) else { return };
    needs_none(lab, &[], name);
    let forced = lab.done(["register", "--force-native", name]);
    assert!(forced.contains(" registered "), "{forced}");
    let handler = format!("qemu-{name}");
    assert!(lab.entries().contains_key(&handler));
    expect(
        lab,
        &lab.entries().keys().map(|handler| (handler.as_str(), name, "working", None)).collect::<Vec<_>>(),
    );
    // The handler takes the native programs now. qus detects with a new instance that the host runs them natively.
    needs_none(lab, &[], name);
    needs_none(lab, &["--replace"], name);
    let all = lab.done(["register", "all"]);
    assert!(!all.lines().any(|line| line.starts_with(name)), "{all}");
    lab.done(["reset", name]);
    assert!(runs(lab, name));
    needs_none(lab, &[], name);
}

/// Expects that `register` reports `name` as native, and changes nothing.
fn needs_none(lab: &Lab, options: &[&str], name: &str) {
    let before = lab.entries();
    let printed = lab.done(["register"].into_iter().chain(options.iter().copied()).chain([name]));
    assert!(printed.contains(" native ") && printed.contains("this host runs it natively"), "{printed}");
    assert_eq!(lab.entries(), before);
}
