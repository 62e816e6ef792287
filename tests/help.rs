//! Tests help, manual pages and errors of the command line.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::path::Path;
use std::process::{Command, Output};

use clap::CommandFactory;
use qus::cli::Cli;

const QUS: &str = env!("CARGO_BIN_EXE_qus");
/// Maximum width of a line of the help, in columns.
const WIDTH: usize = 80;

fn qus(words: &[&str]) -> Output {
    Command::new(QUS).args(words).env_remove("COLUMNS").output().unwrap()
}

fn stdout(words: &[&str]) -> String {
    let output = qus(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(words: &[&str]) -> String {
    let output = qus(words);
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Returns the names of all commands.
fn commands() -> Vec<String> {
    let command = Cli::command().disable_help_subcommand(true);
    command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[test]
fn no_line_of_help_is_wider_than_80_columns() {
    let mut all = vec![stdout(&["-h"]), stdout(&["--help"])];
    for command in commands() {
        all.extend([stdout(&[&command, "-h"]), stdout(&[&command, "--help"])]);
    }
    assert!(all.len() > 30);
    for line in all.iter().flat_map(|text| text.lines()) {
        assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn the_short_help_has_one_line_for_each_option() {
    for command in commands() {
        let text = stdout(&[&command, "-h"]);
        let options = text.lines().filter(|line| line.trim_start().starts_with('-'));
        let continued = text.lines().filter(|line| line.starts_with("          "));
        // The default mount point and the formats of `export` do not fit on the line of their option.
        let continued: Vec<&str> = continued
            .filter(|line| !line.contains("/proc/sys/fs/binfmt_misc]") && !line.contains("nix, register"))
            .collect();
        assert!(options.count() > 4 && continued.is_empty(), "{command}: {continued:#?}");
    }
}

#[test]
fn every_command_has_two_examples_with_options_that_exist() {
    for command in commands() {
        let text = stdout(&[&command, "--help"]);
        let (_, examples) = text.split_once("\nExamples:\n").expect(&command);
        let examples = examples.split("\n\n").next().unwrap();
        let lines: Vec<&str> = examples.lines().filter(|line| !line.starts_with("   ")).collect();
        assert_eq!(lines.len(), 2, "{command}: {examples}");
        for line in lines {
            assert!(line.contains(&format!("qus {command}")), "{command}: {line}");
            let (_, words) = line.split_once(&format!("qus {command}")).unwrap();
            let words = words.split(['|', '&', '>', ')']).next().unwrap();
            for option in words.split_whitespace().filter(|word| word.starts_with("--") && *word != "--") {
                assert!(
                    text.contains(&format!("{option} ")) || text.contains(&format!("{option}\n")),
                    "{command}: {option}"
                );
            }
        }
    }
}

#[test]
fn manual_pages_have_every_section_and_no_fault() {
    let directory = tempfile::tempdir().unwrap();
    stdout(&["man", "-o", directory.path().to_str().unwrap()]);
    let pages = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "FILES",
            "ENVIRONMENT",
            "\"EXIT STATUS\"",
            "\"SEE ALSO\"",
        ] {
            assert!(text.contains(&format!("\n.SH {section}\n")), "no {section} in {}", page.display());
        }
        checked("mandoc", &["-Tlint", "-Wstyle"], &page);
        checked("man", &["--warnings", "--encoding=UTF-8", "-l"], &page);
    }
}

/// Checks a manual page with a program, which must not report anything. Does nothing if the program is not installed.
fn checked(program: &str, words: &[&str], page: &Path) {
    let output =
        Command::new(program).args(words).arg(page).env("MANROFFSEQ", "").env("MANPAGER", "cat").output();
    match output {
        Ok(output) => {
            let found =
                if program == "man" { output.stderr } else { [output.stdout, output.stderr].concat() };
            // On a minimal system `man` only prints that the system was minimized.
            let found = String::from_utf8(found).unwrap();
            assert!(found.is_empty() || found.contains("minimized"), "{}: {found}", page.display());
        }
        Err(error) => eprintln!("skipped: {program}: {error}"),
    }
}

#[test]
fn what_people_type_gets_the_command_that_they_mean() {
    for (typed, meant) in [
        ("status", "list"),
        ("ls", "list"),
        ("rm", "reset"),
        ("unregister", "reset"),
        ("registr", "register"),
        ("install", "register"),
        ("check", "verify"),
    ] {
        let expected = format!("qus: unrecognized subcommand '{typed}'\n  try: qus {meant}\n");
        assert_eq!(stderr(&[typed, "arm"]), expected);
        assert!(commands().iter().any(|command| command == meant));
    }
}

#[test]
fn errors_of_the_command_line_have_the_form_of_all_errors() {
    assert_eq!(
        stderr(&["doctor", "--bogus"]),
        "qus: unexpected argument '--bogus' found\n  try: qus doctor --help\n"
    );
    let missing =
        "qus: the following required arguments were not provided: <ARCH>...\n  try: qus fetch --help\n";
    assert_eq!(stderr(&["fetch"]), missing);
    // Typed text cannot control a terminal.
    let escaped = stderr(&["list", "\u{1b}[2J"]);
    assert!(escaped.starts_with("qus: ") && !escaped.contains('\u{1b}'), "{escaped:?}");
    let output = qus(&["--json", "list", "--bogus"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["error"]["try"], "qus list --help");
    // A program in the working directory, which is not in PATH.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hello"), "").unwrap();
    let output = Command::new(QUS).args(["run", "hello"]).current_dir(directory.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), text.as_str()),
        (Some(127), "qus: cannot find the program hello\n  try: qus run ./hello\n")
    );
}

#[test]
fn several_architectures_are_shown() {
    let both = stdout(&["show", "arm,aarch64"]);
    assert_eq!(both, format!("{}\n{}", stdout(&["show", "arm"]), stdout(&["show", "aarch64"])));
    let value: serde_json::Value =
        serde_json::from_str(&stdout(&["show", "arm", "aarch64", "--json"])).unwrap();
    assert_eq!(value["arches"][1]["name"], "aarch64");
}

#[test]
fn rules_are_for_the_kernel_that_is_named() {
    let show = |kernel: &str| stdout(&["show", "arm", "--for-kernel", kernel]);
    let export = ["export", "arm", "-f", "register", "--interpreter-path", "/x/{arch}", "--for-kernel"];
    let export = |kernel: &str| stdout(&[export.as_slice(), &[kernel]].concat());
    for (kernel, flags) in [("4.19", ":OF"), ("5.10", ":OF"), ("5.12", ":POF"), ("6.12", ":POF")] {
        assert!(show(kernel).ends_with(&format!("{flags}\n")), "{kernel}");
        assert!(export(kernel).lines().all(|line| line.ends_with(flags)), "{kernel}");
    }
    for (kernel, message) in
        [("5", "a kernel version has two numbers, such as 5.10"), ("4.7", "Linux 4.7 has no flag F")]
    {
        let output = Command::new(QUS).args(["show", "arm", "--for-kernel", kernel]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains(message));
    }
}

#[test]
fn a_list_of_architectures_is_read_as_scripts_write_it() {
    let wanted = stdout(&["show", "arm,aarch64"]);
    for list in
        ["arm, aarch64", "arm aarch64", " arm,aarch64,", "arm\naarch64\n", "linux/arm/v7 , linux/arm64"]
    {
        assert_eq!(stdout(&["show", list]), wanted, "{list:?}");
    }
    assert_eq!(stdout(&["show", "arm,", " aarch64"]), wanted);
    // An empty variable does not select all architectures.
    for command in ["register", "reset", "list", "verify", "show", "export", "fetch", "bundle"] {
        for empty in ["", ",", " ", "\n"] {
            let output = Command::new(QUS).args([command, empty]).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command} {empty:?}");
            assert!(message.starts_with("qus: invalid value"), "{command} {empty:?}: {message}");
        }
    }
}
