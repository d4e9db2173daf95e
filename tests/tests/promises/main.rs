//! One test for each sentence of `fs/PROMISES.md`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod files;
mod listings;
mod mounts;
mod names;
mod read_only;

use std::collections::BTreeSet;
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

#[test]
fn every_promise_has_a_test_and_every_test_a_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = fs::read_to_string(root.join("../fs/PROMISES.md")).unwrap();
    let named: BTreeSet<String> = promises
        .lines()
        .filter(|line| line.starts_with("- ") && line.ends_with('`'))
        .filter_map(|line| Some(line.trim_end_matches('`').rsplit_once('`')?.1.to_owned()))
        .collect();
    let tests_in = |dir: &str| {
        let mut tests = BTreeSet::new();
        for entry in fs::read_dir(root.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("main.rs") {
                let text = fs::read_to_string(path).unwrap();
                let after = text.split("#[test]\nfn ").skip(1);
                tests.extend(after.filter_map(|t| Some(t.split_once('(')?.0.to_owned())));
            }
        }
        tests
    };
    let promises = tests_in("tests/promises");
    let elsewhere = &tests_in("tests/survival") | &tests_in("tests/engines");
    let elsewhere = &elsewhere | &tests_in("tests/upkeep");
    assert!(promises.len() > 20 && promises.is_subset(&named));
    let unknown: Vec<_> = named.iter().filter(|n| !promises.contains(*n)).collect();
    assert!(unknown.iter().all(|name| elsewhere.contains(*name)), "{unknown:?}");
}
