//! The house: what ARCHITECTURE.md says of files and imports, checked.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 3] = ["store", "fs", "cli"];
/// Lines of a file, tests apart.
const MAX_LINES: usize = 500;

/// A crate's files by their module path: `catalogue::read`, or the crate's name for the root.
fn modules(name: &str) -> BTreeMap<String, (PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
    let mut found = BTreeMap::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let within = path.strip_prefix(&root).unwrap().with_extension("");
            let mut parts: Vec<_> =
                within.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
                parts.pop();
            }
            if parts.last().is_some_and(|last| last == "tests") {
                continue;
            }
            found.insert(parts.join("::"), (path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// The text of a file up to its tests, without comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Splits `a, b::{c, d}, e` at its outermost commas.
fn items(list: &str) -> Vec<String> {
    let (mut depth, mut found) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(c);
    }
    found
}

/// Every path that a `use` declaration names, written out.
fn expand(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        Some((path, rest)) => {
            let list = rest.trim().strip_suffix('}').unwrap_or(rest);
            for item in items(list).iter().filter(|item| !item.trim().is_empty()) {
                expand(&format!("{prefix}{path}"), item, found);
            }
        }
        None => {
            let path = tree.split(" as ").next().unwrap().trim();
            found.insert(format!("{prefix}{path}").replace("::self", ""));
        }
    }
}

/// What a file re-exports, by name: where that comes from.
fn exports(
    module: &str,
    text: &str,
    all: &BTreeMap<String, (PathBuf, String)>,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for declaration in code(text).split("use ").skip(1).filter_map(|rest| rest.split_once(';')) {
        let mut paths = BTreeSet::new();
        expand("", declaration.0, &mut paths);
        for path in paths {
            let absolute = absolute(module, &path);
            if let (Some(path), Some(name)) = (absolute, path.rsplit("::").next())
                && all.contains_key(path.rsplit_once("::").map_or("", |(module, _)| module))
            {
                found.insert(name.to_owned(), path);
            }
        }
    }
    found
}

/// A path of this crate's, from its root; `None` if it is another crate's.
fn absolute(module: &str, path: &str) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path;
    if let Some(of_crate) = path.strip_prefix("crate::") {
        return Some(of_crate.to_owned());
    }
    let mut relative = false;
    while let Some(above) = rest.strip_prefix("super::") {
        here.pop();
        (rest, relative) = (above, true);
    }
    here.push(rest);
    relative.then(|| here.join("::")).or_else(|| Some([module, path].join("::")))
}

/// The file that a path leads to, through re-exports.
fn resolve(path: &str, all: &BTreeMap<String, (PathBuf, String)>) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let parts: Vec<&str> = path.split("::").collect();
        let module = (0..=parts.len()).rev().map(|n| parts[..n].join("::"));
        let module = module.into_iter().find(|module| all.contains_key(module))?;
        let rest = path.strip_prefix(&module).unwrap_or("").trim_start_matches("::");
        let Some(name) = rest.split("::").next().filter(|name| !name.is_empty()) else {
            return Some(module);
        };
        match exports(&module, &all[&module].1, all).get(name) {
            Some(from) if *from != path => path.clone_from(from),
            _ => return Some(module),
        }
    }
    None
}

/// Which files each file imports.
fn imports(all: &BTreeMap<String, (PathBuf, String)>) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, (path, text)) in all {
        let own = found.entry(module.clone()).or_default();
        // A folder's face hands names on, and the root of a crate as well.
        if ["mod.rs", "lib.rs", "main.rs"].iter().any(|face| path.ends_with(face)) {
            continue;
        }
        let code = code(text);
        let mut paths = BTreeSet::new();
        for declaration in code.split("use ").skip(1).filter_map(|rest| rest.split_once(';')) {
            expand("", declaration.0, &mut paths);
        }
        // Paths that are written out where they are used.
        for start in ["crate::", "super::"] {
            for rest in code.split(start).skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                paths.insert(format!("{start}{}", &rest[..end.unwrap_or(rest.len())]));
            }
        }
        for path in paths.iter().filter(|p| p.starts_with("crate::") || p.starts_with("super::")) {
            // `super` is the folder, for a file in it.
            let target = absolute(module, path).and_then(|path| resolve(&path, all));
            own.extend(target.filter(|target| target != module && !target.is_empty()));
        }
    }
    found
}

/// A circle of imports, if there is one.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk<'a>(
        at: &'a str,
        imports: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|step| *step == at) {
            return Some(path[start..].iter().map(|step| (*step).to_owned()).collect());
        }
        if !done.insert(at) {
            return None;
        }
        path.push(at);
        let found =
            imports.get(at).into_iter().flatten().find_map(|next| walk(next, imports, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|start| walk(start, imports, &mut Vec::new(), &mut done))
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for name in CRATES {
        let all = modules(name);
        let imports = imports(&all);
        let count: usize = imports.values().map(BTreeSet::len).sum();
        assert!(count > all.len(), "{name}: {count} imports of {} files were found", all.len());
        assert_eq!(circle(&imports), None, "{name}");
    }
}

/// `catalogue::tables::layout` is in the folder `catalogue`; a file of the root is a folder itself.
fn folder(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    for name in CRATES {
        let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (module, imported) in imports(&modules(name)) {
            let own = folders.entry(folder(&module).to_owned()).or_default();
            let others = imported.iter().map(|target| folder(target));
            own.extend(others.filter(|other| *other != folder(&module)).map(str::to_owned));
        }
        assert_eq!(circle(&folders), None, "{name}: {folders:?}");
    }
}

/// The folders of a crate as ARCHITECTURE.md lists them, those that may be used first.
fn listed(name: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let list = text.split(&format!("\n    {name}/src/\n")).nth(1).unwrap();
    let lines = list.lines().take_while(|line| line.starts_with("      "));
    let names = lines.map(|line| line.split_whitespace().next().unwrap());
    names.map(|n| n.trim_end_matches('/').trim_end_matches(".rs").to_owned()).collect()
}

#[test]
fn imports_go_up_the_lists_of_architecture_md() {
    for name in CRATES {
        let listed = listed(name);
        let place = |module: &str| listed.iter().position(|found| found == folder(module));
        for (module, imported) in imports(&modules(name)) {
            let Some(own) = place(&module) else { continue };
            for target in imported {
                let below = place(&target).is_some_and(|other| other > own);
                assert!(!below, "{name}: {module} imports {target}, which is listed below it");
            }
        }
        let all = modules(name);
        for module in all.keys().filter(|module| module.contains("::")) {
            assert!(place(module).is_some(), "{name}: ARCHITECTURE.md doesn't list {module}");
        }
    }
}

#[test]
fn a_circle_would_be_found() {
    let graph = |pairs: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
    assert_eq!(found, ["b", "c"]);
    let mut paths = BTreeSet::new();
    expand("", "crate::{a::{B, c::D as E}, f}", &mut paths);
    assert!(paths.into_iter().eq(["crate::a::B", "crate::a::c::D", "crate::f"]));
}

#[test]
fn files_are_short_and_folders_say_what_lives_in_them() {
    for name in CRATES {
        for (path, text) in modules(name).values() {
            let lines = text.split("#[cfg(test)]\nmod ").next().unwrap().lines().count();
            assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
            assert!(text.starts_with("//! "), "{} doesn't say what it is", path.display());
            if path.ends_with("mod.rs") {
                let code = code(text);
                let defines =
                    ["\nfn ", "\npub fn ", "\nstruct ", "\npub struct ", "\nimpl ", "\nenum "];
                assert!(!defines.iter().any(|d| code.contains(d)), "{} defines", path.display());
            }
        }
    }
}

#[test]
fn the_database_is_named_in_one_file() {
    let database = "sled";
    let all = CRATES.iter().flat_map(|name| modules(name).into_values());
    let naming: Vec<_> = all.filter(|(_, text)| text.contains(database)).map(|(p, _)| p).collect();
    assert!(naming.len() == 1 && naming[0].ends_with("catalogue/database.rs"), "{naming:?}");
}

#[test]
fn a_constant_says_what_it_bounds() {
    for name in CRATES {
        for (path, text) in modules(name).values() {
            for vague in ["const PATIENCE", "const PIECE", "const LIMIT", "const MAX:"] {
                assert!(!text.contains(vague), "{}: {vague}", path.display());
            }
        }
    }
}

#[test]
fn documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents: Vec<_> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .into();
    documents.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut seen = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for path in text.split('`').skip(1).step_by(2) {
            let first = path.split('/').next().unwrap();
            if !path.contains('/')
                || !CRATES.contains(&first) && !["tests", "docs"].contains(&first)
                || !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/.-".contains(&b))
            {
                continue;
            }
            seen += 1;
            assert!(root.join(path).exists(), "{} names {path}", document.display());
        }
        // Links lead somewhere.
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = document.parent().unwrap().join(link);
            assert!(link.contains("://") || target.exists(), "{} links {link}", document.display());
        }
    }
    assert!(seen > 50, "{seen}");
}
