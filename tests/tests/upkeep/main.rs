//! Keeping a store: collection, verification and repair, archives, and full disks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archives;
mod disk;
mod in_use;
mod policy;
mod verify;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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

/// Publishes versions 1 to `count` of a key, of some 20 KB each.
fn versions(env: &Environment, key: &str, count: u32) {
    for n in 0..count {
        let text = format!("(module (func (export \"answer\") (result i32) i32.const {n}))");
        let file = env.file("module.wat", text);
        env.publish(&file, key, &[]);
    }
}

/// Runs `wasmfs gc`.
fn gc(env: &Environment, args: &[&str]) -> Value {
    env.json(&[&["gc"], args].concat())
}

/// Every object file of a store.
fn object_files(store: &Path) -> Vec<PathBuf> {
    let dirs = fs::read_dir(store.join("objects")).unwrap();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// How many object files the store has.
fn objects(env: &Environment) -> usize {
    object_files(&env.store()).len()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Changes one byte of a file, whatever its mode.
fn flip(path: &Path, at: usize) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}
