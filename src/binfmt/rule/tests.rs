//! Tests of rules and their register lines. The tests in `tests/kernel/grammar.rs` compare them with the kernel.

use super::*;
use crate::binfmt::HEADER_LEN;
use proptest::prelude::*;

fn magic(name: &str, interpreter: &str) -> Rule {
    let pattern = Pattern::new(0, b"\x7fELF\x00".to_vec(), Some(vec![0xff; 5])).unwrap();
    let name = HandlerName::new(name).unwrap();
    Rule::new(name, Matcher::Magic(pattern), interpreter, Flags::FIX_BINARY).unwrap()
}

#[test]
fn escapes_every_byte() {
    assert_eq!(
        magic("a", "/i").to_line().escape_ascii().to_string().replace(r"\\", r"\"),
        r":a:M::\x7f\x45\x4c\x46\x00:\xff\xff\xff\xff\xff:/i:F"
    );
}

#[test]
fn takes_another_delimiter_where_the_path_holds_the_usual_one() {
    let rule = magic("a", "/opt/a:b,c/i");
    assert_eq!(rule.to_line().first(), Some(&b';'));
    assert_eq!(Rule::parse(&rule.to_line()), Ok(rule));
}

#[test]
fn length_is_the_kernels() {
    let name = HandlerName::new("a").unwrap();
    let matcher = Matcher::Extension(Extension::new("x").unwrap());
    let longest = LINE_MAX - ":a:E::x::".len() - ":".len();
    let build = |length| Rule::new(name.clone(), matcher.clone(), "/".repeat(length), Flags::empty());
    assert_eq!(build(longest).unwrap().to_line().len(), LINE_MAX);
    assert_eq!(build(longest + 1), Err(RuleError::TooLong { needed: LINE_MAX + 1 }));
}

#[test]
fn long_patterns_are_written_raw_where_they_must() {
    let bytes: Vec<u8> = (0..=255).collect();
    let pattern = Pattern::new(0, bytes.clone(), Some(bytes)).unwrap();
    let rule =
        Rule::new(HandlerName::new("a").unwrap(), Matcher::Magic(pattern), "/i", Flags::empty()).unwrap();
    assert!(rule.to_line().len() <= LINE_MAX);
    assert_eq!(Rule::parse(&rule.to_line()), Ok(rule));
}

#[test]
fn backslashes_are_written_raw_where_they_must() {
    for bytes in
        [&br"\"[..], br"\\", br"\\\", br"\\x41", br"\\x4", br"\x41", br"\\\x", b"\\\0a", br"\:\n", br"\\x"]
    {
        let mut magic = bytes.repeat(HEADER_LEN / bytes.len());
        magic.resize(HEADER_LEN, b'a');
        let pattern = Pattern::new(0, magic, None).unwrap();
        let name = HandlerName::new("a").unwrap();
        // The path makes the line too long for escaping every byte.
        let rule = Rule::new(name, Matcher::Magic(pattern), "/".repeat(1000), Flags::empty()).unwrap();
        assert_eq!(Rule::parse(&rule.to_line()), Ok(rule), "{}", bytes.escape_ascii());
    }
    let odd = HEADER_LEN - 1;
    let pattern = Pattern::new(0, vec![b'\\'; odd], Some(vec![b'\\'; odd])).unwrap();
    let name = HandlerName::new("a").unwrap();
    let rule = Rule::new(name, Matcher::Magic(pattern), "/i", Flags::empty()).unwrap();
    assert_eq!(rule.to_line().len(), ":a:M::::/i:".len() + 2 * odd);
    assert_eq!(Rule::parse(&rule.to_line()), Ok(rule));
}

#[test]
fn double_escaping_is_seen_as_the_kernel_sees_it() {
    let rule = Rule::parse(br":a:M::\\x41::/i:").unwrap();
    assert_eq!(rule.matcher().pattern().unwrap().magic(), br"\\x41");
}

#[test]
fn quirks_of_create_entry() {
    let ok: [&[u8]; 9] = [
        b":a:E::x::/:",
        b":a:M:010:A::/i:",
        b":a:M:+1:A::/i:FF\n",
        b":a:M:-0:A::/i:",
        b":a:M:1\n:A::/i:",
        b":a:E:garbage!:foo:zz:/i:",
        b"\xffa\xffM\xff\xffA\xff\xff/i\xff",
        b":a:M::a\0b:\0:/i:",
        b"\na\nE\n\nx\n\n/i\nF\n",
    ];
    for line in ok {
        assert!(Rule::parse(line).is_ok(), "{}", line.escape_ascii());
    }
    let bad: [&[u8]; 14] = [
        b":a:E::x::/",
        b":a:E::x::/i",
        b":a:E::x::/i:F:",
        b":a:E::x::/i:F\n\n",
        b":a:E::x::/i:F ",
        b"\n:a:E::x::/i:F",
        b":a:M:-1:A::/i:",
        b":a:M: 1:A::/i:",
        br":a:M::\x5g::/i:",
        br":a:M::\x5::/i:",
        b":a:M::\0A::/i:",
        b":a:M::AB:A:/i:",
        b"PaPEPPxPP/iPF",
        b"\na\nE\n\nx\n\n/i\nF",
    ];
    for line in bad {
        assert!(Rule::parse(line).is_err(), "{}", line.escape_ascii());
    }
}

#[test]
fn extension_is_what_follows_the_last_dot() {
    let extension = Extension::new("xyz").unwrap();
    assert!(extension.matches(Path::new("/a/.xyz")));
    assert!(!extension.matches(Path::new("/d.xyz/prog")));
    assert!(!extension.matches(Path::new("/a/xyz")));
    assert!(!Extension::new("tar.gz").unwrap().matches(Path::new("/a.tar.gz")));
}

prop_compose! {
    fn any_rule()(
        name in prop::collection::vec(any::<u8>(), 1..40),
        offset in 0_usize..8,
        window in prop::collection::vec(any::<(u8, u8)>(), 1..=248),
        masked in any::<bool>(),
        interpreter in prop::collection::vec(1_u8.., 1..200),
        flags in any::<u8>(),
    ) -> Option<Rule> {
        let (magic, mask): (Vec<u8>, Vec<u8>) = window.into_iter().unzip();
        let pattern = Pattern::new(offset, magic, masked.then_some(mask)).ok()?;
        let interpreter = PathBuf::from(OsStr::from_bytes(&interpreter));
        let name = HandlerName::new(name).ok()?;
        Rule::new(name, Matcher::Magic(pattern), interpreter, Flags::from_bits_truncate(flags)).ok()
    }
}

proptest! {
    #[test]
    fn a_rule_reads_back_from_its_line(rule in any_rule()) {
        if let Some(rule) = rule {
            let line = rule.to_line();
            prop_assert!(line.len() <= LINE_MAX);
            prop_assert_eq!(Rule::parse(&line), Ok(rule.clone()));
            let newline = [line, b"\n".to_vec()].concat();
            if newline.len() <= LINE_MAX {
                prop_assert_eq!(Rule::parse(&newline), Ok(rule));
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _verdict = Rule::parse(&line);
    }
}
