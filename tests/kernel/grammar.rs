//! Register lines: `Rule::parse` accepts the lines that the kernel accepts, and `Entry::parse` reads the resulting
//! entries.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use qus::binfmt::{Entry, Extension, Flags, HandlerName, Matcher, NameError, Pattern, Rule, RuleError};

use crate::lab::Lab;
use crate::namespace::INSTANCE;
use crate::random::{Random, cases};

/// Name of a handler that exists from the beginning.
const TAKEN: &[u8] = b"taken";
/// An executable file in the current directory.
const INTERPRETER: &[u8] = b"i";

/// The instance, which is compared with the parser.
struct Referee {
    register: fs::File,
    /// Number of times that the kernel gave each verdict: an errno, or 0 for a new handler.
    verdicts: BTreeMap<i32, usize>,
}

impl Referee {
    fn new(lab: &Lab) -> Self {
        lab.executable("i", b"");
        fs::create_dir(lab.path("d")).unwrap();
        std::env::set_current_dir(lab.path("")).unwrap();
        let register = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join("register")).unwrap();
        let mut referee = Self { register, verdicts: BTreeMap::new() };
        referee.register.write_all(b":taken:M::\\x7f::/i:").unwrap();
        referee
    }

    /// Writes `line` to the kernel, and compares the result with the parser. Removes the handler, if one was
    /// registered.
    fn judge(&mut self, line: &[u8]) {
        let kernel = self.register.write(line).map_err(|error| error.raw_os_error().unwrap());
        let text = kernel.is_ok().then(|| take(line));
        let rule = Rule::parse(line);
        let shown = format!("\nline: {}\nrule: {rule:?}", line.escape_ascii());
        *self.verdicts.entry(kernel.err().unwrap_or(0)).or_default() += 1;
        assert_eq!(
            kernel.err(),
            expected(line).map(|errno| errno as i32),
            "errno of the kernel, ours{shown}"
        );
        let Some(text) = text else { return };
        assert_eq!(kernel, Ok(line.len()));
        let rule = rule.unwrap();
        let shown = format!("\nentry: {}{shown}", text.escape_ascii());
        let entry = Entry::parse(&text).unwrap_or_else(|error| panic!("{error}{shown}"));
        assert!(entry.is(&rule), "{entry:?} differs from the rule{shown}");
        assert!(entry.to_rule(rule.name()).is_some_and(|again| entry.is(&again)), "{entry:?}{shown}");
    }

    fn seen(&self, errno: i32) -> usize {
        self.verdicts.get(&errno).copied().unwrap_or_default()
    }
}

/// Returns the text of the entry that `line` registered, and removes the entry.
fn take(line: &[u8]) -> Vec<u8> {
    let name = line[1..].split(|byte| *byte == line[0]).next().unwrap();
    let path = Path::new(INSTANCE).join(OsStr::from_bytes(name));
    let text = fs::read(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"-1").unwrap();
    text
}

/// Predicts the errno for `line`. The kernel checks the grammar first, then with `F` the interpreter, then the name
/// (K19).
fn expected(line: &[u8]) -> Option<Errno> {
    let rule = Rule::parse(line);
    let (rule, name) = match rule {
        Ok(rule) => {
            let taken = rule.name().as_bytes() == TAKEN;
            (rule, taken.then_some(Errno::EEXIST))
        }
        Err(RuleError::Name(NameError::Reserved)) => (renamed(line), Some(Errno::EEXIST)),
        Err(RuleError::Name(NameError::TooLong)) => (renamed(line), Some(Errno::ENAMETOOLONG)),
        Err(_) => return Some(Errno::EINVAL),
    };
    let opened =
        rule.flags().contains(Flags::FIX_BINARY).then(|| refusal_to_open(rule.interpreter())).flatten();
    opened.or(name)
}

/// Returns the rule of `line` with a valid name.
fn renamed(line: &[u8]) -> Rule {
    let delimiter = line[0];
    let length = line[1..].iter().position(|byte| *byte == delimiter).unwrap();
    let letter = if delimiter == b'n' { b'm' } else { b'n' };
    let name = vec![letter; length.min(200)];
    Rule::parse(&[&[delimiter], &name[..], &line[1 + length..]].concat()).unwrap()
}

/// Returns the errno of opening an interpreter, if it fails.
fn refusal_to_open(path: &Path) -> Option<Errno> {
    match fs::metadata(path) {
        Err(error) => Some(Errno::from_raw(error.raw_os_error().unwrap())),
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => None,
        Ok(_) => Some(Errno::EACCES),
    }
}

kernel_test!(grammar_random_lines, alone);
fn grammar_random_lines(lab: &Lab) {
    let mut referee = Referee::new(lab);
    let mut random = Random::new(1);
    let count = cases(20_000);
    for _ in 0..count {
        let line = line(&mut random);
        referee.judge(&line);
    }
    let accepted = referee.seen(0);
    assert!(accepted > count / 5 && referee.seen(Errno::EINVAL as i32) > count / 5, "{:?}", referee.verdicts);
    if count >= 20_000 {
        for errno in [Errno::EEXIST, Errno::ENAMETOOLONG, Errno::ENOENT, Errno::EACCES] {
            assert!(referee.seen(errno as i32) > 0, "no {errno} among {:?}", referee.verdicts);
        }
    }
    eprintln!("verdicts on {count} lines, by errno: {:?}", referee.verdicts);
}

kernel_test!(grammar_every_delimiter, alone);
fn grammar_every_delimiter(lab: &Lab) {
    let mut referee = Referee::new(lab);
    for delimiter in 0..=u8::MAX {
        let d = &[delimiter][..];
        for fields in [
            [&b"n"[..], b"M", b"", b"x", b"y", b"i", b""],
            [b"n", b"M", b"1", b"\\x41\\x3a", b"\\xff\\xff", b"/usr/bin/i", b"F"],
            [b"n", b"E", b"", b"jar", b"", b"i", b"PC"],
        ] {
            let line = fields.iter().flat_map(|field| [d, field].concat()).collect::<Vec<u8>>();
            referee.judge(&line);
            referee.judge(&[&line[..], b"\n"].concat());
        }
    }
    assert!(referee.seen(0) > 256, "{:?}", referee.verdicts);
}

kernel_test!(grammar_window_edges, alone);
fn grammar_window_edges(lab: &Lab) {
    let mut referee = Referee::new(lab);
    let offsets = ["0", "1", "2", "3", "+1", "010", "-0", "253", "254", "255", "256", "257", "4294967297"];
    for offset in offsets {
        for length in [0, 1, 2, 3, 4, 252, 253, 254, 255, 256, 257, 300] {
            for mask in [0, 1, length, length + 1] {
                let line = [
                    b":w:M:",
                    offset.as_bytes(),
                    b":",
                    &vec![b'a'; length],
                    b":",
                    &vec![0xff; mask],
                    b":/i:",
                ];
                referee.judge(&line.concat());
            }
        }
    }
    for length in [1, 2, 3, 1900, 1908, 1909, 1910, 1911] {
        referee.judge(&[b":a:E::x::", &vec![b'/'; length][..], b":"].concat());
        referee.judge(&[b":a:E::x::", &vec![b'/'; length][..], b":\n"].concat());
    }
    for length in [254, 255, 256, 257, 1000] {
        referee.judge(&[b":", &vec![b'n'; length][..], b":E::x::/i:"].concat());
        referee.judge(&[b":", &vec![b'n'; length][..], b":E::x::nowhere:F"].concat());
    }
    // An escape takes four bytes of the line, and a raw byte takes one. So 256 bytes of magic and mask fit only as raw
    // bytes.
    for byte in [b'\\', b'a', 0xff, b'\n'] {
        referee.judge(&[b":w:M::", &vec![byte; 256][..], b":", &vec![byte; 256], b":/i:"].concat());
    }
    assert!(referee.seen(0) > 50, "{:?}", referee.verdicts);
}

/// Returns a register line whose parts are mostly valid.
fn line(random: &mut Random) -> Vec<u8> {
    let delimiter = if random.chance(60) { *random.pick(&[&b':', &b',', &b'|']) } else { random.byte() };
    let name = name(random);
    let kind = if random.chance(97) {
        random.pick(&[&b"M"[..], b"M", b"E"])
    } else {
        random.pick(&[&b""[..], b"m", b"ME", b"B", b"X"])
    };
    let offset = offset(random);
    let (magic, mask) = window(random, delimiter);
    let (magic, mask) = match kind {
        b"E" if random.chance(80) => (extension(random), if random.chance(80) { Vec::new() } else { mask }),
        _ => (magic, mask),
    };
    let mut flags = flags(random);
    let interpreter = interpreter(random, flags.contains(&b'F'));
    let fields = [name, kind.to_vec(), offset, magic, mask, interpreter, std::mem::take(&mut flags)];
    let mut line: Vec<u8> = fields.iter().flat_map(|field| [&[delimiter], &field[..]].concat()).collect();
    if random.chance(10) {
        line.extend_from_slice(random.pick(&[&b"\n"[..], b"\n", b"\n\n", b"\r\n", b" ", b"\0"]));
    }
    if random.chance(2) {
        pad(random, &mut line, delimiter);
    }
    if random.chance(20) {
        mutate(random, &mut line, delimiter);
    }
    line
}

fn name(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0 => random
            .pick(&[&b""[..], b".", b"..", b"...", b"register", b"status", b"a/b", b"a\0b", b"Status"])
            .to_vec(),
        1 => vec![b'n'; random.pick(&[&254, &255, &256, &257]).to_owned()],
        2 => TAKEN.to_vec(),
        3..6 => {
            let length = 1 + random.below(8);
            random.bytes(length)
        }
        _ => random.pick(&[&b"a"[..], b"qemu-arm", b"with space", b"nl\n", b"\\x41"]).to_vec(),
    }
}

fn offset(random: &mut Random) -> Vec<u8> {
    let odd: [&[u8]; 24] = [
        b"+1",
        b"010",
        b"-0",
        b"+0",
        b"00",
        b"1\n",
        b"\n",
        b"1\n\n",
        b"-1",
        b" 1",
        b"1 ",
        b"0x1",
        b"a",
        b"+",
        b"-",
        b"2147483647",
        b"2147483648",
        b"4294967296",
        b"99999999999999999999",
        b"000000000000000000000000001",
        b"+-1",
        b"1\0",
        b"-2147483648",
        b"1_0",
    ];
    match random.below(10) {
        0 => random.pick(&odd).to_vec(),
        1 => (250 + random.below(10)).to_string().into_bytes(),
        2..5 => random.below(20).to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// Returns random text for the fields magic and mask of a line.
fn window(random: &mut Random, delimiter: u8) -> (Vec<u8>, Vec<u8>) {
    let length = match random.below(20) {
        0 => 0,
        1 => 250 + random.below(10),
        2 => 100 + random.below(160),
        _ => 1 + random.below(12),
    };
    let escaped = random.pick(&[&0, &50, &90, &100]).to_owned();
    let mask_length = match random.below(10) {
        0 => random.below(length + 3),
        1..4 => 0,
        _ => length,
    };
    let write = |random: &mut Random, length: usize| {
        let mut text = Vec::new();
        for _ in 0..length {
            if random.chance(escaped) {
                let byte = random.byte();
                let lower = random.chance(50);
                text.extend(
                    if lower { format!("\\x{byte:02x}") } else { format!("\\x{byte:02X}") }.into_bytes(),
                );
            } else {
                text.push(raw(random, delimiter));
            }
        }
        text
    };
    let mut magic = write(random, length);
    let mut mask = write(random, mask_length);
    if random.chance(5) {
        let odd: [&[u8]; 12] = [
            b"\\",
            b"\\\\",
            b"\\x",
            b"\\x4",
            b"\\x5g",
            b"\\X41",
            b"\\\\x41",
            b"\\n",
            b"\\0",
            b"\0",
            b"\\\\\\x41",
            b"\\x41\\",
        ];
        let field = if random.chance(70) { &mut magic } else { &mut mask };
        let at = random.below(field.len() + 1);
        field.splice(at..at, random.pick(&odd).iter().copied());
    }
    (magic, mask)
}

/// Returns a byte that mostly needs no escape.
fn raw(random: &mut Random, delimiter: u8) -> u8 {
    if random.chance(1) {
        return *random.pick(&[&0, &delimiter, &b'\\', &b'\n', &b'x']);
    }
    match random.byte() {
        0 | b'\\' => b'0',
        byte if byte == delimiter => byte ^ 1,
        byte => byte,
    }
}

fn extension(random: &mut Random) -> Vec<u8> {
    random
        .pick(&[
            &b"jar"[..],
            b"x",
            b"tar.gz",
            b".x",
            b"",
            b"a/b",
            b"\\x41",
            b"\xff\x01",
            b"a\0b",
            b"a\nb",
            b"E",
        ])
        .to_vec()
}

/// Returns the path of an interpreter. With `F` it is mostly one that can be opened, as the kernel logs each failure.
fn interpreter(random: &mut Random, fixed: bool) -> Vec<u8> {
    if fixed && random.chance(98) {
        return random.pick(&[INTERPRETER, b"./i", b"d/../i"]).to_vec();
    }
    if fixed {
        return random.pick(&[&b"nowhere"[..], b"d", b"i/", b"i/i", b"d/nowhere", b"/"]).to_vec();
    }
    match random.below(20) {
        0 => random
            .pick(&[&b""[..], b"\0", b"a\0b", b" ", b"/usr/bin/env foo", b"a\nflags: F\nb", b"\n"])
            .to_vec(),
        1 => {
            let length = 1 + random.below(300);
            random.bytes(length)
        }
        _ => random.pick(&[&b"/i"[..], b"/usr/bin/qemu-arm-static", b"i", b"/a b", b"/\xff"]).to_vec(),
    }
}

fn flags(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0 => random
            .pick(&[&b"p"[..], b"X", b"T", b"L", b"D", b"P ", b" P", b"P\0", b"\0", b"0", b"OCFx"])
            .to_vec(),
        1..8 => Vec::new(),
        _ => (0..random.below(6)).map(|_| *random.pick(&[&b'P', &b'O', &b'C', &b'F'])).collect(),
    }
}

/// Makes the line about as long or as short as the kernel permits.
fn pad(random: &mut Random, line: &mut Vec<u8>, delimiter: u8) {
    if random.chance(30) {
        line.truncate(9 + random.below(5));
        return;
    }
    let length = 1917 + random.below(7);
    let at = line.iter().rposition(|byte| *byte == delimiter).unwrap();
    let missing = length.saturating_sub(line.len());
    line.splice(at..at, std::iter::repeat_n(b'/', missing));
}

/// Makes one or two random edits.
fn mutate(random: &mut Random, line: &mut Vec<u8>, delimiter: u8) {
    for _ in 0..=random.below(2) {
        let at = random.below(line.len().max(1));
        let byte = if random.chance(30) { delimiter } else { random.byte() };
        match random.below(5) {
            0 => line.insert(at.min(line.len()), byte),
            1 if !line.is_empty() => drop(line.remove(at)),
            2 => line.truncate(at),
            3 => {
                line.splice(0..0, [*random.pick(&[&b'\n', &b' ', &b'\t', &b'#', &delimiter])]);
            }
            _ => line.iter_mut().skip(at).take(1).for_each(|place| *place = byte),
        }
    }
}

prop_compose! {
    /// Bytes, with many of those that need care in a line.
    fn bytes(length: impl Into<prop::collection::SizeRange>)(
        bytes in prop::collection::vec(prop_oneof![
            8 => any::<u8>(),
            1 => prop::sample::select(&b"\0\\x\n:,;|!#"[..]),
        ], length),
    ) -> Vec<u8> {
        bytes
    }
}

prop_compose! {
    /// A name or a path: no NUL, and no `/` in a name.
    fn text(length: impl Into<prop::collection::SizeRange>, is_name: bool)(bytes in bytes(length)) -> Vec<u8> {
        bytes.into_iter().map(|byte| if byte == 0 || is_name && byte == b'/' { b'n' } else { byte }).collect()
    }
}

fn any_matcher() -> impl Strategy<Value = Option<Matcher>> {
    let length = prop_oneof![3 => 1_usize..=16, 1 => 200_usize..=256, 1 => Just(256_usize)];
    let window =
        length.prop_flat_map(|length| (0..=256 - length, bytes(length), prop::option::of(bytes(length))));
    let magic = window
        .prop_map(|(offset, magic, mask)| Some(Matcher::Magic(Pattern::new(offset, magic, mask).ok()?)));
    let extension = bytes(1..12).prop_map(|text| Some(Matcher::Extension(Extension::new(text).ok()?)));
    prop_oneof![4 => magic, 1 => extension]
}

kernel_test!(grammar_every_rule_reads_back, alone);
fn grammar_every_rule_reads_back(lab: &Lab) {
    let referee = std::cell::RefCell::new((Referee::new(lab), 0));
    let count = cases(3000);
    let config =
        Config { cases: u32::try_from(count).unwrap(), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::XorShift));
    let interpreter = prop_oneof![
        4 => text(1..60, false),
        1 => (text(1..20, false), 1_usize..90).prop_map(|(text, times)| text.repeat(times)),
        1 => Just(INTERPRETER.to_vec()),
    ];
    let name = prop_oneof![4 => text(1..20, true), 1 => text(200..=255, true)];
    let parts = (name, any_matcher(), interpreter, 0_u8..8);
    let outcome = runner.run(&parts, |(name, matcher, interpreter, flags)| {
        let mut flags = Flags::from_bits_truncate(flags);
        if interpreter == INTERPRETER {
            flags |= Flags::FIX_BINARY;
        }
        let path = PathBuf::from(OsStr::from_bytes(&interpreter));
        let (Ok(name), Some(matcher)) = (HandlerName::new(name), matcher) else { return Ok(()) };
        let Ok(rule) = Rule::new(name, matcher, path, flags) else { return Ok(()) };
        let (referee, built) = &mut *referee.borrow_mut();
        let line = rule.to_line();
        *built += 1;
        prop_assert_eq!(Rule::parse(&line), Ok(rule));
        referee.judge(&line);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let (referee, built) = referee.into_inner();
    assert_eq!(referee.seen(0), built, "{:?}", referee.verdicts);
    assert!(built > count / 2, "{built} of {count}");
}
