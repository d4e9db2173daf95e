//! One test for each sentence of `fs/PROMISES.md`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod files;
mod listings;
mod mounts;
mod names;
mod read_only;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use wasmfs_tests::Environment;

/// A small module whose `answer` is `n`.
fn module(env: &Environment, n: u32) -> std::path::PathBuf {
    let text = format!("(module (func (export \"answer\") (result i32) i32.const {n}))");
    env.file(&format!("module-{n}.wat"), text)
}

/// Publishes module `n` under `key`.
fn publish(env: &Environment, key: &str, n: u32) -> serde_json::Value {
    env.publish(&module(env, n), key, &[])
}

/// The names between backticks in a promise that are names of tests, by their looks.
fn tests_named(promise: &str) -> impl Iterator<Item = &str> {
    let quoted = promise.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        name.contains('_')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
    })
}

#[test]
fn every_promise_has_a_test_and_every_test_a_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A promise goes on in lines that are indented.
    let text = fs::read_to_string(root.join("../fs/PROMISES.md")).unwrap().replace("\n  ", " ");
    let mut named = BTreeSet::new();
    for promise in text.lines().filter(|line| line.starts_with("- ")) {
        let tests: Vec<_> = tests_named(promise).map(str::to_owned).collect();
        let says_why_not = promise.ends_with('.');
        assert!(!tests.is_empty() || says_why_not, "no test is named: {promise}");
        named.extend(tests);
    }
    // Every folder of tests, and every file in it.
    let mut by_folder: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let folder = entry.unwrap();
        let files = match folder.file_type().unwrap().is_dir() {
            true => fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect(),
            false => vec![folder.path()],
        };
        let tests = by_folder.entry(folder.file_name().to_string_lossy().into_owned()).or_default();
        for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
            let text = fs::read_to_string(path).unwrap();
            let after = text.split("#[test]\nfn ").skip(1);
            tests.extend(after.filter_map(|t| Some(t.split_once('(')?.0.to_owned())));
        }
    }
    let own = "every_promise_has_a_test_and_every_test_a_promise";
    let promises: BTreeSet<_> = by_folder["promises"].iter().filter(|t| *t != own).collect();
    assert!(promises.len() > 20);
    let unnamed: Vec<_> = promises.iter().filter(|test| !named.contains(**test)).collect();
    assert!(unnamed.is_empty(), "not in PROMISES.md: {unnamed:?}");
    let all: BTreeSet<_> = by_folder.values().flatten().collect();
    let unknown: Vec<_> = named.iter().filter(|name| !all.contains(name)).collect();
    assert!(unknown.is_empty(), "PROMISES.md names what is no test: {unknown:?}");
}
