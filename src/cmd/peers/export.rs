//! Rules as files for what registers them at boot.

use std::os::unix::ffi::OsStrExt;

use crate::binfmt::{Flags, Rule};

/// A line of `binfmt.d(5)`: what the kernel reads.
pub(super) fn systemd(rule: &Rule) -> Vec<u8> {
    let mut line = rule.to_line();
    line.push(b'\n');
    line
}

/// A file for `update-binfmts --import`. It has no word for `O` alone.
pub(super) fn update_binfmts(rule: &Rule) -> Vec<u8> {
    let escaped =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<Vec<_>>().concat();
    let mut text = format!("package {}\ninterpreter ", rule.name()).into_bytes();
    text.extend_from_slice(rule.interpreter().as_os_str().as_bytes());
    let mut add = |key: &str, value: &str| text.extend_from_slice(format!("\n{key} {value}").as_bytes());
    if let Some(pattern) = rule.matcher().pattern() {
        add("magic", &escaped(pattern.magic()));
        pattern.mask().iter().for_each(|mask| add("mask", &escaped(mask)));
    }
    let mut switch = |key, flag| add(key, if rule.flags().contains(flag) { "yes" } else { "no" });
    switch("credentials", Flags::CREDENTIALS);
    switch("preserve", Flags::PRESERVE_ARGV0);
    switch("fix_binary", Flags::FIX_BINARY);
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::plan::rules;
    use std::path::Path;

    #[test]
    fn files_are_what_the_script_writes() {
        let flags = Flags::FIX_BINARY | Flags::OPEN_BINARY;
        let rule = &rules(Arch::by_target("arm").unwrap(), Path::new("/usr/bin/qemu-arm"), flags).unwrap()[0];
        let line = systemd(rule);
        assert_eq!(line, [rule.to_line(), b"\n".to_vec()].concat());
        assert_eq!(Rule::parse(&line).unwrap(), *rule);
        assert_eq!(
            String::from_utf8(update_binfmts(rule)).unwrap(),
            "package qemu-arm\n\
            interpreter /usr/bin/qemu-arm\n\
            magic \\x7f\\x45\\x4c\\x46\\x01\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x28\\x00\n\
            mask \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xfe\\xff\\xff\\xff\n\
            credentials no\npreserve no\nfix_binary yes\n"
        );
    }
}
