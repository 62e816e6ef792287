//! Checks that imports in `src/` run downward: each room of `docs/design.md` may use only the rooms below it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, from the top down, each with its modules. A module within another one may have its own room.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["main", "lib"]),
    ("cli", &["cli"]),
    ("commands", &["commands"]),
    ("handler", &["handler"]),
    ("boot", &["boot"]),
    ("probe", &["probe"]),
    ("interpreter", &["interpreter"]),
    ("package", &["package"]),
    ("arch", &["arch"]),
    ("binfmt", &["binfmt"]),
    ("system", &["system"]),
    ("base", &["base"]),
];

/// An import: the importing module and the imported path, both from the root of the crate.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    module: String,
    path: String,
}

#[test]
fn imports_run_downward() {
    let imports = all_imports();
    assert!(imports.len() > 300, "only {} imports were found", imports.len());
    let upward: Vec<String> = imports.iter().filter_map(upward).collect();
    assert!(upward.is_empty(), "upward imports:\n{}", upward.join("\n"));
}

#[test]
fn no_imports_form_a_cycle() {
    let circles = circles(&all_imports(), &modules().into_iter().map(|(module, _)| module).collect());
    assert!(circles.is_empty(), "modules that import each other:\n{}", circles.join("\n"));
}

#[test]
fn a_loop_is_found() {
    let names = ["a", "a::b", "c", "d"].map(str::to_owned).into_iter().collect();
    let import = |module: &str, path: &str| Import { module: module.to_owned(), path: path.to_owned() };
    let found = |imports: &[(&str, &str)]| {
        circles(&imports.iter().map(|(module, path)| import(module, path)).collect(), &names)
    };
    assert_eq!(found(&[("c", "d::Type"), ("d", "a::b::f"), ("a::b", "c")]), ["a::b, c, d"]);
    // A module that re-exports items of its children makes no cycle.
    assert!(found(&[("a", "a::b::f"), ("a::b", "a::Type"), ("c", "a::f")]).is_empty());
}

#[test]
fn src_has_an_entry_for_each_room() {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() <= 12, "{names:?}");
}

#[test]
fn every_module_has_a_room() {
    let without: BTreeSet<String> =
        modules().into_iter().map(|(module, _)| module).filter(|module| room(module).is_none()).collect();
    assert!(without.is_empty(), "modules without a room in tests/layers.rs: {without:?}");
}

#[test]
fn an_upward_import_is_found_in_every_form() {
    let found = |module: &str, text: &str| {
        let mut imports = BTreeSet::new();
        read_imports(module, text, &mut imports);
        imports.iter().filter_map(upward).count()
    };
    assert_eq!(found("binfmt::rule", "use crate::handler::decide;"), 1);
    assert_eq!(found("binfmt::rule", "use crate::{base::shell, handler::plan};"), 1);
    assert_eq!(found("binfmt::rule", "fn f() { crate::commands::run(); }"), 1);
    assert_eq!(found("binfmt::rule", "use super::super::handler;"), 1);
    assert_eq!(found("binfmt::rule", "use super::{flags, super::{handler, commands}};"), 2);
    assert_eq!(found("binfmt::rule", "use crate::base::shell; use super::flags; // crate::handler"), 0);
    assert_eq!(found("handler", "use crate::binfmt::Rule;\n/// [`crate::commands`]\nfn f() {}"), 0);
    assert_eq!(
        found("binfmt", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::handler::decide;\n}\n"),
        0
    );
}

/// Returns groups of modules that import each other, directly or through others. Imports between a module and a module
/// within it do not count, because the outer one is the interface of the inner ones.
fn circles(imports: &BTreeSet<Import>, modules: &BTreeSet<String>) -> Vec<String> {
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        let Some(target) = module_of(&import.path, modules) else { continue };
        let (from, to) = (format!("{}::", import.module), format!("{target}::"));
        if !from.starts_with(&to) && !to.starts_with(&from) {
            edges.entry(&import.module).or_default().insert(target);
        }
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|module| (*module, reached(module, &edges))).collect();
    let group = |module: &&str| {
        let in_circle = |other: &&&str| reach.get(**other).is_some_and(|back| back.contains(*module));
        reach[*module].iter().filter(in_circle).copied().collect::<Vec<_>>().join(", ")
    };
    let groups: BTreeSet<String> = reach.keys().map(group).filter(|group| !group.is_empty()).collect();
    groups.into_iter().collect()
}

/// Returns every module that `start` imports, directly or through others.
fn reached<'a>(start: &'a str, edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![start]);
    while let Some(module) = waiting.pop() {
        let next = edges.get(module).into_iter().flatten();
        waiting.extend(next.filter(|next| reached.insert(**next)));
    }
    reached
}

/// Returns the module that contains the item called `path`.
fn module_of<'a>(path: &str, modules: &'a BTreeSet<String>) -> Option<&'a str> {
    let mut path = path;
    loop {
        if let Some(module) = modules.get(path) {
            return Some(module);
        }
        path = &path[..path.rfind("::")?];
    }
}

/// Describes the import if its target is in a higher room.
fn upward(import: &Import) -> Option<String> {
    let (from, to) = (room(&import.module)?, room(&import.path)?);
    (to < from).then(|| {
        format!("{} (in {}) uses {} (in {})", import.module, ROOMS[from].0, import.path, ROOMS[to].0)
    })
}

/// Returns the index in [`ROOMS`] of the room whose module name is the longest prefix of `path`.
fn room(path: &str) -> Option<usize> {
    let begins = |module: &str| {
        path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let named = ROOMS
        .iter()
        .enumerate()
        .flat_map(|(index, (_, modules))| modules.iter().map(move |module| (index, *module)));
    named.filter(|(_, module)| begins(module)).max_by_key(|(_, module)| module.len()).map(|(index, _)| index)
}

fn all_imports() -> BTreeSet<Import> {
    let mut imports = BTreeSet::new();
    for (module, path) in modules() {
        read_imports(&module, &fs::read_to_string(path).unwrap(), &mut imports);
    }
    imports
}

/// Returns every module of production code, with its file.
fn modules() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut modules = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                let module = name.to_str().unwrap().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
                if !module.ends_with("::tests") {
                    modules.push((module, path));
                }
            }
        }
    }
    modules
}

/// Adds the imports of `module` from this crate: `use` lines and paths in the code, both with `crate::` and with
/// `super::`. Comments, and the tests at the end of the file, are ignored.
fn read_imports(module: &str, text: &str, imports: &mut BTreeSet<Import>) {
    let code: Vec<&str> = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect();
    let code = code.join("\n");
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..start].chars().next_back();
        // The match is the end of a longer word, or part of a path that was read already.
        if before.is_some_and(|letter| letter.is_alphanumeric() || "_:".contains(letter)) {
            continue;
        }
        let mut paths = Vec::new();
        read_path(&code[start..], module, &mut paths);
        imports.extend(paths.into_iter().map(|path| Import { module: module.to_owned(), path }));
    }
}

/// Reads one path or tree of paths at the beginning of `text`, below the module `base`. Returns its length.
fn read_path(text: &str, base: &str, paths: &mut Vec<String>) -> usize {
    let mut path = base.to_owned();
    let mut length = 0;
    loop {
        let rest = &text[length..];
        let word = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        match &rest[..word] {
            "" if rest.starts_with('{') => return length + read_group(rest, &path, paths),
            "crate" => path.clear(),
            "super" => path.truncate(path.rfind("::").unwrap_or(0)),
            name if path.is_empty() => path.push_str(name),
            name => path = format!("{path}::{name}"),
        }
        length += word;
        if !text[length..].starts_with("::") {
            break;
        }
        length += "::".len();
    }
    paths.push(path);
    length
}

/// Reads `{…}` at the beginning of `text`: paths below `base`, separated by commas.
fn read_group(text: &str, base: &str, paths: &mut Vec<String>) -> usize {
    let mut length = 1;
    while let Some(letter) = text[length..].chars().next() {
        match letter {
            '}' => return length + 1,
            letter if letter.is_whitespace() || letter == ',' => length += letter.len_utf8(),
            letter if letter.is_alphanumeric() || letter == '_' => {
                length += read_path(&text[length..], base, paths);
            }
            letter => length += letter.len_utf8(),
        }
    }
    length
}
