//! Output formats: files from which other software registers rules, at boot or in a container. The functions that
//! compose the files are pure and deterministic.
//!
//! If a format has comments, each file names qus as its author and shows the command that removes the file. qus
//! recognises its own files by [`MARKER`].

use serde::Serialize;
use thiserror::Error;

use crate::arch::Arch;
use crate::base::error::{Advice, Advise};
use crate::base::hex::Hex;
use crate::base::shell::shell_word;
use crate::binfmt::{Flags, Matcher, Rule};
use crate::system::managed_file::MARKER;

/// Name of the OpenRC service, and beginning of the file names in most other formats.
pub const SERVICE: &str = "qus";
/// Comment in a `binfmt.d` file whose interpreter is a copy that belongs to the file.
pub const COPIED: &str = "# The interpreter was copied for this file. The copy is removed with the file.";
/// Package name under which binfmt-support lists the handlers of qus.
pub const PACKAGE: &str = "qus";
/// Beginning of the name of a `binfmt.d` file with rules that belong to no architecture.
const OTHER_PREFIX: &str = "zz-qus-";
/// Maximum length of a `binfmt.d` line, in bytes. systemd-binfmt appends a newline when it writes the line (K2, K6).
const BINFMT_D_MAX: usize = crate::binfmt::LINE_MAX - 1;
/// Maximum length of a register line in an OpenRC script, in bytes. With musl, a shell writes longer text in several
/// pieces, which the kernel refuses (K21).
const SHELL_MAX: usize = 1023;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// systemd's binfmt.d(5), which `qus apply` reads as well
    Systemd,
    /// Files in the format of `update-binfmts --import`, one per handler
    BinfmtSupport,
    /// Service script for OpenRC
    Openrc,
    /// NixOS module
    Nix,
    /// Lines to write to /proc/sys/fs/binfmt_misc/register, one at a time
    Register,
    /// JSON with the parts of each rule
    Json,
}

/// Subject of a set of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An architecture.
    Arch(&'static Arch),
    /// A preset or a handler of any kind of file, with its name.
    Other(String),
}

impl Subject {
    /// Returns the word that names the subject on the command line of `qus reset`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Arch(arch) => arch.name,
            Self::Other(name) => name,
        }
    }

    /// Returns the architecture, if the subject is one.
    #[must_use]
    pub fn arch(&self) -> Option<&'static Arch> {
        match self {
            Self::Arch(arch) => Some(arch),
            Self::Other(_) => None,
        }
    }
}

impl From<&'static Arch> for Subject {
    fn from(arch: &'static Arch) -> Self {
        Self::Arch(arch)
    }
}

/// Rules of one architecture, one preset or one handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchRules {
    /// The architecture, preset or handler.
    pub subject: Subject,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// True if the interpreter is a copy that qus removes together with the rules.
    pub copied: bool,
}

/// Complete output file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// File name without a directory.
    pub name: String,
    /// File content.
    pub text: Vec<u8>,
    /// True if the file is executable.
    pub executable: bool,
}

/// Reason why a rule cannot be written in an output format.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The interpreter's path contains a line break, or begins or ends with a blank. Programs that read the format
    /// would cut off such blanks.
    #[error(
        "the path of the interpreter for {0} contains a line break, or begins or ends with a blank, which the format cannot express"
    )]
    Path(String),
    /// The register line is longer than the format allows.
    #[error(
        "the register line for {subject} needs {needed} bytes, but the format allows {most}: the path of the interpreter is too long"
    )]
    TooLong {
        /// Name of the architecture, preset or handler.
        subject: String,
        /// Length of the line, in bytes.
        needed: usize,
        /// Maximum length in this format, in bytes.
        most: usize,
    },
    /// Every possible delimiter occurs in the register line or would begin a comment.
    #[error("the register line for {0} has no possible delimiter: it uses every candidate byte")]
    NoDelimiter(String),
}

impl Advise for ExportError {
    fn advice(&self) -> Advice {
        Advice::hint("put the interpreter into a directory with a shorter, simpler path")
    }
}

/// Parts of one rule, for output as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleView {
    arch: Option<&'static str>,
    name: String,
    offset: usize,
    magic: String,
    mask: Option<String>,
    interpreter: String,
    flags: String,
    line: String,
}

/// Returns the parts of each rule, in the order of `arch_rules`. Rules without a magic are omitted.
#[must_use]
pub fn views(arch_rules: &[ArchRules]) -> Vec<RuleView> {
    let view = |arch: Option<&'static str>, rule: &Rule| {
        let pattern = rule.matcher().pattern()?;
        Some(RuleView {
            arch,
            name: rule.name().to_string(),
            offset: pattern.offset(),
            magic: Hex(pattern.magic()).to_string(),
            mask: pattern.mask().map(|mask| Hex(mask).to_string()),
            interpreter: rule.interpreter().to_string_lossy().into(),
            flags: rule.flags().to_string(),
            line: String::from_utf8_lossy(&rule.to_line()).into(),
        })
    };
    arch_rules
        .iter()
        .flat_map(|set| {
            set.rules.iter().filter_map(move |rule| view(set.subject.arch().map(|arch| arch.name), rule))
        })
        .collect()
}

/// Returns the files that contain the rules of `arch_rules` in `format`. The result is empty for [`Format::Json`]: the
/// caller serializes the result of [`views`].
pub fn files(format: Format, arch_rules: &[ArchRules]) -> Result<Vec<File>, ExportError> {
    for set in arch_rules {
        if set.rules.iter().any(|rule| !is_one_line(rule)) {
            return Err(ExportError::Path(set.subject.name().to_owned()));
        }
    }
    match format {
        Format::Systemd => arch_rules.iter().map(binfmt_d).collect(),
        Format::BinfmtSupport => Ok(arch_rules
            .iter()
            .flat_map(|set| set.rules.iter().map(|rule| binfmt_support(set.subject.name(), rule)))
            .collect()),
        Format::Openrc => Ok(vec![openrc(arch_rules)?]),
        Format::Nix => Ok(vec![nix(arch_rules)]),
        Format::Register => Ok(vec![register(arch_rules)]),
        Format::Json => Ok(Vec::new()),
    }
}

/// Joins several files into one text. In formats with one file per handler, a title line precedes each file.
#[must_use]
pub fn concat(format: Format, files: &[File]) -> Vec<u8> {
    let titled = format == Format::BinfmtSupport && files.len() > 1;
    let mut text = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            text.push(b'\n');
        }
        if titled {
            text.extend_from_slice(format!("==> {} <==\n", file.name).as_bytes());
        }
        text.extend_from_slice(&file.text);
    }
    text
}

/// Returns the name of the `binfmt.d` file with the rules of `subject`. The name sorts after every name `qemu-…`, so the
/// rules of qus win. If the subject is no architecture, the name sorts after those of most packages, such as `wine.conf`:
/// the rules of qus are then registered last, in front of wider rules.
#[must_use]
pub fn binfmt_d_name(subject: &Subject) -> String {
    match subject {
        Subject::Arch(arch) => format!("{SERVICE}-{}.conf", arch.name),
        Subject::Other(name) => format!("{OTHER_PREFIX}{name}.conf"),
    }
}

/// Returns the subject of the `binfmt.d` file `name`, if it is no architecture and qus uses such a name.
#[must_use]
pub fn other_subject(name: &str) -> Option<Subject> {
    let name = name.strip_prefix(OTHER_PREFIX)?.strip_suffix(".conf")?;
    is_file_word(name).then(|| Subject::Other(name.to_owned()))
}

/// Reports whether `name` can be a part of a file name and a word of a command line.
#[must_use]
pub fn is_file_word(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+');
    name.bytes().all(is_plain) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Reports whether a line-based format can express the interpreter's path: the path has no line break, and no blank at
/// its beginning or end.
fn is_one_line(rule: &Rule) -> bool {
    let path = rule.interpreter().as_os_str().as_encoded_bytes();
    let blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    !path.iter().any(|byte| matches!(byte, b'\n' | b'\r')) && !blank(path.first()) && !blank(path.last())
}

fn header(arch_rules: &[ArchRules]) -> String {
    let names: Vec<&str> = arch_rules.iter().map(|set| set.subject.name()).collect();
    let names = names.join(" ");
    // No names can repeat the command that registered the rule of a handler.
    let is_arches = arch_rules.iter().all(|set| set.subject.arch().is_some());
    let again =
        if is_arches { format!(" To write it again: qus register --persist {names}") } else { String::new() };
    format!("{MARKER} for {names}.{again}\n# To remove it: qus reset --persist {names}\n")
}

/// Returns a register line for a file in which `#` and `;` begin comments. Fails if the line has more than `most`
/// bytes.
fn line(subject: &str, rule: &Rule, most: usize) -> Result<Vec<u8>, ExportError> {
    // OpenRC's reader of binfmt.d expects a colon before the name. The delimiter is therefore a colon if possible.
    let usable = |byte: u8| !byte.is_ascii_whitespace() && !matches!(byte, b'#' | b';');
    let line = rule.to_line_delimited(usable).map_err(|_| ExportError::NoDelimiter(subject.to_owned()))?;
    if line.len() > most {
        return Err(ExportError::TooLong { subject: subject.to_owned(), needed: line.len(), most });
    }
    Ok(line)
}

fn binfmt_d(set: &ArchRules) -> Result<File, ExportError> {
    let mut text = header(std::slice::from_ref(set)).into_bytes();
    if set.copied {
        text.extend(format!("{COPIED}\n").bytes());
    }
    for rule in &set.rules {
        text.extend(line(set.subject.name(), rule, BINFMT_D_MAX)?);
        text.push(b'\n');
    }
    Ok(File { name: binfmt_d_name(&set.subject), text, executable: false })
}

fn binfmt_support(subject: &str, rule: &Rule) -> File {
    let mut text =
        format!("{MARKER} for {subject}. To import it: update-binfmts --import FILE\n").into_bytes();
    let path = shell_word(rule.interpreter());
    let removal = format!("update-binfmts --package {PACKAGE} --remove {} {path}", rule.name());
    text.extend(format!("# To remove it: {removal}\n").bytes());
    if rule.flags().contains(Flags::OPEN_BINARY) && !rule.flags().contains(Flags::CREDENTIALS) {
        let note = "# This format cannot express the flag O (programs that may be executed but not read).\n";
        text.extend(note.bytes());
    }
    text.extend(binfmt_support_format(PACKAGE, rule));
    File { name: rule.name().to_string(), text, executable: false }
}

/// Returns `rule` in the import format of update-binfmts(8), with one line per field. The handler will belong to
/// `package`.
pub(crate) fn binfmt_support_format(package: &str, rule: &Rule) -> Vec<u8> {
    let mut text = format!("package {package}\ninterpreter ").into_bytes();
    text.extend_from_slice(rule.interpreter().as_os_str().as_encoded_bytes());
    text.push(b'\n');
    match rule.matcher() {
        Matcher::Magic(pattern) => {
            text.extend(format!("magic {}\noffset {}\n", escaped(pattern.magic()), pattern.offset()).bytes());
            text.extend(
                pattern.mask().map(|mask| format!("mask {}\n", escaped(mask))).unwrap_or_default().bytes(),
            );
        }
        Matcher::Extension(extension) => {
            text.extend_from_slice(b"extension ");
            text.extend_from_slice(extension.as_bytes());
            text.push(b'\n');
        }
    }
    for (word, flag) in [
        ("credentials", Flags::CREDENTIALS),
        ("fix_binary", Flags::FIX_BINARY),
        ("preserve", Flags::PRESERVE_ARGV0),
    ] {
        let answer = if rule.flags().contains(flag) { "yes" } else { "no" };
        text.extend(format!("{word} {answer}\n").bytes());
    }
    text
}

/// Shell code of the OpenRC service before the rules. Words of a rule are quoted for `sh`, and the shell writes each
/// register line with one `write(2)`.
const OPENRC_BEGIN: &str = r#"
description="Handlers for programs of foreign architectures"
instance=/proc/sys/fs/binfmt_misc

depend() {
	after procfs localmount modules binfmt
}

# qus_each COMMAND: runs it with each handler's name, interpreter and register line.
qus_each() {
"#;
/// Shell code of the OpenRC service after the rules.
const OPENRC_END: &str = r#"}

qus_add() {
	if [ -e "$instance/$1" ]; then
		grep -qxF "interpreter $2" "$instance/$1" && return
		eerror "$1 is already registered with another interpreter"
		qus_failed=1
	else
		printf '%s' "$3" >"$instance/register" && return
		eerror "The kernel refused the rule of $1"
		qus_failed=1
	fi
}

qus_remove() {
	grep -qsxF "interpreter $2" "$instance/$1" || return 0
	echo -1 >"$instance/$1" || qus_failed=1
}

start() {
	ebegin "Registering handlers for programs of foreign architectures"
	qus_failed=0
	if [ ! -e "$instance/register" ]; then
		mount -t binfmt_misc -o nosuid,nodev,noexec binfmt_misc "$instance" || qus_failed=1
	fi
	[ "$qus_failed" -ne 0 ] || qus_each qus_add
	eend "$qus_failed"
}

stop() {
	ebegin "Removing handlers for programs of foreign architectures"
	qus_failed=0
	qus_each qus_remove
	eend "$qus_failed"
}
"#;

fn openrc(arch_rules: &[ArchRules]) -> Result<File, ExportError> {
    let mut text = format!("#!/sbin/openrc-run\n{}{OPENRC_BEGIN}", header(arch_rules)).into_bytes();
    let mut empty = true;
    for set in arch_rules {
        for rule in &set.rules {
            empty = false;
            text.extend_from_slice(b"\t\"$1\"");
            let line = line(set.subject.name(), rule, SHELL_MAX)?;
            for word in [rule.name().as_bytes(), rule.interpreter().as_os_str().as_encoded_bytes(), &line] {
                text.push(b' ');
                quote(&mut text, word);
            }
            text.push(b'\n');
        }
    }
    if empty {
        text.extend_from_slice(b"\t:\n");
    }
    text.extend_from_slice(OPENRC_END.as_bytes());
    Ok(File { name: SERVICE.to_owned(), text, executable: true })
}

/// Appends a word in single quotes, in the syntax of `sh`.
fn quote(text: &mut Vec<u8>, word: &[u8]) {
    text.push(b'\'');
    for &byte in word {
        if byte == b'\'' {
            text.extend_from_slice(br"'\''");
        } else {
            text.push(byte);
        }
    }
    text.push(b'\'');
}

fn nix(arch_rules: &[ArchRules]) -> File {
    let names: Vec<&str> = arch_rules.iter().map(|set| set.subject.name()).collect();
    let mut text =
        format!("{MARKER} for {}. To use it: add this file to `imports`.\n", names.join(" ")).into_bytes();
    text.extend_from_slice(b"{\n  boot.binfmt.registrations = {\n");
    for rule in arch_rules.iter().flat_map(|set| &set.rules) {
        text.extend_from_slice(b"    ");
        nix_string(&mut text, rule.name().as_bytes());
        text.extend_from_slice(b" = {\n      interpreter = ");
        nix_string(&mut text, rule.interpreter().as_os_str().as_encoded_bytes());
        text.extend_from_slice(b";\n");
        match rule.matcher() {
            Matcher::Magic(pattern) => {
                text.extend(
                    format!(
                        "      recognitionType = \"magic\";\n      offset = {};\n      magicOrExtension = ''{}'';\n",
                        pattern.offset(),
                        escaped(pattern.magic())
                    )
                    .bytes(),
                );
                let mask = pattern.mask().map(|mask| format!("      mask = ''{}'';\n", escaped(mask)));
                text.extend(mask.unwrap_or_default().bytes());
            }
            Matcher::Extension(extension) => {
                text.extend_from_slice(b"      recognitionType = \"extension\";\n      magicOrExtension = ");
                nix_string(&mut text, extension.as_bytes());
                text.extend_from_slice(b";\n");
            }
        }
        for (word, flag) in [
            ("preserveArgvZero", Flags::PRESERVE_ARGV0),
            ("openBinary", Flags::OPEN_BINARY),
            ("matchCredentials", Flags::CREDENTIALS),
            ("fixBinary", Flags::FIX_BINARY),
        ] {
            text.extend(format!("      {word} = {};\n", rule.flags().contains(flag)).bytes());
        }
        // A wrapper script around the interpreter would not exist in a container.
        text.extend_from_slice(b"      wrapInterpreterInShell = false;\n    };\n");
    }
    text.extend_from_slice(b"  };\n}\n");
    File { name: format!("{SERVICE}.nix"), text, executable: false }
}

/// Appends a string in double quotes, in the syntax of Nix.
fn nix_string(text: &mut Vec<u8>, string: &[u8]) {
    text.push(b'"');
    for &byte in string {
        if matches!(byte, b'"' | b'\\' | b'$') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
}

fn register(arch_rules: &[ArchRules]) -> File {
    let mut text = Vec::new();
    for rule in arch_rules.iter().flat_map(|set| &set.rules) {
        text.extend(rule.to_line());
        text.push(b'\n');
    }
    File { name: format!("{SERVICE}.register"), text, executable: false }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests;
