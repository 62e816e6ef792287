//! Checks the documents: links and anchors have targets, and options, commands, tests and environment variables exist.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::CommandFactory;
use qus::cli::Cli;

/// Longest README, in lines.
const README_LINES: usize = 150;
/// Options of other programs that the documents name.
const OTHER_OPTIONS: &[&str] = &[
    "add-architecture",
    "all",
    "all-targets",
    "architecture",
    "args",
    "check",
    "entrypoint",
    "import",
    "install",
    "lib",
    "manifest",
    "no-install-recommends",
    "platform",
    "privileged",
    "release",
    "rm",
    "short",
    "test",
    "update",
    "user",
];
/// Words after `qus` in code that are no commands.
const OTHER_WORDS: &[&str] = &["COMMAND"];

#[test]
fn every_relative_link_has_a_target() {
    let mut broken = Vec::new();
    let mut count = 0;
    for (path, text) in documents() {
        for target in links(&text) {
            let target = target.as_str();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, id)| (file, Some(id)));
            let linked = if file.is_empty() { path.clone() } else { beside(&path, file) };
            if !root().join(&linked).exists() {
                broken.push(format!("{path}: {target}: no such file"));
            } else if let Some(anchor) = anchor
                && !anchors(&read(&linked)).contains(anchor)
            {
                broken.push(format!("{path}: {target}: no such heading"));
            }
        }
    }
    assert!(count > 30, "only {count} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_option_exists() {
    let mut options: BTreeSet<String> = OTHER_OPTIONS.iter().map(|&option| option.to_owned()).collect();
    let mut cli = Cli::command();
    cli.build();
    for command in cli.get_subcommands().chain([&cli]) {
        options.extend(command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)));
    }
    // The options of the scripts, which are in their first comments.
    options.extend(["fetch", "once", "no-tests", "section"].map(str::to_owned));
    let mut unknown = Vec::new();
    for (path, text) in documents() {
        // What was removed is named there.
        if path == "CHANGELOG.md" {
            continue;
        }
        for code in code(&text) {
            let names = code.split(|letter: char| letter.is_whitespace() || "[]'\"|".contains(letter));
            let names = names.filter_map(|word| word.strip_prefix("--")).map(|word| {
                word.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').next().unwrap()
            });
            let names = names.filter(|name| !name.is_empty() && !options.contains(*name));
            unknown.extend(names.map(|name| format!("{path}: --{name} in {code}")));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_command_exists() {
    let cli = Cli::command();
    let is_command = |word: &str| cli.get_subcommands().any(|command| command.get_name() == word);
    let mut unknown = Vec::new();
    let mut used = BTreeSet::new();
    for (path, text) in documents() {
        for code in code(&text) {
            let words: Vec<&str> = code.split_whitespace().collect();
            for pair in words.windows(2) {
                if !matches!(pair[0], "qus" | "./qus-bundle" | "./qus-five") {
                    continue;
                }
                let word = pair[1].trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
                let is_name = pair[1].starts_with(|letter: char| letter.is_ascii_alphabetic());
                if is_command(word) {
                    used.insert(word.to_owned());
                } else if is_name && word != "help" && !OTHER_WORDS.contains(&word) {
                    unknown.push(format!("{path}: {code}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    let missing: Vec<&str> =
        cli.get_subcommands().map(clap::Command::get_name).filter(|name| !used.contains(*name)).collect();
    assert!(missing.is_empty(), "in no document: {missing:?}");
}

#[test]
fn every_named_test_and_variable_exists() {
    let sources = sources();
    let mut unknown = Vec::new();
    for (path, text) in documents() {
        for code in code(&text) {
            for word in code.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
                let is_test = path.ends_with("SECURITY.md")
                    && word.len() > 10
                    && word.trim_matches('_').matches('_').count() > 1;
                let is_variable = word.starts_with("QUS_");
                if (is_test || is_variable) && !sources.contains(word.trim_matches('_')) {
                    unknown.push(format!("{path}: {word}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn the_rows_of_the_figures_are_those_that_are_measured() {
    let rows = without_numbers(&read("benches/table/rows.rs"));
    let document = read("benches/README.md");
    let table = document.lines().skip_while(|line| !line.starts_with("| what qus does")).skip(2);
    let names: Vec<String> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| without_numbers(line.split('|').nth(1).unwrap().trim()))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    let unknown: Vec<_> = names.iter().filter(|name| !rows.contains(&format!("\"{name}\""))).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn causes_are_printed_as_readme_quotes_them() {
    let messages = read("tests/language/messages.txt");
    let readme = read("README.md");
    let table = readme.lines().skip_while(|line| !line.starts_with("| cause |")).skip(2);
    let quoted: Vec<&str> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').nth(2).unwrap().trim().trim_matches('`'))
        .collect();
    assert_eq!(quoted.len(), 6, "{quoted:?}");
    // Names and paths are placeholders in the messages.
    let pieces = |text: &str| {
        let is_name = |word: &&str| !word.contains("qemu-") && !word.contains('/');
        text.split(' ').map(|word| if is_name(&word) { word } else { "{}" }).collect::<Vec<_>>().join(" ")
    };
    let unknown: Vec<&&str> = quoted.iter().filter(|text| !messages.contains(&pieces(text))).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
}

#[test]
fn links_anchors_and_code_are_found() {
    assert_eq!(
        links("[a](b.md) and [`c`](d#e)\n```\n[no](link)\n```\n`[no](x)`"),
        ["b.md", "d#e"].map(String::from)
    );
    let found = anchors("# One `two`\n## \"Exec format error\"\n## One two\n```\n# no\n```\n### It's (3)");
    assert_eq!(found, ["exec-format-error", "its-3", "one-two", "one-two-1"].map(String::from).into());
    assert_eq!(code("a `b --c` d\n\n    --e\n\n```console\n$ f\n```"), ["b --c", "    --e", "$ f"]);
    assert_eq!(beside("docs/a.md", "../.ci/run"), ".ci/run");
    assert_eq!(without_numbers("of {count:.0} and 57 MB, {} { x }"), "of N and N MB, N { x }");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every document, with its path from the root of the repository.
fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<String> =
        ["README.md", "CHANGELOG.md", "benches/README.md", ".ci/e2e/matrix.md"].map(String::from).into();
    for directory in ["docs", ".github"] {
        let names = fs::read_dir(root().join(directory)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        paths.extend(
            names
                .filter(|name| Path::new(name).extension().is_some_and(|end| end == "md"))
                .map(|name| format!("{directory}/{name}")),
        );
    }
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The lines outside fenced blocks, and those within, in their order.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut is_fenced = false;
    text.lines().filter_map(move |line| {
        let is_fence = line.starts_with("```");
        is_fenced ^= is_fence;
        (!is_fence).then_some((is_fenced, line))
    })
}

/// Targets of links, without those in code.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for (_, line) in lines(text).filter(|(is_fenced, _)| !is_fenced) {
        for part in line.split("](").skip(1) {
            // A link in code has an odd number of backquotes before it.
            let before = &line[..line.find(&format!("]({part}")).unwrap()];
            let is_code = before.matches('`').count() % 2 == 1;
            if !is_code {
                targets.push(part.split(')').next().unwrap().to_owned());
            }
        }
    }
    targets
}

/// Ids that GitHub gives to headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in lines(text).filter(|(is_fenced, line)| !is_fenced && line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let id: String = title
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect();
        let repeated = (1..).map(|number| format!("{id}-{number}"));
        let free = std::iter::once(id.clone()).chain(repeated).find(|id| !anchors.contains(id)).unwrap();
        anchors.insert(free);
    }
    anchors
}

/// Inline code, and lines of code blocks.
fn code(text: &str) -> Vec<String> {
    let mut code = Vec::new();
    for (is_fenced, line) in lines(text) {
        if is_fenced || line.starts_with("    ") {
            code.push(line.to_owned());
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

/// Path of a link's target, from the root of the repository.
fn beside(document: &str, link: &str) -> String {
    let mut path = PathBuf::new();
    for part in Path::new(document).parent().unwrap().join(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{link} in {document} leaves the repository"),
            part => path.push(part),
        }
    }
    path.to_str().unwrap().to_owned()
}

/// The text with `N` for each number and each placeholder of a format.
fn without_numbers(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let is_placeholder = |inside: &str| {
            inside.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':' | '.'))
        };
        let placeholder = rest.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        if let Some((_, after)) = placeholder.filter(|(inside, _)| is_placeholder(inside)) {
            rest = after;
            result.push('N');
        } else if letter.is_ascii_digit() {
            rest = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
            result.push('N');
        } else {
            rest = &rest[letter.len_utf8()..];
            result.push(letter);
        }
    }
    result
}

/// Text of all sources and scripts, joined.
fn sources() -> String {
    let mut waiting: Vec<PathBuf> = ["src", "tests", ".ci"].map(|path| root().join(path)).into();
    let mut text = String::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(content) = fs::read_to_string(&path) {
            text.push_str(&content);
        }
    }
    text
}
