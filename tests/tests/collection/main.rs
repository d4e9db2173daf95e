//! What collection takes, and what it leaves to whoever uses it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod in_use;
mod policy;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use wasmfs_tests::Environment;
use wasmfs_tests::module::wat;

/// Compiles modules with other bytes each, and returns their artifacts.
fn artifacts(env: &Environment, count: u32) -> Vec<(PathBuf, Vec<u8>)> {
    (0..count)
        .map(|n| {
            let source = env.file("source.wat", wat(n));
            env.publish(&source, "compiled", &["--no-keep-source"]);
            let bytes = fs::read(env.mounted("compiled")).unwrap();
            (env.file(&format!("{n}.cwasm"), &bytes), bytes)
        })
        .collect()
}

/// Runs `wasmfs gc`.
fn gc(env: &Environment, args: &[&str]) -> Value {
    env.json(&[&["gc"], args].concat())
}

/// How many object files the store has.
fn objects(env: &Environment) -> usize {
    let dirs = fs::read_dir(env.store().join("objects")).unwrap();
    dirs.map(|dir| fs::read_dir(dir.unwrap().path()).unwrap().count()).sum()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}
