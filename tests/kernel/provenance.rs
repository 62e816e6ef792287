//! Provenance of interpreters: records, several versions at once, `fetch --list` and `fetch --prune`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::build::{Tree, deb};
use crate::downloads::interpreter;
use crate::lab::{Lab, QUS, Ran, busybox, order, run};

/// Returns the newer one of the two versions that the test's emulators print. Both have the same length.
fn newer_version() -> String {
    let version = version();
    let (major, rest) = version.split_once('.').unwrap();
    let next = (major.parse::<u32>().unwrap() + 1).to_string();
    if next.len() == major.len() {
        return format!("{next}.{rest}");
    }
    let (minor, patch) = rest.split_once('.').unwrap();
    format!("{major}.{}.{patch}", "9".repeat(minor.len()))
}

/// Returns a qus that fetches into a directory of the test, and finds interpreters there first.
fn command(lab: &Lab, words: &[&str]) -> Command {
    let mut command = lab.program(&[], words.iter().copied());
    command.env_remove("QUS_INTERPRETER_DIR").env("XDG_DATA_HOME", lab.path("data"));
    command
}

fn qus(lab: &Lab, words: &[&str]) -> Ran {
    run(&mut command(lab, words))
}

fn done(lab: &Lab, words: &[&str]) -> String {
    let ran = qus(lab, words);
    assert_eq!(ran.status, 0, "{words:?}: {ran:#?}");
    ran.stdout
}

fn answer(lab: &Lab, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    qus(lab, &words).json()
}

/// Returns the version of the emulators that these tests use.
fn version() -> String {
    let ran = run(Command::new(interpreter("arm")).arg("--version"));
    ran.stdout.split_whitespace().nth(2).unwrap().to_owned()
}

/// Returns the emulator of `arch` with another version in its text.
fn other_version(arch: &str) -> Vec<u8> {
    let mut content = fs::read(interpreter(arch)).unwrap();
    let before = format!("qemu-{arch} version ");
    let at = content.windows(before.len()).position(|window| window == before.as_bytes()).unwrap();
    let at = at + before.len();
    let other = newer_version();
    content[at..at + other.len()].copy_from_slice(other.as_bytes());
    content
}

/// Writes a package with the emulators of `arches`.
fn package(lab: &Lab, name: &str, arches: &[&str]) {
    let add = |tree: Tree, arch: &&str| {
        tree.file(&format!("./usr/bin/qemu-{arch}-static"), &fs::read(interpreter(arch)).unwrap())
    };
    fs::write(lab.path(name), deb("", &arches.iter().fold(Tree::new(), add).done())).unwrap();
}

fn sha256(path: &Path) -> String {
    let ran = run(Command::new("sha256sum").arg(path));
    ran.stdout.split(' ').next().unwrap().to_owned()
}

/// Returns the relative path of every file in `directory`.
fn tree(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

kernel_test!(provenance_is_printed_everywhere);
fn provenance_is_printed_everywhere(lab: &Lab) {
    package(lab, "some.deb", &["arm"]);
    let path = lab.path("data/qus").join(version()).join("qemu-arm-static");
    let shown = path.to_str().unwrap();
    let row = format!("arm  fetched  {shown}  from qemu-user-static 1:7.2\n");
    assert_eq!(done(lab, &["fetch", "--from", "some.deb", "arm"]), row);
    let record: Value =
        serde_json::from_slice(&fs::read(path.with_file_name("qemu-arm-static.json")).unwrap()).unwrap();
    let some = lab.path("some.deb");
    for (field, value) in [
        ("source", json!(some)),
        ("package", json!("qemu-user-static")),
        ("package_version", json!("1:7.2")),
        ("qemu_version", json!(version())),
        ("sha256", json!(sha256(&path))),
        ("size", json!(fs::metadata(&path).unwrap().len())),
    ] {
        assert_eq!(record[field], value, "{record:#}");
    }
    let today = run(Command::new("date").args(["-u", "+%Y-"])).stdout;
    assert!(record["date"].as_str().unwrap().starts_with(today.trim()), "{record:#}");

    done(lab, &["register", "arm"]);
    let list = run(&mut command(lab, &["list", "-v"])).stdout;
    let row: Vec<&str> = list.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
    let shown_version = format!("{shown} (QEMU {})", version());
    assert_eq!(row[3..], [&shown_version, "qemu-user-static=1:7.2", "qus", "qemu-arm"], "{list}");
    assert_eq!(answer(lab, &["list"])["handlers"][0]["provenance"], record);
    let busybox = crate::downloads::busybox("arm");
    let which = done(lab, &["which", busybox.to_str().unwrap()]);
    let handler = format!("{shown} (QEMU {}, from qemu-user-static=1:7.2), flags POF", version());
    assert!(which.contains(&handler), "{which}");
    assert_eq!(
        answer(lab, &["which", busybox.to_str().unwrap()])["answers"][0]["handler"]["provenance"],
        record
    );
    let fetched = answer(lab, &["fetch", "--list"]);
    assert_eq!(fetched["files"][0]["provenance"], record);
    assert_eq!(
        (&fetched["files"][0]["state"], &fetched["files"][0]["used_by"]),
        (&json!("fetched"), &json!(["qemu-arm"]))
    );
    let date = record["date"].as_str().unwrap();
    let row =
        format!("arm   {}  fetched  {date}  qemu-user-static=1:7.2  qemu-arm,qus run  {shown}\n", version());
    assert!(done(lab, &["fetch", "--list"]).ends_with(&row), "{row}");
    assert_eq!(done(lab, &["fetch", "--list", "s390x"]).lines().count(), 1);
    // Fetching the same file again neither writes it nor changes its date.
    let words = ["fetch", "--from", "some.deb", "arm"];
    assert!(done(lab, &words).starts_with("arm  unchanged  "));
    assert_eq!(answer(lab, &words)["files"][0]["provenance"], record);
}

kernel_test!(versions_lie_side_by_side);
fn versions_lie_side_by_side(lab: &Lab) {
    let newest = newer_version();
    let other = other_version("arm");
    fs::create_dir(lab.path("other")).unwrap();
    lab.executable("other/qemu-arm-static", &other);
    package(lab, "some.deb", &["arm"]);
    done(lab, &["fetch", "--from", "some.deb", "arm"]);
    done(lab, &["fetch", "--from", "other", "arm"]);
    let in_store = |version: &str| lab.path("data/qus").join(version).join("qemu-arm-static");
    assert_eq!(fs::read(in_store(&newest)).unwrap(), other);
    assert_eq!(fs::read(in_store(&version())).unwrap(), fs::read(interpreter("arm")).unwrap());
    // The newest version is used, unless another one is requested.
    let interpreter = || answer(lab, &["list"])["handlers"][0]["interpreter"].clone();
    assert!(done(lab, &["register", "arm"]).contains(" registered "));
    assert_eq!(interpreter(), json!(in_store(&newest)));
    let short = version().rsplit_once('.').unwrap().0.to_owned();
    let asked = ["register", "--qemu-version", &short, "arm"];
    let ran = qus(lab, &asked);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stdout.contains(" conflict "), "{ran:#?}");
    ran.suggests(&format!("qus register --replace --qemu-version {short} arm"));
    assert_eq!(interpreter(), json!(in_store(&newest)));
    let replaced = done(lab, &["register", "--replace", "--qemu-version", &short, "arm"]);
    assert!(replaced.contains(" replaced "), "{replaced}");
    assert_eq!(interpreter(), json!(in_store(&version())));
    assert!(done(lab, &asked).contains(" unchanged "));
    // A missing version is reported, and nothing changes.
    let before = lab.entries();
    let ran = qus(lab, &["register", "--qemu-version", "3", "arm"]);
    assert_eq!((ran.status, lab.entries()), (2, before.clone()), "{ran:#?}");
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("of QEMU 3"), "{ran:#?}");
    let ran = qus(lab, &["fetch", "--from", "some.deb", "--qemu-version", "3.1", "arm"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains(&format!("arm: has version {}, not 3.1", version())), "{ran:#?}");
    lab.refused(["register", "--qemu-version", "new", "arm"], 2, "a QEMU version looks like 7.2 or 7.2.22");
    // `run` uses the requested version.
    let busybox = lab.link("busybox", &crate::downloads::busybox("arm"));
    for (version, status) in [(newest.as_str(), 0), ("3", 125)] {
        let words =
            ["run", "--arch", "arm", "--qemu-version", version, "--", busybox.to_str().unwrap(), "true"];
        assert_eq!(qus(lab, &words).status, status);
    }
    // A bundle contains the requested version. A dynamically linked qus makes no bundle.
    if crate::lab::is_dynamic() {
        return;
    }
    done(lab, &["bundle", "--qemu-version", &newest, "-o", "bundle", "arm"]);
    let bundled = run(Command::new(lab.path("bundle")).args(["show", "--bundled", "--json"]));
    assert!(bundled.stdout.contains(&newest), "{bundled:#?}");
}

kernel_test!(a_changed_file_has_no_provenance);
fn a_changed_file_has_no_provenance(lab: &Lab) {
    package(lab, "some.deb", &["arm", "s390x"]);
    done(lab, &["fetch", "--from", "some.deb", "all"]);
    done(lab, &["register", "arm"]);
    let directory = lab.path("data/qus").join(version());
    let path = directory.join("qemu-arm-static");
    let mut content = fs::read(&path).unwrap();
    content.push(0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, &content).unwrap();
    assert_eq!(answer(lab, &["list"])["handlers"][0].get("provenance"), None);
    // A record with a wrong digest is detected by comparing it with the content.
    let s390x = directory.join("qemu-s390x-static");
    let record = directory.join("qemu-s390x-static.json");
    let text = fs::read_to_string(&record).unwrap().replace(&sha256(&s390x), &"0".repeat(64));
    fs::write(&record, text).unwrap();
    let states = |files: &Value| {
        files.as_array().unwrap().iter().map(|file| file["state"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(states(&answer(lab, &["fetch", "--list"])["files"]), ["changed", "changed"]);
    fs::remove_file(&record).unwrap();
    assert_eq!(states(&answer(lab, &["fetch", "--list"])["files"]), ["changed", "unknown"]);
    // qus does not remove files that differ from their record.
    let before = tree(&lab.path("data"));
    lab.done(["reset"]);
    assert_eq!(done(lab, &["fetch", "--prune"]), "");
    assert_eq!(tree(&lab.path("data")), before);
    // Fetching again fixes both.
    let rows = done(lab, &["fetch", "--from", "some.deb", "all"]);
    assert!(rows.contains("arm    replaced  ") && rows.contains("s390x  unchanged  "), "{rows}");
    assert_eq!(states(&answer(lab, &["fetch", "--list"])["files"]), ["fetched", "fetched"]);
}

kernel_test!(a_known_source_is_not_read_again);
/// Tests that a source with a known digest is not opened if all requested files exist.
fn a_known_source_is_not_read_again(lab: &Lab) {
    package(lab, "some.deb", &["arm", "s390x"]);
    let digest = sha256(&lab.path("some.deb"));
    let fetch = |arches: &[&str]| {
        let words = ["fetch", "--from", "some.deb", "--sha256", &digest];
        qus(lab, &words.iter().chain(arches).copied().collect::<Vec<_>>())
    };
    assert_eq!(fetch(&["arm"]).status, 0);
    fs::rename(lab.path("some.deb"), lab.path("away.deb")).unwrap();
    let ran = fetch(&["arm"]);
    assert!(ran.status == 0 && ran.stdout.starts_with("arm  unchanged  "), "{ran:#?}");
    // In these requests, not every file is known.
    for arches in [&["arm", "s390x"][..], &["all"]] {
        let ran = fetch(arches);
        assert!(ran.status == 2 && ran.stderr.contains("some.deb"), "{ran:#?}");
    }
    fs::rename(lab.path("away.deb"), lab.path("some.deb")).unwrap();
    assert_eq!(fetch(&["all"]).status, 0);
    fs::remove_file(lab.path("some.deb")).unwrap();
    let ran = fetch(&["all"]);
    assert!(ran.status == 0 && ran.stdout.matches(" unchanged ").count() == 2, "{ran:#?}");
    // A file that differs from its record is fetched again.
    let path = lab.path("data/qus").join(version()).join("qemu-arm-static");
    fs::write(&path, "old").unwrap();
    assert_eq!(fetch(&["all"]).status, 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

kernel_test!(prune_removes_unused_interpreters);
fn prune_removes_unused_interpreters(lab: &Lab) {
    package(lab, "some.deb", &["arm", "s390x"]);
    done(lab, &["fetch", "--from", "some.deb", "all"]);
    fs::create_dir(lab.path("other")).unwrap();
    lab.executable("other/qemu-arm-static", &other_version("arm"));
    done(lab, &["fetch", "--from", "other", "arm"]);
    done(lab, &["register", "--qemu-version", &version(), "arm"]);
    let store = lab.path("data/qus");
    let before = tree(&store);
    assert_eq!(before.len(), 6);
    let planned = done(lab, &["fetch", "--prune", "--dry-run", "arm", "s390x"]);
    assert_eq!(planned.matches("would be removed").count(), 2, "{planned}");
    assert_eq!(tree(&store), before);
    let removed = done(lab, &["fetch", "--prune", "arm", "s390x"]);
    assert_eq!(
        removed.lines().map(|row| row.split_whitespace().next().unwrap()).collect::<Vec<_>>(),
        ["arm", "s390x"]
    );
    let left = [format!("{}/qemu-arm-static", version()), format!("{}/qemu-arm-static.json", version())];
    assert_eq!(tree(&store), left);
    assert!(!store.join(newer_version()).exists());
    assert_eq!(busybox("arm", "echo still").unwrap().stdout, "still\n");
    assert_eq!(done(lab, &["fetch", "--prune", "arm"]), "");
    // A handler may use the file through another path.
    lab.done(["reset"]);
    let link = lab.link("links/qemu-arm-static", &store.join(&left[0]));
    lab.handler("mine", "arm", &link, crate::lab::OURS);
    assert_eq!(done(lab, &["fetch", "--prune", "arm"]), "");
    lab.command("mine", "-1");
    assert_eq!(done(lab, &["fetch", "--prune", "arm"]).lines().count(), 1);
    assert_eq!(tree(&store), [""; 0]);
    lab.refused(["fetch", "--prune", "--from", "some.deb"], 2, "cannot be used with");
    lab.refused(["fetch", "--dry-run", "arm"], 2, "--prune");
    assert!(order().is_empty());
}

kernel_test!(prune_leaves_what_run_and_processes_use);
fn prune_leaves_what_run_and_processes_use(lab: &Lab) {
    let prune = |words: &[&str]| qus(lab, &[&["fetch", "--prune"], words].concat());
    let empty = format!("qus: no fetched interpreter is in {}\n", lab.path("data/qus").display());
    assert_eq!((prune(&[]).status, prune(&[]).stderr), (0, empty));
    package(lab, "some.deb", &["arm", "s390x"]);
    done(lab, &["fetch", "--from", "some.deb", "all"]);
    fs::create_dir(lab.path("other")).unwrap();
    lab.executable("other/qemu-arm-static", &other_version("arm"));
    done(lab, &["fetch", "--from", "other", "arm"]);
    let chosen = |file: &Value| file["used_by_run"] == true;
    let files = &answer(lab, &["fetch", "--list"])["files"];
    let chosen: Vec<bool> = files.as_array().unwrap().iter().map(chosen).collect();
    assert_eq!(chosen, [true, false, true], "{files:#}");
    // `qus run` uses the newest version of each emulator, so only the older one of arm is removed.
    let before = tree(&lab.path("data")).len();
    let value = answer(lab, &["fetch", "--prune"]);
    assert_eq!(value["files"].as_array().unwrap().len(), 1, "{value:#}");
    assert_eq!(value["kept"].as_array().unwrap().len(), 2, "{value:#}");
    assert_eq!(tree(&lab.path("data")).len(), before - 2);
    let ran = prune(&[]);
    let note = "2 interpreters stay: 2 for `qus run` (to remove one, name its architecture)";
    assert_eq!((ran.status, ran.stdout, ran.stderr), (0, String::new(), format!("qus: {note}\n")));

    // A process that an interpreter executes is no reason to keep another one.
    let program = lab.copy("busybox", &crate::downloads::busybox("s390x"));
    let words = ["run", "--direct", "--", program.to_str().unwrap(), "sh", "-c", "echo started; read line"];
    let mut process = command(lab, &words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 8];
    std::io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut line).unwrap();
    let listed = &answer(lab, &["fetch", "--list", "s390x"])["files"][0];
    assert_eq!(listed["processes"], json!([process.id()]), "{listed:#}");
    let ran = prune(&["arm", "s390x"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:#?}");
    assert_eq!(ran.stderr, "qus: 1 interpreter stays: 1 in use\n");
    drop(process.stdin.take());
    process.wait().unwrap();
    // A file that qus did not write stays, and is not called used.
    let directory = lab.path("data/qus").join(version());
    fs::remove_file(directory.join("qemu-s390x-static.json")).unwrap();
    let ran = prune(&["s390x"]);
    assert_eq!(ran.stderr, "qus: 1 interpreter stays: 1 not as it was fetched\n", "{ran:#?}");
    assert!(directory.join("qemu-s390x-static").exists());
}

/// Expects that a file of the destination is a complete interpreter, old or new, a record, or a temporary file.
fn assert_whole(path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let Some(arch) = name.strip_prefix("qemu-").and_then(|name| name.strip_suffix("-static")) else {
        let is_record = name.starts_with("qemu-") && path.extension().is_some_and(|end| end == "json");
        assert!(is_record || name.starts_with(".qus-"), "{name}");
        return;
    };
    let content = fs::read(path).unwrap();
    let is_old = arch == "arm" && content == b"what was there";
    assert!(is_old || content == fs::read(interpreter(arch)).unwrap(), "{name} is half-written");
}

kernel_test!(a_killed_fetch_leaves_nothing_half_written);
/// Tests a `fetch` that is killed at any moment. No interpreter is half-written, old files are complete, and the next
/// `fetch` completes the work.
fn a_killed_fetch_leaves_nothing_half_written(lab: &Lab) {
    package(lab, "some.deb", &["arm", "s390x", "riscv64"]);
    let old = |arch: &str| lab.path("dest").join(format!("qemu-{arch}-static"));
    fs::create_dir(lab.path("dest")).unwrap();
    fs::write(old("arm"), "what was there").unwrap();
    let words = ["fetch", "--from", "some.deb", "--dest", "dest", "all"];
    let whole = |arch: &str| fs::read(interpreter(arch)).unwrap();
    let (mut early, mut late) = (0, 0);
    for moment in 0..60 {
        let mut child = command(lab, &words).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(moment * 1500));
        child.kill().unwrap();
        let is_done = child.wait().unwrap().success();
        for file in fs::read_dir(lab.path("dest")).unwrap() {
            assert_whole(&file.unwrap().path());
        }
        if is_done {
            late += 1;
        } else {
            early += 1;
        }
        if late > 3 {
            break;
        }
    }
    assert!(early > 3, "no run was killed");
    // The next run removes temporary files of killed ones once no process can use them any more.
    for name in tree(&lab.path("dest")).iter().filter(|name| name.starts_with(".qus-")) {
        let file = fs::File::options().append(true).open(lab.path("dest").join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_mins(2)).unwrap();
    }
    lab.done(words);
    assert!(["arm", "s390x", "riscv64"].iter().all(|arch| fs::read(old(arch)).unwrap() == whole(arch)));
    let list = Command::new(QUS)
        .args(["fetch", "--list", "--json", "--dest"])
        .arg(lab.path("dest"))
        .output()
        .unwrap();
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert!(list["files"].as_array().unwrap().iter().all(|file| file["state"] == "fetched"), "{list:#}");
    assert_eq!(tree(&lab.path("dest")).len(), 6);
}
