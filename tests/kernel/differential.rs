//! Compares the kernel with `binfmt::first_match` for random handlers and files: it must select the predicted handler,
//! or fail with the predicted errno.
//!
//! The interpreters are the probe of this host, which ends with the first byte of its `argv[0]`. The kernel passes the
//! interpreter's path there as it was registered (K48), so the exit status names the last interpreter of the chain.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use qus::arch::ARCHES;
use qus::binfmt::instance::Instance;
use qus::binfmt::{Extension, Flags, HEADER_LEN, Handler, HandlerName, Matcher, Pattern, Rule, first_match};

use crate::lab::Lab;
use crate::namespace::INSTANCE;
use crate::programs::{execute, host, probe};
use crate::random::{Random, cases};

/// Interpreters that can be opened. The first five are programs; then follow two files of another format, and scripts.
/// The last script names itself as its interpreter.
const INTERPRETERS: [&str; 11] = ["a", "b", "c", "e.x", "f.y", "j", "k.z", "s", "t", "u", "l"];
/// Interpreters that cannot be opened. They are registered without `F`.
const CLOSED: [&str; 2] = ["n", "nowhere"];
/// Number of files that exist at a time.
const FILES: usize = 12;
/// Number of rewrites that the kernel permits for one `execve(2)` (K38).
const REWRITES: usize = 5;

kernel_test!(differential_matching, alone);
fn differential_matching(lab: &Lab) {
    std::env::set_current_dir(lab.path("")).unwrap();
    interpreters(lab);
    fs::create_dir("d.x").unwrap();
    let instance = Instance::open(Path::new(INSTANCE)).unwrap();
    let mut random = Random::new(2);
    let mut outcomes = BTreeMap::<String, usize>::new();
    let count = cases(4000);
    let mut left = count;
    while left > 0 {
        let files = files(&mut random);
        let mut number = 0;
        for _ in 0..random.below(8) {
            number += 1;
            add(&mut random, &instance, number, &files);
        }
        for _ in 0..3 {
            change(&mut random, &instance, &mut number, &files);
            let enabled = instance.is_enabled().unwrap();
            let handlers = qus::handler::table::handlers(&instance).unwrap();
            for _ in 0..8.min(left) {
                left -= 1;
                let path = any_file(&mut random, &files);
                let predicted = predict(if enabled { &handlers } else { &[] }, &path);
                let kernel = execute(&path);
                assert_eq!(
                    kernel,
                    predicted,
                    "kernel, ours for {} with the content {} among (on: {enabled}) {handlers:#?}",
                    path.display(),
                    header(&path).escape_ascii()
                );
                *outcomes.entry(described(kernel)).or_default() += 1;
            }
        }
        set_status(true);
        for name in instance.names().unwrap() {
            instance.remove(&name).unwrap();
        }
        for path in files {
            fs::remove_file(path).unwrap();
        }
    }
    if count >= 4000 {
        for outcome in ["*", "a", "e", "ENOEXEC", "ENOENT", "EACCES", "ELOOP"] {
            assert!(outcomes.contains_key(outcome), "no {outcome} among {outcomes:?}");
        }
    }
    eprintln!("outcomes of {count} executions: {outcomes:?}");
}

/// Returns one of `files`, or sometimes an interpreter.
fn any_file(random: &mut Random, files: &[PathBuf]) -> PathBuf {
    if random.chance(10) {
        Path::new(".").join(random.pick(&INTERPRETERS))
    } else {
        files[random.below(files.len())].clone()
    }
}

/// Describes the outcome of an execution: the letter of the last interpreter, or an errno.
fn described(outcome: Result<i32, Errno>) -> String {
    match outcome {
        Ok(status) => char::from(u8::try_from(status).unwrap()).to_string(),
        Err(errno) => format!("{errno:?}"),
    }
}

fn interpreters(lab: &Lab) {
    for name in &INTERPRETERS[..5] {
        lab.executable(name, &probe(host()));
    }
    lab.executable("j", b"junk\n");
    lab.executable("k.z", b"");
    lab.executable("s", b"#!a\n");
    lab.executable("t", b"#!j\n");
    lab.executable("u", b"#!nowhere\n");
    lab.executable("l", b"#!l\n");
    fs::write(lab.path("n"), "").unwrap();
}

/// Predicts the outcome if `path` is started as `*`.
fn predict(handlers: &[Handler], path: &Path) -> Result<i32, Errno> {
    let mut path = path.to_owned();
    let mut argv0 = b'*';
    let mut open_files = 0;
    for _ in 0..=REWRITES {
        let header = header(&path);
        let interpreter = if let Some(handler) = first_match(handlers, &header, &path) {
            let interpreter = handler.entry.interpreter.clone().unwrap();
            if handler.entry.flags.contains(Flags::OPEN_BINARY) {
                open_files = open_files.max(1);
            }
            interpreter
        } else if let Some(line) = header.strip_prefix(b"#!") {
            let end = line.iter().position(|byte| *byte == b'\n').unwrap();
            PathBuf::from(std::ffi::OsStr::from_bytes(&line[..end]))
        } else if header == probe(host()) {
            return Ok(argv0.into());
        } else {
            return Err(Errno::ENOEXEC);
        };
        match fs::metadata(&interpreter) {
            Ok(metadata) if metadata.permissions().mode() & 0o111 != 0 => {}
            Ok(_) => return Err(Errno::EACCES),
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap())),
        }
        // With `O` the kernel keeps the first file open, and there can be no second one (K59).
        match open_files {
            0 => {}
            1 => open_files = 2,
            _ => return Err(Errno::ENOEXEC),
        }
        argv0 = interpreter.as_os_str().as_bytes()[0];
        path = interpreter;
    }
    Err(Errno::ELOOP)
}

/// Returns the part of a file that the kernel compares.
fn header(path: &Path) -> Vec<u8> {
    let mut content = fs::read(path).unwrap();
    content.truncate(HEADER_LEN);
    content
}

/// Writes new files, all executable.
fn files(random: &mut Random) -> Vec<PathBuf> {
    let names = (0..FILES).map(|number| {
        let directory = random.pick(&[".", ".", "./d.x"]);
        let end = random.pick(&["", "", ".x", ".y", ".z", ".X", ".", ".x.y", ".y.x"]);
        let path = PathBuf::from(format!("{directory}/p{number}{end}"));
        fs::write(&path, content(random)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    });
    names.collect()
}

fn content(random: &mut Random) -> Vec<u8> {
    let length = random.below(40);
    let mut content = match random.below(10) {
        0 => return probe(host()),
        1 => {
            return [random.pick(&["#!a", "#!j", "#!s", "#!e.x", "#!nowhere", "#!n"]).as_bytes(), b"\n"]
                .concat();
        }
        2 => {
            let foreign: Vec<_> =
                ARCHES.iter().filter(|arch| !host().same_family().contains(&arch.name)).collect();
            let mut content = probe(foreign[random.below(foreign.len())]);
            if random.chance(30) {
                content.truncate(random.below(64));
            }
            content
        }
        3 => [b"\x7fELF", &random.bytes(length)[..]].concat(),
        4 => [b"MZ", &random.bytes(length)[..]].concat(),
        5 => {
            let length = 245 + random.below(20);
            random.bytes(length)
        }
        6 => vec![0; length],
        7 => Vec::new(),
        _ => random.bytes(length),
    };
    // The kernel must not start the file by itself, except for the cases above.
    if content.starts_with(b"#!") {
        content[1] = b'?';
    }
    if content.starts_with(b"\x7fELF") && host().same_family().iter().any(|name| is_of(&content, name)) {
        content[4] = 0;
    }
    content
}

/// Reports whether a file is an ELF program with a machine number of the architecture called `name`.
fn is_of(content: &[u8], name: &str) -> bool {
    let identity = crate::programs::arch(name).identity;
    let offset = crate::programs::E_MACHINE;
    content
        .get(offset..offset + 2)
        .is_some_and(|found| identity.machines.iter().any(|machine| found == identity.order.half(*machine)))
}

/// Registers one more handler, usually for one of the files.
fn add(random: &mut Random, instance: &Instance, number: usize, files: &[PathBuf]) {
    let name = HandlerName::new(format!("h{number}")).unwrap();
    let is_open = random.chance(90);
    let interpreter = if is_open { random.pick(&INTERPRETERS) } else { random.pick(&CLOSED) };
    let mut flags = Flags::from_bits_truncate(random.byte() & 7);
    if random.chance(50) {
        flags -= Flags::OPEN_BINARY | Flags::CREDENTIALS;
    }
    if is_open && random.chance(60) {
        flags |= Flags::FIX_BINARY;
    }
    // The line of a long window of zeros is too long for the kernel.
    let Ok(rule) = Rule::new(name, matcher(random, files), interpreter, flags) else { return };
    instance.register(&rule).unwrap_or_else(|error| panic!("{rule:?}: {error}"));
}

fn matcher(random: &mut Random, files: &[PathBuf]) -> Matcher {
    if random.chance(20) {
        return Matcher::Extension(Extension::new(random.pick(&["x", "y", "z", "X", "x.y", ".x"])).unwrap());
    }
    let mut file = if random.chance(90) {
        header(&files[random.below(files.len())])
    } else {
        header(Path::new(random.pick(&INTERPRETERS)))
    };
    let end = file.len().max(1);
    file.resize(HEADER_LEN, 0);
    let offset = match random.below(10) {
        0 => 248 + random.below(8),
        1 => (end - 1).min(HEADER_LEN - 1),
        2..5 => random.below(end.min(HEADER_LEN)),
        _ => 0,
    };
    let length = match random.below(10) {
        0 => HEADER_LEN - offset,
        1 => 1,
        _ => 1 + random.below(24),
    };
    let length = length.min(HEADER_LEN - offset);
    let mut magic = file[offset..offset + length].to_vec();
    let mask = match random.below(10) {
        0..4 => None,
        4 => Some(vec![0xff; length]),
        5 => Some(vec![0x0f; length]),
        6 if random.chance(10) => Some(vec![0; length]),
        _ => Some(random.bytes(length)),
    };
    if let Some(mask) = &mask
        && random.chance(50)
    {
        // Bits outside the mask may have any value.
        let noise = random.bytes(length);
        magic.iter_mut().zip(mask.iter().zip(noise)).for_each(|(byte, (mask, noise))| *byte ^= noise & !mask);
    }
    if random.chance(20) {
        let at = random.below(length);
        magic[at] ^= 1 << random.below(8);
    }
    Matcher::Magic(Pattern::new(offset, magic, mask).unwrap())
}

/// Changes something about the existing handlers.
fn change(random: &mut Random, instance: &Instance, number: &mut usize, files: &[PathBuf]) {
    let names = instance.names().unwrap();
    if let Some(name) = names.get(random.below(names.len().max(1))) {
        match random.below(4) {
            0 => instance.set_enabled(name, false).unwrap(),
            1 => instance.set_enabled(name, true).unwrap(),
            2 => {
                let rule = instance.entry(name).unwrap().unwrap().to_rule(name).unwrap();
                instance.remove(name).unwrap();
                instance.register(&rule).unwrap();
            }
            _ => {
                *number += 1;
                add(random, instance, *number, files);
            }
        }
    }
    set_status(random.chance(93));
}

/// Enables or disables the whole instance.
fn set_status(enabled: bool) {
    let mut file = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join("status")).unwrap();
    file.write_all(if enabled { b"1" } else { b"0" }).unwrap();
}
