use std::path::Path;

use super::*;
use crate::binfmt::{Extension, HandlerName};
use crate::handler::classify;

const ALL: [Format; 5] =
    [Format::Systemd, Format::BinfmtSupport, Format::Openrc, Format::Nix, Format::Register];

fn set(arch: &str, interpreter: &str) -> ArchRules {
    let arch = Arch::from_qemu_target(arch).unwrap();
    let flags = Flags::FIX_BINARY | Flags::OPEN_BINARY | Flags::PRESERVE_ARGV0;
    ArchRules {
        subject: arch.into(),
        rules: classify::rules(arch, Path::new(interpreter), flags).unwrap(),
        copied: false,
    }
}

fn text(format: Format, arch_rules: &[ArchRules]) -> String {
    String::from_utf8(concat(format, &files(format, arch_rules).unwrap())).unwrap()
}

#[test]
fn every_line_of_binfmt_d_is_a_comment_or_the_rule() {
    for interpreter in ["/usr/bin/qemu-arm", "/a:b,c/qemu-arm", "/a :,;|!#%&@^~=?*/qemu-arm"] {
        let set = set("arm", interpreter);
        let file = binfmt_d(&set).unwrap();
        let lines: Vec<&[u8]> = file.text.split(|byte| *byte == b'\n').collect();
        let rules: Vec<&&[u8]> =
            lines.iter().filter(|line| !matches!(line, [] | [b'#' | b';', ..])).collect();
        assert_eq!(rules.len(), 1, "{interpreter}");
        assert_eq!(Rule::parse(rules[0]).unwrap(), set.rules[0], "{interpreter}");
    }
}

#[test]
fn a_path_that_a_line_cannot_hold_is_refused() {
    for path in ["/a\nb/qemu-arm", "/a\rb/qemu-arm", " /qemu-arm", "/qemu-arm "] {
        for format in ALL {
            assert_eq!(
                files(format, &[set("arm", path)]),
                Err(ExportError::Path("arm".to_owned())),
                "{path:?}"
            );
        }
    }
    let long = format!("/{}/qemu-arm", "a/".repeat(500));
    let Err(ExportError::TooLong { needed, most, .. }) = files(Format::Openrc, &[set("arm", &long)]) else {
        panic!()
    };
    assert!(needed > most && most == SHELL_MAX);
}

#[test]
fn the_longest_line_of_binfmt_d_leaves_room_for_a_newline() {
    let flags = Flags::FIX_BINARY;
    let arch = Arch::from_qemu_target("arm").unwrap();
    let of_length = |length| {
        let path = format!("/{}", "a".repeat(length));
        Some(ArchRules {
            subject: arch.into(),
            rules: classify::rules(arch, Path::new(&path), flags).ok()?,
            copied: false,
        })
    };
    let mut arch_rules = (1..crate::binfmt::LINE_MAX).filter_map(of_length);
    let longest = arch_rules.rfind(|set| binfmt_d(set).is_ok()).unwrap();
    let longer = format!("{}a", longest.rules[0].interpreter().display());
    let longer = ArchRules {
        subject: arch.into(),
        rules: classify::rules(arch, Path::new(&longer), flags).unwrap(),
        copied: false,
    };
    assert_eq!(longer.rules[0].to_line().len(), crate::binfmt::LINE_MAX);
    assert_eq!(
        binfmt_d(&longer),
        Err(ExportError::TooLong {
            subject: "arm".to_owned(),
            needed: crate::binfmt::LINE_MAX,
            most: BINFMT_D_MAX
        })
    );
}

#[test]
fn several_handlers_of_binfmt_support_have_titles() {
    let arch_rules = [set("microblaze", "/usr/bin/qemu-microblaze")];
    let names: Vec<String> =
        files(Format::BinfmtSupport, &arch_rules).unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(names.len(), 2);
    let text = text(Format::BinfmtSupport, &arch_rules);
    for name in names {
        assert!(text.contains(&format!("==> {name} <==\n")), "{text}");
    }
    let one = self::text(Format::BinfmtSupport, &[set("arm", "/usr/bin/qemu-arm")]);
    assert!(one.starts_with(MARKER), "{one}");
    let tail = "credentials no\nfix_binary yes\npreserve yes\n";
    assert!(
        one.contains("\npackage qus\ninterpreter /usr/bin/qemu-arm\nmagic \\x7f\\x45") && one.ends_with(tail)
    );
}

#[test]
fn every_file_except_register_lines_has_the_marker() {
    let arch_rules = [set("arm", "/usr/bin/qemu-arm"), set("s390x", "/usr/bin/qemu-s390x")];
    for format in ALL {
        for file in files(format, &arch_rules).unwrap() {
            let text = String::from_utf8(file.text).unwrap();
            let marked = text.lines().take(2).any(|line| line.starts_with(MARKER));
            assert_eq!(marked, format != Format::Register, "{text}");
        }
    }
}

#[test]
fn words_of_shell_and_nix_are_quoted() {
    let path = "/it's \"${x}\" \\ $(y)/qemu-arm";
    let script = text(Format::Openrc, &[set("arm", path)]);
    assert!(script.contains(r#" '/it'\''s "${x}" \ $(y)/qemu-arm' "#), "{script}");
    let module = text(Format::Nix, &[set("arm", path)]);
    assert!(module.contains(r#"interpreter = "/it's \"\${x}\" \\ \$(y)/qemu-arm";"#), "{module}");
}

#[test]
fn every_format_can_express_an_extension() {
    let name = HandlerName::new("jar").unwrap();
    let rule =
        Rule::new(name, Matcher::Extension(Extension::new("jar").unwrap()), "/usr/bin/jexec", Flags::empty());
    let arch_rules = [ArchRules {
        subject: Arch::from_qemu_target("arm").unwrap().into(),
        rules: vec![rule.unwrap()],
        copied: false,
    }];
    assert!(text(Format::Systemd, &arch_rules).ends_with("\n:jar:E::jar::/usr/bin/jexec:\n"));
    assert!(text(Format::BinfmtSupport, &arch_rules).contains("\nextension jar\n"));
    assert!(text(Format::Nix, &arch_rules).contains("magicOrExtension = \"jar\";"));
}

#[test]
fn a_script_without_rules_is_valid() {
    assert!(text(Format::Openrc, &[]).contains("qus_each() {\n\t:\n}\n"));
}
