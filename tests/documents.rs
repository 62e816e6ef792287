//! Checks that completions and manual pages describe the whole command line.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::process::Command;

use clap::CommandFactory;
use qus::cli::Cli;

const QUS: &str = env!("CARGO_BIN_EXE_qus");

fn qus(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(QUS).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn done(words: &[&str]) -> String {
    let (status, printed, problems) = qus(words);
    assert_eq!((status, problems.as_str()), (0, ""), "{words:?}");
    printed
}

/// Returns every visible command with its long options.
fn commands() -> Vec<(String, Vec<String>)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let options = |command: &clap::Command| {
        command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect::<Vec<_>>()
    };
    let commands = command.get_subcommands().map(|command| (command.get_name().to_owned(), options(command)));
    let commands: Vec<_> = commands.collect();
    assert!(commands.len() > 10 && commands.iter().all(|(_, options)| options.len() > 3), "{commands:?}");
    commands
}

#[test]
fn every_command_has_a_page_with_every_option() {
    let directory = tempfile::tempdir().unwrap();
    let printed = done(&["man", "--output", directory.path().to_str().unwrap()]);
    let mut pages: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    let mut expected: Vec<String> = commands().iter().map(|(name, _)| format!("qus-{name}.1")).collect();
    expected.push("qus.1".to_owned());
    expected.sort();
    assert_eq!(pages, expected);
    let files: Vec<String> = printed
        .lines()
        .map(|line| line.strip_prefix(directory.path().to_str().unwrap()).unwrap()[1..].to_owned())
        .collect();
    assert_eq!(files.len(), pages.len(), "{printed}");
    let overview = fs::read_to_string(directory.path().join("qus.1")).unwrap();
    assert_eq!(done(&["man"]), overview);
    for (name, options) in commands() {
        assert!(overview.contains(&format!("qus\\-{name}(1)")), "{name} in {overview}");
        let page = fs::read_to_string(directory.path().join(format!("qus-{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH QUS-{} 1 ", name.to_uppercase())), "{page}");
        for option in options {
            let entry = format!("\\fB\\-\\-{}\\fR", option.replace('-', "\\-"));
            assert!(page.contains(&entry), "{entry} in {page}");
        }
    }
}

#[test]
fn a_page_that_cannot_be_written_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let (status, printed, problems) = qus(&["man", "-o", missing.to_str().unwrap()]);
    assert_eq!((status, printed.as_str()), (2, ""));
    let message = format!("qus: cannot write {}/qus.1: No such file or directory", missing.display());
    assert!(problems.starts_with(&message), "{problems}");
    assert!(!missing.exists());
}

#[test]
fn every_shell_completes_every_option() {
    for shell in ["bash", "fish", "zsh"] {
        let script = done(&["completions", shell]);
        for (name, options) in commands() {
            assert!(script.contains(&name), "{shell}: {name}");
            for option in options {
                let is_there = match shell {
                    "fish" => script.contains(&format!("-l {option} ")),
                    _ => script.contains(&format!("--{option}")),
                };
                assert!(is_there, "{shell}: {name} --{option}");
            }
        }
    }
    let (status, printed, problems) = qus(&["completions", "tcsh"]);
    assert_eq!((status, printed.as_str()), (2, ""));
    assert!(problems.contains("invalid value 'tcsh'") && problems.contains("bash, fish, zsh"), "{problems}");
}

/// Returns the completions of bash for the last of `words`.
fn offered(words: &[&str]) -> Vec<String> {
    let script = r#"
        set -eu
        eval "$("$QUS" completions bash)"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        previous=${COMP_WORDS[COMP_CWORD - 1]}
        _qus qus "${COMP_WORDS[COMP_CWORD]}" "$previous"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output =
        Command::new("bash").args(["-c", script, "bash"]).args(words).env("QUS", QUS).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes() {
    assert_eq!(offered(&["qus", "reg"]), ["register"]);
    assert_eq!(offered(&["qus", "register", "--in-m"]), ["--in-memory"]);
    assert_eq!(offered(&["qus", "register", "aarch"]), ["aarch64", "aarch64_be"]);
    assert_eq!(offered(&["qus", "reset", "al"]), ["all", "alpha"]);
    // `show` does not accept `all`.
    assert_eq!(offered(&["qus", "show", "al"]), ["alpha"]);
    assert_eq!(offered(&["qus", "run", "--arch", "al"]), ["alpha"]);
}

#[test]
fn they_are_json_too() {
    for (words, field) in [(&["completions", "zsh"][..], "script"), (&["man"], "page")] {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let value: serde_json::Value = serde_json::from_str(&done(&words)).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value[field].as_str().unwrap(), done(&words[..words.len() - 1]));
    }
}
