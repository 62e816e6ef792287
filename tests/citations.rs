//! Checks that every citation in the repository has a target.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories and files whose text is searched.
const SEARCHED: &[&str] =
    &["src", "tests", "fuzz/src", "benches", ".ci", ".github", "dist", "docs", "README.md", "CHANGELOG.md"];

#[test]
fn every_fact_about_the_kernel_is_in_its_document() {
    let defined = facts(&read("docs/kernel.md"));
    assert!(defined.len() > 50, "only {} facts", defined.len());
    let mut missing = BTreeSet::new();
    for (path, text) in texts() {
        if path == "tests/citations.rs" {
            continue;
        }
        let cited = words(&text).into_iter().filter(|word| number(word, "K").is_some());
        missing.extend(cited.filter(|word| !defined.contains(*word)).map(|word| format!("{word} in {path}")));
    }
    assert!(missing.is_empty(), "not in docs/kernel.md: {missing:#?}");
}

#[test]
fn every_fact_is_cited() {
    let mut cited = BTreeSet::new();
    for (path, text) in texts() {
        if path != "docs/kernel.md" {
            cited.extend(words(&text).into_iter().map(str::to_owned));
        }
    }
    let unused: Vec<_> =
        facts(&read("docs/kernel.md")).into_iter().filter(|fact| !cited.contains(fact)).collect();
    assert!(unused.is_empty(), "cited nowhere: {unused:?}");
}

#[test]
fn every_fact_names_tests_that_exist() {
    let document = read("docs/kernel.md");
    let tests = test_names();
    let mut missing = Vec::new();
    for fact in document.split("\n\n").filter(|paragraph| paragraph.contains("Test: ")) {
        let (_, listed) = fact.split_once("Test: ").unwrap();
        let names: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || listed.starts_with("*not tested*"), "no test: {fact}");
        missing.extend(names.into_iter().filter(|name| !tests.contains(*name)).map(str::to_owned));
    }
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[test]
fn rules_and_documents_exist() {
    let design = read("docs/design.md");
    let mut missing = Vec::new();
    for (path, text) in texts() {
        // `rule 3 of docs/design.md`
        for (at, _) in text.match_indices(" of docs/design.md") {
            let rule = text.get(..at).unwrap().rsplit("rule ").next().unwrap();
            if path != "tests/citations.rs" && !design.contains(&format!("### Rule {rule}:")) {
                missing.push(format!("rule {rule} in {path}"));
            }
        }
        for word in words(&text) {
            let is_old = number(word, "U").is_some() || matches!(word, "DESIGN" | "KERNEL");
            if is_old && path != "tests/citations.rs" {
                missing.push(format!("{word} in {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn citations_are_whole_words() {
    assert_eq!(words("(K37), K37x K-3 xK4"), ["K37", "K37x", "K", "3", "xK4"]);
    assert_eq!(number("K37", "K"), Some(37));
    assert_eq!(number("K37x", "K"), None);
    assert_eq!(number("K", "K"), None);
    assert_eq!(facts("x\n**K7** a\n**K8** b"), BTreeSet::from(["K7".to_owned(), "K8".to_owned()]));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the ids of the facts in a document.
fn facts(document: &str) -> BTreeSet<String> {
    let lines = document.lines().filter_map(|line| line.strip_prefix("**")?.split_once("**"));
    lines.map(|(id, _)| id.to_owned()).filter(|id| number(id, "K").is_some()).collect()
}

/// Returns the number of an id such as `K37`.
fn number(word: &str, letter: &str) -> Option<u32> {
    let digits = word.strip_prefix(letter)?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn words(text: &str) -> Vec<&str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
        .collect()
}

/// Returns every text file that is searched, with its path from the root of the tree.
fn texts() -> Vec<(String, String)> {
    let mut waiting: Vec<PathBuf> = SEARCHED.iter().map(|path| root().join(path)).collect();
    let mut texts = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(root()).unwrap_or(Path::new("")).to_str().unwrap().to_owned();
            texts.push((name, text));
        }
    }
    texts
}

/// Returns the names of tests: those of `kernel_test!`, and of functions marked with `#[test]`.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in texts() {
        let of_kernel = text.split("kernel_test!(").skip(1).filter_map(|rest| rest.split([',', ')']).next());
        let marked =
            text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split('(').next());
        names.extend(of_kernel.chain(marked).map(str::to_owned));
    }
    names
}
