//! Tests wrong clocks. qus measures timeouts with a clock that cannot be set, and no decision depends on the time of a
//! file.
//!
//! A wall clock that is set during a command is not tested, because the whole machine shares it. qus compares two
//! readings of it in one place only, which has a test of its own (`namespace`).

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::build::{Tree, deb};
use crate::downloads::interpreter;
use crate::lab::{Lab, order, run};
use crate::persist::host;

/// Returns the earliest time, and one that does not fit into 32 bits of seconds.
fn far_away() -> [SystemTime; 2] {
    [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33)]
}

fn set(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn package(lab: &Lab) {
    let content = fs::read(interpreter("arm")).unwrap();
    let tree = Tree::new().file("./usr/bin/qemu-arm-static", &content).done();
    fs::write(lab.path("some.deb"), deb(".gz", &tree)).unwrap();
}

const FETCH: [&str; 6] = ["fetch", "--from", "some.deb", "--dest", "dest", "arm"];

kernel_test!(clocks_of_a_time_namespace_change_nothing);
/// Tests that timeouts stay the same in a time namespace whose clocks begin at zero, or are a hundred years ahead.
fn clocks_of_a_time_namespace_change_nothing(lab: &Lab) {
    if !Path::new("/proc/self/ns/time").exists() {
        eprintln!("skipped: this kernel has no time namespaces (since Linux 5.6)");
        return;
    }
    package(lab);
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let (uptime, _) = uptime.split_once('.').unwrap();
    for offset in [format!("-{uptime}"), (100 * 365 * 24 * 3600_u64).to_string()] {
        let wrapper = ["unshare", "--time", "--fork", "--monotonic", &offset, "--boottime", &offset];
        let inside = |words: &[&str]| {
            let ran = run(&mut lab.program(&wrapper, words.iter().copied()));
            assert_eq!(ran.status, 0, "{offset}: {ran:#?}");
            ran.stdout
        };
        // The clock in the namespace differs.
        let mut other = Command::new(wrapper[0]);
        let there = run(other.args(&wrapper[1..]).args(["cat", "/proc/uptime"])).stdout;
        let there: u64 = there.split('.').next().unwrap().parse().unwrap();
        assert!(there.abs_diff(uptime.parse().unwrap()) > 60, "{there}");
        assert!(!inside(&["register", "arm"]).contains("unverified"));
        assert!(inside(&["verify", "arm"]).contains("arm"));
        assert!(inside(&FETCH).starts_with("arm  "));
        assert!(inside(&["reset", "arm"]).contains("removed"));
        assert!(order().is_empty());
    }
}

kernel_test!(temporary_files_of_any_date_are_removed);
/// Tests temporary files of killed processes whose clock was wrong, for example with a time in the future.
fn temporary_files_of_any_date_are_removed(lab: &Lab) {
    package(lab);
    lab.done(FETCH);
    let names = ["qemu-arm-static", "qemu-arm-static.json"];
    for (time, name) in far_away().into_iter().zip([".qus-new-past99", ".qus-new-later9"]) {
        let draft = lab.path("dest").join(name);
        fs::write(&draft, "half").unwrap();
        set(&draft, time);
        let held = lab.path("dest/.qus-new-inuse9");
        fs::write(&held, "half").unwrap();
        set(&held, time);
        let lock = File::open(&held).unwrap();
        lock.lock_shared().unwrap();
        lab.done(FETCH);
        assert!(!draft.exists() && held.exists(), "{time:?}");
        drop(lock);
        lab.done(FETCH);
        let mut there: Vec<_> = fs::read_dir(lab.path("dest"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, names, "{time:?}");
    }
}

kernel_test!(records_of_any_date_are_readable);
/// Tests records of files that were fetched while the clock was at its beginning or far ahead.
fn records_of_any_date_are_readable(lab: &Lab) {
    package(lab);
    lab.done(FETCH);
    let (file, record) = (lab.path("dest/qemu-arm-static"), lab.path("dest/qemu-arm-static.json"));
    for (time, date) in far_away().into_iter().zip(["1970-01-01T00:00:00Z", "2242-03-16T12:56:32Z"]) {
        set(&file, time);
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        value["modified"] = json!([seconds, 0]);
        value["date"] = date.into();
        fs::write(&record, value.to_string()).unwrap();
        set(&record, time);
        let listed = &lab.json(["fetch", "--list", "--dest", "dest"])["files"][0];
        assert_eq!(listed["state"], "fetched", "{listed:#}");
        assert_eq!(listed["provenance"]["date"], date, "{listed:#}");
        assert!(lab.done(["fetch", "--list", "--dest", "dest"]).contains(date));
        // The date is not a reason to fetch again, and an unchanged file keeps its date.
        let printed = lab.done(FETCH);
        assert!(printed.starts_with("arm  unchanged  "), "{printed}");
        let listed = &lab.json(["fetch", "--list", "--dest", "dest"])["files"][0];
        assert_eq!(listed["provenance"]["date"], date, "{listed:#}");
        let path = file.to_str().unwrap();
        let registered = lab.json(["register", "--replace", "--interpreter", path, "arm"]);
        assert_eq!(registered["items"][0]["verified"], true, "{registered:#}");
        let handlers = &lab.json(["list"])["handlers"];
        assert!(handlers.to_string().contains(date), "{handlers:#}");
        lab.done(["reset"]);
    }
    let printed = lab.done(["fetch", "--prune", "--dest", "dest"]);
    assert!(printed.starts_with("arm  removed  ") && !file.exists() && !record.exists(), "{printed}");
}

kernel_test!(files_that_last_may_be_of_any_date);
/// Tests that the files for the next boot may have any date.
fn files_that_last_may_be_of_any_date(lab: &Lab) {
    host(lab);
    let words = ["register", "--persist", "--interpreter-dir", "q", "arm"];
    let files = [
        "/etc/binfmt.d/qus-arm.conf",
        "/usr/local/lib/qus/copies/qemu-arm-static",
        "/etc/binfmt.d",
        "/usr/local/lib/qus",
    ];
    lab.done(words);
    for time in far_away() {
        for file in files {
            set(Path::new(file), time);
        }
        let printed = lab.done(words);
        assert!(printed.starts_with("arm  unchanged  "), "{printed}");
        assert_eq!(fs::metadata(files[0]).unwrap().modified().unwrap(), time);
        // A missing file is written again, whatever the dates of the others are.
        lab.command("qemu-arm", "-1");
        let text = fs::read_to_string(files[0]).unwrap();
        fs::remove_file(files[0]).unwrap();
        let printed = lab.done(words);
        assert!(printed.starts_with("arm  registered  "), "{printed}");
        assert_eq!(fs::read_to_string(files[0]).unwrap(), text);
    }
    for file in files {
        set(Path::new(file), far_away()[1]);
    }
    lab.done(["reset", "--persist"]);
    assert!(order().is_empty() && !Path::new(files[0]).exists() && !Path::new(files[1]).exists());
}
