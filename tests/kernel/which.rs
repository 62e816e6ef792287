//! `qus which`: every answer, its exit status, and the behaviour of the kernel.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use goblin::elf::program_header::PT_NOTE;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use qus::arch::Arch;
use qus::handler::preset::Preset;
use qus::interpreter::prefix_in;
use qus::probe::{Variant, image};
use serde_json::Value;

use crate::downloads;
use crate::lab::{Lab, Ran, run, start};
use crate::namespace::{INSTANCE, mount_elsewhere};
use crate::prediction::{native, with_loader, with_segment};
use qus::binfmt::Flags;

/// Writes the probe of an architecture, which ends with 42 when it is started as `*`.
fn program(lab: &Lab, arch: &str) -> PathBuf {
    lab.executable(&format!("{arch}-program"), &content(arch, Variant::default()))
}

fn content(arch: &str, variant: Variant) -> Vec<u8> {
    let arch = Arch::from_qemu_target(arch).unwrap();
    image(arch, arch.identity.machines[0], variant)
}

/// Returns the answer about `file`. Expects the same in text and in JSON, and the same result of the kernel.
fn answer(lab: &Lab, file: &Path) -> Value {
    let answer = unchecked(lab, file);
    match start(file, &["*"]) {
        Ok(ran) => assert!(answer["runs"] == true, "{answer:#}\n{ran:?}"),
        Err(errno) => {
            let name = format!("{:?}", Errno::from_raw(errno));
            assert!(answer["runs"] == false && answer["errno"] == *name, "{answer:#}\n{name}");
        }
    }
    answer
}

fn unchecked(lab: &Lab, file: &Path) -> Value {
    let before = lab.entries();
    let path = file.to_str().unwrap();
    let (status, value) = lab.answer(["which", path]);
    let [answer] = value["answers"].as_array().unwrap().as_slice() else { panic!("{value:#}") };
    assert_eq!(status, i32::from(answer["runs"] != true), "{value:#}");
    let human = lab.qus(["which", path]);
    assert_eq!(human.status, status);
    let first = format!("{path}: {}\n", answer["kind"].as_str().unwrap());
    assert!(human.stdout.starts_with(&first), "{human:#?}");
    assert!(human.stdout.contains(&format!("\n  {}\n", answer["text"].as_str().unwrap())), "{human:#?}");
    if let Some(command) = answer["try"].as_str() {
        assert!(human.stdout.contains(&format!("\n  try: {command}\n")), "{human:#?}");
    }
    assert_eq!(lab.entries(), before);
    answer.clone()
}

/// Expects that the file does not run, for the reason `text`.
fn fails(lab: &Lab, file: &Path, text: &str) -> Value {
    let answer = answer(lab, file);
    assert_eq!(answer["runs"], false, "{answer:#}");
    assert_eq!(answer["text"], text, "{answer:#}");
    answer
}

/// Expects that the file does not run, for the reason `text`, and that it runs after the printed command. Returns the
/// command.
fn fixes(lab: &Lab, file: &Path, text: &str) -> String {
    let command = fails(lab, file, text)["try"].as_str().unwrap().to_owned();
    lab.type_command(&command);
    let answer = answer(lab, file);
    assert_eq!(answer["runs"], true, "{answer:#}");
    command
}

fn runs(lab: &Lab, file: &Path, text: &str) -> Value {
    let answer = answer(lab, file);
    assert_eq!(answer["runs"], true, "{answer:#}");
    assert_eq!(answer["text"], text, "{answer:#}");
    answer
}

fn copy_of_qemu(lab: &Lab, arch: &str) -> PathBuf {
    fs::create_dir_all(lab.path("own")).unwrap();
    let name = format!("qemu-{arch}-static");
    let path = lab.path("own").join(&name);
    fs::copy(downloads::distribution().join(name), &path).unwrap();
    path
}

kernel_test!(which_native);
fn which_native(lab: &Lab) {
    let path = lab.executable("native", &native(2));
    let answer = runs(lab, &path, "native: this host runs it natively");
    assert_eq!(answer["certainty"], "ruled");
    assert_eq!(answer["handler"], Value::Null);
    let mut object = native(2);
    // e_type 1 is ET_REL, written in the byte order of this host.
    object[16..18].copy_from_slice(&1_u16.to_ne_bytes());
    let object = lab.executable("object", &object);
    let answer = self::answer(lab, &object);
    assert_eq!(
        (&answer["runs"], answer["errno"].as_str()),
        (&Value::Bool(false), Some("ENOEXEC")),
        "{answer:#}"
    );
    assert!(answer["kind"].as_str().unwrap().contains(" object file "), "{answer:#}");
    let loader = lab.executable("no-loader", &with_loader(&native(2), Path::new("/lib/ld-absent.so.1")));
    let answer = fails(lab, &loader, "its loader /lib/ld-absent.so.1 is missing or cannot be started");
    assert_eq!(answer["errno"], "ENOENT");
}

kernel_test!(which_without_handler);
fn which_without_handler(lab: &Lab) {
    let path = lab.executable(
        "hello",
        &with_loader(&content("s390x", Variant::default()), Path::new("/lib/ld64.so.1")),
    );
    let mut command = lab.program(&[], ["which", "./hello"]);
    let ran = run(&mut command);
    let expected = "./hello: s390x program (ELF, 64-bit, big-endian), loader /lib/ld64.so.1\n  \
                    no handler matches; execve fails with \"Exec format error\"\n  \
                    try: qus register s390x\n  \
                    hint: it also needs /lib/ld64.so.1: start it in a container or root directory of its architecture, \
                    or set QEMU_LD_PREFIX to one\n";
    assert_eq!(ran, Ran { status: 1, stdout: expected.to_owned(), stderr: String::new() });
    fails(lab, &path, "no handler matches; execve fails with \"Exec format error\"");

    let path = program(lab, "s390x");
    let command = fixes(lab, &path, "no handler matches; execve fails with \"Exec format error\"");
    assert_eq!(command, "qus register s390x");
    let answer = runs(lab, &path, "verified here and in an empty root directory");
    assert_eq!(answer["certainty"], "executed");
    assert_eq!(answer["arch"], "s390x");
    assert_eq!(answer["handler"]["name"], "qemu-s390x");
    assert!(answer["handler"]["version"].is_string(), "{answer:#}");
    assert_eq!(start(&path, &["*"]).unwrap().status, 42);
    let ran = lab.qus(["which", "--no-verify", path.to_str().unwrap()]);
    assert!(ran.status == 0 && ran.stdout.contains("\n  unverified: no probe was executed\n"), "{ran:#?}");
}

kernel_test!(which_without_an_instance, unmounted);
fn which_without_an_instance(lab: &Lab) {
    let path = program(lab, "s390x");
    let script = lab.executable("script", format!("#!{}\n", path.display()).as_bytes());
    let text = "it needs a handler; none can be seen, because binfmt_misc is not mounted";
    for (file, whose) in [(&path, String::new()), (&script, format!("its interpreter {}: ", path.display()))]
    {
        let path = file.to_str().unwrap();
        let (status, value) = lab.answer(["which", "--no-verify", path]);
        let answer = &value["answers"][0];
        assert_eq!(
            (status, &answer["runs"], &answer["certainty"]),
            (1, &Value::Null, &"unknown".into()),
            "{answer:#}"
        );
        assert_eq!(answer["text"], format!("{whose}{text}"));
        assert_eq!(answer["try"], "qus register s390x");
        // The probe shows that no handler takes it.
        let answer = unchecked(lab, file);
        assert_eq!((&answer["runs"], &answer["errno"]), (&false.into(), &"ENOEXEC".into()), "{answer:#}");
        assert_eq!(answer["try"], "qus register s390x");
    }
    // Any file can have a handler.
    for (name, content) in [("document.md", b"# Text".as_slice()), ("empty", b"")] {
        let path = lab.executable(name, content);
        let (status, value) = lab.answer(["which", path.to_str().unwrap()]);
        let answer = &value["answers"][0];
        assert_eq!((status, &answer["runs"], &answer["try"]), (1, &Value::Null, &Value::Null), "{answer:#}");
        let text = "it needs a handler; none can be seen, because binfmt_misc is not mounted";
        assert_eq!(answer["text"], text);
    }
}

kernel_test!(which_instance_elsewhere);
/// Tests a process as in a container, whose procfs never has the host's mount.
fn which_instance_elsewhere(lab: &Lab) {
    lab.done(["register", "s390x"]);
    let path = program(lab, "s390x");
    // A mount point of binfmt_misc without a mount is an empty directory of procfs.
    let is_empty = |path: &&str| std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_none());
    let candidates = ["/proc/tty/ldisc", "/proc/driver", "/proc/fs/jbd2", "/proc/fs/nfsd", "/proc/scsi"];
    let Some(unmounted) = candidates.iter().copied().find(is_empty) else {
        crate::skip::skip("procfs has no empty directory")
    };
    let which = |path: &Path| lab.qus(["which", "--instance", unmounted, path.to_str().unwrap()]);
    let ran = which(&path);
    let text = "\n  verified here, with a handler that is not visible because binfmt_misc is not mounted\n";
    assert!(ran.status == 0 && ran.stdout.contains(text), "{ran:#?}");
    let script = lab.executable("script", format!("#!{}\n", path.display()).as_bytes());
    let ran = which(&script);
    let text = format!("\n  its interpreter {}: {}", path.display(), text.trim_start());
    assert!(ran.status == 0 && ran.stdout.replace("\n    ", " ").contains(&text), "{ran:#?}");
    let ran = which(&program(lab, "arm"));
    let command = format!("try: qus --instance {unmounted} register arm\n");
    assert!(ran.status == 1 && ran.stdout.contains(&command), "{ran:#?}");
}

kernel_test!(which_disabled);
fn which_disabled(lab: &Lab) {
    let path = program(lab, "arm");
    lab.done(["register", "arm"]);
    lab.done(["disable", "arm"]);
    let answer = self::answer(lab, &path);
    assert_eq!(answer["others"][0]["why"], "it is disabled");
    let text = "its handler qemu-arm is disabled; execve fails with \"Exec format error\"";
    assert_eq!(fixes(lab, &path, text), "qus enable arm");

    lab.register(b":named:E::x::/bin/true:").unwrap();
    lab.command("named", "0");
    let path = lab.executable("file.x", b"anything");
    let text = "its handler named is disabled; execve fails with \"Exec format error\"";
    assert_eq!(fixes(lab, &path, text), "qus enable named");
}

kernel_test!(which_instance_off);
fn which_instance_off(lab: &Lab) {
    let path = program(lab, "arm");
    lab.done(["register", "arm"]);
    lab.command("status", "0");
    let text = "the whole binfmt_misc instance is disabled; execve fails with \"Exec format error\"";
    assert_eq!(fixes(lab, &path, text), format!("echo 1 | tee {INSTANCE}/status"));
}

kernel_test!(which_denied);
fn which_denied(lab: &Lab) {
    lab.done(["register", "arm"]);
    let path = program(lab, "arm");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fixes(lab, &path, "it may not be executed by this user");
    fs::create_dir(lab.path("noexec")).unwrap();
    mount(Some("none"), &lab.path("noexec"), Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
    let path = lab.executable("noexec/program", &content("arm", Variant::default()));
    fails(lab, &path, "it is on a file system that is mounted noexec");
    let answer = fails(lab, &lab.path("absent"), "it does not exist");
    assert_eq!(answer["kind"], "no file");
    fails(lab, &lab.path("noexec"), "it is not a regular file");
    fails(lab, &path.join("below"), "it cannot be reached: Not a directory (os error 20)");
}

kernel_test!(which_scripts);
fn which_scripts(lab: &Lab) {
    let script = |name: &str, interpreter: &Path| {
        lab.executable(name, format!("#!{}\n", interpreter.display()).as_bytes())
    };
    let answer = runs(lab, &script("plain", Path::new("/bin/true")), "a script: /bin/true runs it");
    assert_eq!(answer["kind"], "script (#!/bin/true)");
    let answer = fails(lab, &script("lost", Path::new("/absent")), "its interpreter /absent does not exist");
    assert_eq!(answer["errno"], "ENOENT");

    let foreign = program(lab, "arm");
    let outer = script("foreign", &foreign);
    let name = foreign.display();
    let text = format!(
        "its interpreter {name}: arm program (ELF, 32-bit, little-endian); \
         no handler matches; execve fails with \"Exec format error\""
    );
    assert_eq!(fixes(lab, &outer, &text), "qus register arm");
    let interpreter = downloads::distribution().join("qemu-arm-static");
    let chain = format!("the handler qemu-arm runs {name} with {}", interpreter.display());
    runs(lab, &outer, &format!("a script: {name} runs it; {chain}"));
    let outer = outer.display();
    let text = format!("a script: {outer} runs it; {outer} is a script that {name} runs; {chain}");
    runs(lab, &script("outermost", Path::new(&outer.to_string())), &text);
}

kernel_test!(which_kinds);
fn which_kinds(lab: &Lab) {
    let nothing = "it is not a program; execve fails with \"Exec format error\"";
    let none = "no handler matches; execve fails with \"Exec format error\"";
    let answer = fails(lab, &lab.executable("empty", b""), nothing);
    assert_eq!(answer["kind"], "empty file");
    let answer = fails(lab, &lab.executable("junk", b"junk"), nothing);
    assert_eq!(answer["kind"], "unknown kind of file");
    let answer = fails(lab, &lab.executable("setup.exe", b"MZ\x90\0"), none);
    assert_eq!(answer["kind"], "Windows or DOS program (MZ)");
    assert!(answer["hint"].as_str().unwrap().contains("Wine"), "{answer:#}");
    let answer = fails(lab, &lab.executable("b c.class", b"\xca\xfe\xba\xbe\0\0\0\x41"), none);
    assert_eq!(answer["kind"], "Java class file");
    assert!(answer["try"].as_str().unwrap().starts_with("java -cp"), "{answer:#}");
    for (content, kind) in [
        (b"\xca\xfe\xba\xbe\0\0\0\x02", "macOS program (Mach-O, universal)"),
        (b"\xcf\xfa\xed\xfe\x0c\0\0\x01", "macOS program (Mach-O)"),
    ] {
        assert_eq!(fails(lab, &lab.executable("mac", content), none)["kind"], kind);
    }
    let mut unknown = content("arm", Variant::default());
    unknown[18..20].copy_from_slice(&[0x34, 0x12]);
    let text = "neither QEMU's user mode nor this host runs such programs; \
                execve fails with \"Exec format error\"";
    let answer = fails(lab, &lab.executable("unknown", &unknown), text);
    assert_eq!(answer["kind"], "machine 0x1234 program (ELF, 32-bit, little-endian)");
    assert_eq!(answer["arch"], Value::Null);

    let app_image = Variant { abi_version: *b"AI\x02", ..Variant::default() };
    let path = lab.executable("tool.AppImage", &content("arm", app_image));
    fixes(lab, &path, none);
    let answer = self::answer(lab, &path);
    assert_eq!(answer["kind"], "arm AppImage (ELF, 32-bit, little-endian)");
    assert_eq!(start(&path, &["*"]).unwrap().status, 42);

    lab.register(b":DOS:M::MZ::/bin/true:").unwrap();
    let answer = runs(lab, &lab.path("setup.exe"), "unverified: no probe was executed");
    assert_eq!(answer["handler"]["name"], "DOS");
}

kernel_test!(which_of_another_instance, unmounted);
/// Tests that the commands are for the instance that was asked about.
fn which_of_another_instance(lab: &Lab) {
    let elsewhere = mount_elsewhere(lab);
    let at = ["--instance", elsewhere.to_str().unwrap()];
    let path = program(lab, "arm");
    let answer = || {
        let words = at.into_iter().chain(["which", "--no-verify", path.to_str().unwrap()]);
        lab.answer(words).1["answers"][0].clone()
    };
    let qus = format!("qus --instance '{}'", elsewhere.display());
    let steps = [
        (None, format!("{qus} register arm")),
        (Some("qemu-arm"), format!("{qus} enable arm")),
        (Some("status"), format!("echo 1 | tee '{}/status'", elsewhere.display())),
    ];
    for (disabled, command) in steps {
        if let Some(name) = disabled {
            fs::write(elsewhere.join(name), "0").unwrap();
        }
        assert_eq!(answer()["try"], command);
        lab.type_command(&command);
        assert_eq!(answer()["runs"], true);
    }
}

kernel_test!(which_names_a_preset_only_with_an_interpreter);
/// Without an interpreter `qus register ape` fails, so the answer is how to get one.
fn which_names_a_preset_only_with_an_interpreter(lab: &Lab) {
    let kinds: [(&str, &[u8], &str, &str, &str); 4] = [
        ("a.jar", b"PK\x03\x04", "Java archive", "jar", "jexec"),
        ("a.com", b"MZqFpD='\n", "Actually Portable Executable (APE)", "ape", "ape"),
        ("b.com", b"jartsr='\n", "Actually Portable Executable (APE)", "ape", "ape"),
        ("a.wasm", b"\0asm\x01\0\0\0", "WebAssembly module", "wasm32-wasi", "wasmtime"),
    ];
    for directory in ["/usr/lib/jvm", "/usr/local/bin", "/opt"] {
        if Path::new(directory).is_dir() {
            mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
    }
    let bin = lab.bin();
    for (name, content, kind, preset, interpreter) in kinds {
        let file = lab.executable(name, content);
        let answer = || {
            let mut command = lab.command_of_qus();
            command.env("PATH", &bin).args(["which", "--json"]).arg(&file);
            let value = run(&mut command).json()["answers"][0].clone();
            assert_eq!(value["kind"], kind);
            (value["try"].clone(), value["hint"].clone())
        };
        let hint = Preset::named(preset).unwrap().hint;
        assert_eq!(answer(), (Value::Null, hint.into()));
        let interpreter = lab.executable(&format!("bin/{interpreter}"), b"#!/bin/sh\n");
        assert_eq!(answer(), (format!("qus register {preset}").into(), Value::Null));
        fs::remove_file(interpreter).unwrap();
    }
}

kernel_test!(which_names_a_state_only_if_it_helps);
/// A handler whose interpreter it takes itself runs nothing, whether it is enabled or not.
fn which_names_a_state_only_if_it_helps(lab: &Lab) {
    let interpreter = lab.executable("run.x", b"#!/bin/sh\n");
    lab.register(format!(":named:E::x::{}:", interpreter.display()).as_bytes()).unwrap();
    let path = lab.executable("file.x", b"anything");
    for state in ["1", "0"] {
        lab.command("named", state);
        let answer = answer(lab, &path);
        assert_eq!((&answer["runs"], &answer["try"]), (&Value::Bool(false), &Value::Null), "{answer:#}");
    }
    fs::write(Path::new(INSTANCE).join("status"), "0").unwrap();
    assert_eq!(answer(lab, &path)["try"], Value::Null);
}

kernel_test!(which_executes_no_handler_of_another_tool);
/// A launcher takes an AppImage by its magic. It is not started to answer a question.
fn which_executes_no_handler_of_another_tool(lab: &Lab) {
    let launcher = lab.executable("launcher", b"#!/bin/sh\ntouch \"$0.ran\"\n");
    lab.register(format!(r":appimage:M:8:AI\x02::{}:", launcher.display()).as_bytes()).unwrap();
    let app_image = Variant { abi_version: *b"AI\x02", ..Variant::default() };
    let path = lab.executable("tool", &content("arm", app_image));
    let answer = unchecked(lab, &path);
    assert_eq!(answer["text"], "unverified: no probe was executed");
    assert!(!lab.path("launcher.ran").exists());
}

kernel_test!(which_truncated);
fn which_truncated(lab: &Lab) {
    let whole = content("arm", Variant::default());
    lab.done(["register", "arm"]);
    let path = lab.executable("cut", &whole[..whole.len() - 1]);
    let answer = unchecked(lab, &path);
    assert_eq!(answer["runs"], Value::Null, "{answer:#}");
    assert_eq!(answer["certainty"], "unknown");
    assert!(answer["text"].as_str().unwrap().starts_with("it is truncated: "), "{answer:#}");
    let path = lab.executable("cut-native", &native(2)[..64]);
    let answer = fails(lab, &path, "its program headers are beyond its end; execve fails");
    assert_eq!(answer["errno"], "ENOEXEC");
}

kernel_test!(which_leaves_documents_alone);
fn which_leaves_documents_alone(lab: &Lab) {
    let path = lab.path("file.json");
    fs::write(&path, "{}").unwrap();
    let answer = fails(lab, &path, "it may not be executed by this user");
    assert_eq!(answer["try"], Value::Null);
}

kernel_test!(which_loader_missing);
/// Tests a program whose loader is missing. The handler works and the emulator starts, but it does not find the loader.
fn which_loader_missing(lab: &Lab) {
    let loader = Path::new("/lib/ld-linux-absent.so.1");
    let path = lab.executable("hello", &with_loader(&content("aarch64", Variant::default()), loader));
    lab.done(["register", "aarch64"]);
    let answer = unchecked(lab, &path);
    assert_eq!(answer["runs"], false, "{answer:#}");
    assert_eq!(
        answer["text"],
        "the handler works, but the program needs /lib/ld-linux-absent.so.1, which does not exist here"
    );
    if Path::new("/usr/bin/dpkg").exists() {
        let command = answer["try"].as_str().unwrap();
        assert!(command.starts_with("dpkg --add-architecture arm64 && "), "{command}");
    }
    assert!(answer["hint"].as_str().unwrap().contains("QEMU_LD_PREFIX"), "{answer:#}");
    assert_ne!(start(&path, &["*"]).unwrap().status, 42);

    fs::create_dir_all(lab.path("root/lib")).unwrap();
    let position_independent = Variant { e_type: 3, ..Variant::default() };
    lab.executable("root/lib/ld-linux-absent.so.1", &content("aarch64", position_independent));
    let mut command = lab.program(&[], ["which", path.to_str().unwrap()]);
    let ran = run(command.env("QEMU_LD_PREFIX", lab.path("root")));
    assert!(ran.status == 0 && ran.stdout.contains("verified here"), "{ran:#?}");
    let ran = run(Command::new(&path).env("QEMU_LD_PREFIX", lab.path("root")));
    assert_eq!(ran.status, i32::from(b'/'), "{ran:?}");
}

kernel_test!(which_interpreter_gone);
fn which_interpreter_gone(lab: &Lab) {
    let path = program(lab, "arm");
    let interpreter = copy_of_qemu(lab, "arm");
    lab.handler("qemu-arm", "arm", &interpreter, Flags::empty());
    fs::remove_file(&interpreter).unwrap();
    let text = format!("its interpreter {} does not exist", interpreter.display());
    assert_eq!(fixes(lab, &path, &text), "qus register --replace arm");
    lab.done(["reset"]);

    let interpreter = copy_of_qemu(lab, "arm");
    lab.handler("qemu-arm", "arm", &interpreter, Flags::FIX_BINARY);
    fs::remove_file(&interpreter).unwrap();
    let text = "verified here and in an empty root directory; the file at its path was removed, and the kernel holds it open";
    let answer = runs(lab, &path, text);
    assert_eq!(answer["try"], Value::Null);
}

kernel_test!(which_interpreter_replaced);
fn which_interpreter_replaced(lab: &Lab) {
    let path = program(lab, "arm");
    let interpreter = copy_of_qemu(lab, "arm");
    lab.handler("qemu-arm", "arm", &interpreter, Flags::FIX_BINARY);
    fs::copy(&interpreter, lab.path("new")).unwrap();
    fs::rename(lab.path("new"), &interpreter).unwrap();
    let text = "verified here and in an empty root directory; the handler runs an old file, which was replaced at its path";
    let answer = runs(lab, &path, text);
    lab.type_command(answer["try"].as_str().unwrap());
    runs(lab, &path, "verified here and in an empty root directory");
}

kernel_test!(which_interpreter_dynamic);
/// Tests an interpreter that needs a loader. The program runs here, but in a container the loader would be missing.
fn which_interpreter_dynamic(lab: &Lab) {
    let path = program(lab, "arm");
    let loader = lab.executable("loader", &native(3));
    let interpreter = lab.executable("qemu-arm-static", &with_loader(&native(2), &loader));
    lab.handler("qemu-arm", "arm", &interpreter, Flags::FIX_BINARY);
    let answer = self::answer(lab, &path);
    assert_eq!(answer["runs"], true, "{answer:#}");
    assert!(
        answer["text"].as_str().unwrap().starts_with("it runs here, but not in containers: "),
        "{answer:#}"
    );
    lab.type_command(answer["try"].as_str().unwrap());
    runs(lab, &path, "verified here and in an empty root directory");
}

kernel_test!(which_loop);
fn which_loop(lab: &Lab) {
    let interpreter = lab.executable("run.x", b"#!/bin/sh\n");
    lab.register(format!(":named:E::x::{}:", interpreter.display()).as_bytes()).unwrap();
    let path = lab.executable("file.x", b"anything");
    let answer = fails(lab, &path, "a handler matches its own interpreter (infinite loop)");
    assert_eq!(answer["errno"], "ELOOP");
    assert_eq!(answer["hint"], "the handler needs another interpreter");
}

kernel_test!(which_of_two_handlers);
fn which_of_two_handlers(lab: &Lab) {
    let path = program(lab, "arm");
    let interpreter = copy_of_qemu(lab, "arm");
    lab.handler("qemu-arm", "arm", &downloads::distribution().join("qemu-arm-static"), Flags::FIX_BINARY);
    lab.handler("newer", "arm", &interpreter, Flags::FIX_BINARY);
    let answer = runs(lab, &path, "verified here and in an empty root directory");
    assert_eq!(answer["handler"]["name"], "newer");
    assert_eq!(answer["handler"]["interpreter"], interpreter.to_str().unwrap());
    assert_eq!(answer["certainty"], "executed");
    assert_eq!(answer["others"][0]["name"], "qemu-arm");
    assert_eq!(answer["others"][0]["why"], "it was registered earlier");
    let ran = lab.qus(["which", "--no-verify", path.to_str().unwrap()]);
    assert!(ran.stdout.contains("\n  newer probably takes it: "), "{ran:#?}");
    lab.command("newer", "0");
    let answer = runs(lab, &path, "verified here and in an empty root directory");
    assert_eq!(answer["handler"]["name"], "qemu-arm");
    assert_eq!(answer["others"][0]["why"], "it is disabled");
}

kernel_test!(which_byte_by_byte);
fn which_byte_by_byte(lab: &Lab) {
    lab.done(["register", "arm", "s390x"]);
    lab.register(b":named:E::x::/bin/true:").unwrap();
    let path = program(lab, "arm");
    let ran = lab.qus(["which", "-v", path.to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let expected = "  qemu-arm: matches\n  \
                    qemu-s390x: differs in\n    \
                    byte 4   EI_CLASS   file 01  magic 02  mask ff\n    \
                    byte 5   EI_DATA    file 01  magic 02  mask ff\n    \
                    byte 16  e_type     file 02  magic 00  mask ff\n    \
                    byte 17  e_type     file 00  magic 02  mask fe\n    \
                    byte 18  e_machine  file 28  magic 00  mask ff\n    \
                    byte 19  e_machine  file 00  magic 16  mask ff\n  \
                    named: does not match by its extension .x\n";
    assert!(ran.stdout.ends_with(expected), "{ran:#?}");
}

kernel_test!(which_files_from_a_list);
fn which_files_from_a_list(lab: &Lab) {
    lab.done(["register", "arm"]);
    let good = program(lab, "arm");
    let bad = lab.executable("line\nfeed", b"");
    let list = [good.to_str().unwrap(), "\0", bad.to_str().unwrap(), "\0"].concat();
    fs::write(lab.path("list"), &list).unwrap();
    let from_file = lab.qus(["which", "--files0-from", lab.path("list").to_str().unwrap()]);
    assert_eq!(from_file.status, 1, "{from_file:#?}");
    assert!(from_file.stdout.contains("line\\nfeed: empty file\n"), "{from_file:#?}");

    let mut command = lab.program(&[], ["which", "--json", "--files0-from", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs: Vec<bool> =
        value["answers"].as_array().unwrap().iter().map(|answer| answer["runs"] == true).collect();
    assert_eq!(runs, [true, false], "{value:#}");
    lab.refused(["which", "--files0-from", "/absent"], 2, "cannot read /absent");
    lab.refused(["which"], 2, "FILE");
}

kernel_test!(which_many_files);
/// Tests that a long list needs no more memory than a short one, in text and in JSON. An address space with 4 MiB
/// besides the executable is too small to store all answers.
fn which_many_files(lab: &Lab) {
    const COUNT: usize = 20_000;
    lab.done(["register", "arm"]);
    let files = [program(lab, "arm"), lab.executable("empty", b"")];
    let names: Vec<u8> =
        files.iter().flat_map(|file| [file.as_os_str().as_bytes(), b"\0"].concat()).collect();
    fs::write(lab.path("short"), &names).unwrap();
    fs::write(lab.path("long"), names.repeat(COUNT / 2)).unwrap();
    let which = |list: &str, limit: &str, options: &[&str]| {
        let script = format!("ulimit -v {limit}; exec \"$@\"");
        let list = lab.path(list);
        let words = ["which", "--files0-from", list.to_str().unwrap()];
        let words = words.into_iter().chain(options.iter().copied());
        let ran = run(&mut lab.program(&["sh", "-ec", &script, "sh"], words));
        assert_eq!((ran.status, ran.stderr.as_str()), (1, ""), "{options:?}");
        ran.stdout
    };
    // In KiB. Mapped libraries need address space, too.
    let besides = if crate::lab::is_dynamic() { 8192 } else { 4096 };
    let limit = &(crate::lab::loaded_size() / 1024 + besides).to_string();
    // Emulators need a larger address space, so only `--no-verify` runs with the limit.
    for (most, options) in [("unlimited", &[][..]), (limit, &["--no-verify"])] {
        let text = which("short", most, options);
        assert!(text.contains(": empty file\n") && text.contains(": arm program "), "{text}");
        assert!(which("long", most, options) == text.repeat(COUNT / 2), "{options:?}");
    }
    let json = which("long", limit, &["--json", "--no-verify"]);
    let long: Value = serde_json::from_str(&json).unwrap();
    let short: Value = serde_json::from_str(&which("short", limit, &["--json", "--no-verify"])).unwrap();
    let (long, short) = (long["answers"].as_array().unwrap(), short["answers"].as_array().unwrap());
    assert_eq!((long.len(), short.len()), (COUNT, 2));
    assert!(long.chunks(2).all(|pair| pair == short.as_slice()));
}

kernel_test!(which_read_no_further);
/// Tests a reader that stops early, which is not an error. The exit status is that of the answers: these files do not run.
fn which_read_no_further(lab: &Lab) {
    let path = lab.executable("empty", b"");
    fs::write(lab.path("list"), [path.as_os_str().as_bytes(), b"\0"].concat().repeat(20_000)).unwrap();
    for options in [&[][..], &["--json"]] {
        let list = lab.path("list");
        let words = ["which", "--files0-from", list.to_str().unwrap()];
        let mut command = lab.program(&[], words.into_iter().chain(options.iter().copied()));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut begin = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut begin).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{options:?}");
        assert_eq!(output.status.code(), Some(1), "{options:?}");
    }
}

kernel_test!(which_unreadable);
/// Tests a file that root owns but cannot read, because it lacks capabilities.
fn which_unreadable(lab: &Lab) {
    lab.done(["register", "arm"]);
    let path = program(lab, "arm");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o111)).unwrap();
    let which = lab.program(&[], ["which", path.to_str().unwrap()]);
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-all").arg(which.get_program()).args(which.get_args());
    let ran = run(&mut command);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(ran.stdout.contains("this user may execute it, but not read it"), "{ran:#?}");
    // This root would type the same command with the same rights.
    assert!(
        ran.stdout.contains("hint: root has no such right here: ") && !ran.stdout.contains("try: "),
        "{ran:#?}"
    );
    runs(lab, &path, "verified here and in an empty root directory");
}

kernel_test!(which_finds_programs_in_path);
/// Tests a bare name without such a file in the current directory. It means a program in `PATH`, as in a shell, and qus
/// prints the path of this program.
fn which_finds_programs_in_path(lab: &Lab) {
    let arm = program(lab, "arm");
    let directory = lab.path("programs");
    let found = lab.copy("programs/hello", &arm);
    let mut command = lab.program(&[], ["which", "hello"]);
    let ran = run(command.env("PATH", &directory));
    let message = format!("qus: hello is not a file in this directory; explaining {}\n", found.display());
    assert_eq!((ran.status, ran.stderr.as_str()), (1, message.as_str()), "{ran:#?}");
    assert!(ran.stdout.starts_with(&format!("{}: arm program", found.display())), "{ran:#?}");
    // A file here comes first.
    lab.executable("hello", b"");
    let mut command = lab.program(&[], ["which", "hello"]);
    let ran = run(command.env("PATH", &directory));
    assert!(ran.stderr.is_empty() && ran.stdout.starts_with("hello: empty file\n"), "{ran:#?}");
}

kernel_test!(which_suggests_what_makes_this_file_run);
/// A rule of another tool takes ordinary programs, and qus leaves it in place. It does not take a program with an ABI
/// version, for which only `--replace` helps.
fn which_suggests_what_makes_this_file_run(lab: &Lab) {
    let interpreter = downloads::distribution().join("qemu-arm-static");
    let pattern = r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    let rule = format!(":qemu-arm:M::{pattern}:{mask}:{}:POF", interpreter.display());
    lab.register(rule.as_bytes()).unwrap();
    let path =
        lab.executable("abi1", &content("arm", Variant { abi_version: [1, 0, 0], ..Variant::default() }));
    let text = "no handler matches; execve fails with \"Exec format error\"";
    assert_eq!(fixes(lab, &path, text), "qus register --replace arm");
    assert_eq!(start(&path, &["*"]).unwrap().status, 42);
}

kernel_test!(which_fetches_an_emulator_that_is_missing);
fn which_fetches_an_emulator_that_is_missing(lab: &Lab) {
    let path = program(lab, "arm");
    let word = path.to_str().unwrap();
    let directory = lab.path("empty");
    fs::create_dir(&directory).unwrap();
    let empty = [("QUS_INTERPRETER_DIR", directory.to_str().unwrap())];
    let mut command = lab.program(&[], ["which", word]);
    let ran = run(command.env("QUS_INTERPRETER_DIR", empty[0].1));
    assert!(ran.status == 1 && ran.stdout.ends_with("\n  try: qus register --fetch arm\n"), "{ran:#?}");
    for words in [["verify", "arm"], ["enable", "arm"]] {
        let mut command = lab.program(&[], words);
        let ran = run(command.env("QUS_INTERPRETER_DIR", empty[0].1));
        assert!(ran.status != 0, "{ran:#?}");
        ran.suggests("qus register --fetch arm");
        assert!(ran.stderr.contains("qus: no handler is registered for arm\n"), "{ran:#?}");
    }
}

kernel_test!(which_of_other_systems);
/// Programs of NetBSD, and of the old world of LoongArch, have the header of a Linux program.
fn which_of_other_systems(lab: &Lab) {
    lab.done(["register", "arm", "loongarch64"]);
    let note =
        [&7_u32.to_le_bytes(), &4_u32.to_le_bytes(), &1_u32.to_le_bytes(), &b"NetBSD\0\0"[..], &[0; 4]]
            .concat();
    let netbsd = with_segment(&content("arm", Variant::default()), PT_NOTE, &note);
    let old = with_loader(&content("loongarch64", Variant::default()), Path::new("/lib64/ld.so.1"));
    for (name, content, system, hint) in [
        ("netbsd", netbsd, "NetBSD", "run it on NetBSD, for example in a virtual machine"),
        (
            "old",
            old,
            "the old world of LoongArch",
            "get a program of the new world, or use libLoL on a LoongArch host",
        ),
    ] {
        let answer = unchecked(lab, &lab.executable(name, &content));
        let text = format!(
            "it is a program for {system}; Linux starts it, but it cannot be known what it does then"
        );
        assert_eq!((&answer["runs"], &answer["text"]), (&Value::Null, &text.into()), "{answer:#}");
        assert_eq!(answer["hint"], hint);
    }
}

kernel_test!(which_names_what_a_flag_of_the_handler_decides);
fn which_names_what_a_flag_of_the_handler_decides(lab: &Lab) {
    lab.handler("qemu-arm", "arm", &downloads::interpreter("arm"), Flags::FIX_BINARY);
    let path = program(lab, "arm");
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let verified = "verified here and in an empty root directory";
    mode(0o711);
    let text = "; users who may not read it cannot run it, because the handler lacks the flag O";
    let command = runs(lab, &path, &format!("{verified}{text}"))["try"].as_str().unwrap().to_owned();
    assert_eq!(command, "qus register --replace arm");
    lab.type_command(&command);
    runs(lab, &path, verified);
    mode(0o4755);
    let text = "; it does not get the rights of its owner, because the handler lacks the flag C";
    let answer = runs(lab, &path, &format!("{verified}{text}"));
    let hint = answer["hint"].as_str().unwrap();
    let command = hint.strip_prefix("to change that for all programs: ").unwrap_or_else(|| panic!("{hint}"));
    assert_eq!(command, "qus register --replace --credentials arm");
    lab.type_command(command);
    runs(lab, &path, verified);
}

kernel_test!(which_of_what_cannot_be_read, ordinary_user);
fn which_of_what_cannot_be_read(lab: &Lab) {
    let path = lab.executable("unreadable", &native(2));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o111)).unwrap();
    let answer = unchecked(lab, &path);
    assert_eq!((&answer["runs"], &answer["certainty"]), (&Value::Null, &"unknown".into()), "{answer:#}");
    assert_eq!(answer["text"], "this user may execute it, but not read it, so its kind is unknown");
    assert_eq!(start(&path, &["*"]).unwrap().status, 42);
}

/// Replaces `directory` by a file system in memory with the same entries, to which a test can add some.
fn extend(lab: &Lab, directory: &str) {
    let new = lab.path(&format!("extended{}", directory.replace('/', "-")));
    fs::create_dir(&new).unwrap();
    mount(Some("none"), &new, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let copy = new.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), &copy).unwrap();
            continue;
        }
        if kind.is_dir() { fs::create_dir(&copy) } else { fs::write(&copy, "") }.unwrap();
        mount(Some(&entry.path()), &copy, None::<&str>, bind, None::<&str>).unwrap();
    }
    mount(Some(&new), directory, None::<&str>, bind, None::<&str>).unwrap();
}

kernel_test!(which_knows_where_the_emulator_finds_libraries);
fn which_knows_where_the_emulator_finds_libraries(lab: &Lab) {
    lab.done(["register", "arm"]);
    let loader = Path::new("/lib/ld-of-the-test.so.1");
    let path = lab.executable("dynamic", &with_loader(&content("arm", Variant::default()), loader));
    let dynamic = content("arm", Variant { e_type: 3, ..Variant::default() });
    let text = "the handler works, but the program needs /lib/ld-of-the-test.so.1, which does not exist here";
    let answer = unchecked(lab, &path);
    assert_eq!((&answer["runs"], &answer["text"]), (&false.into(), &text.into()), "{answer:#}");
    assert!(answer["hint"].as_str().unwrap().contains("QEMU_LD_PREFIX"), "{answer:#}");
    assert_eq!(start(&path, &["*"]).unwrap().status, 255);
    let install = |root: &Path| {
        let loader = root.join(loader.strip_prefix("/").unwrap());
        fs::create_dir_all(loader.parent().unwrap()).unwrap();
        fs::write(&loader, &dynamic).unwrap();
        fs::set_permissions(&loader, fs::Permissions::from_mode(0o755)).unwrap();
    };
    // Libraries for cross-compiling are used with a variable.
    extend(lab, "/usr");
    let root = Path::new("/usr/arm-linux-gnueabihf");
    if root.exists() {
        mount(Some("none"), root, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    install(root);
    let answer = unchecked(lab, &path);
    assert_eq!(answer["try"], format!("QEMU_LD_PREFIX={} {}", root.display(), path.display()));
    let mut command = Command::new(&path);
    assert_eq!(command.env("QEMU_LD_PREFIX", root).stdin(Stdio::null()).status().unwrap().code(), Some(47));
    // The emulator has a directory of its own, which needs no variable.
    let prefix = prefix_in(&downloads::interpreter("arm")).expect("the directory of QEMU");
    if prefix.starts_with("/etc") {
        extend(lab, "/etc");
    }
    install(&prefix);
    runs(lab, &path, "verified here and in an empty root directory");
}
