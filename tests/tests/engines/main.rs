//! Living with several engines: names, defaults, artifacts from the hosts' own
//! compilers, and the hosts that go with them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod capture;
mod compile;
mod defaults;
mod import;
mod layouts;
mod names;
mod upgrade;
mod zellij;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use wasmfs_tests::{Environment, real_host};

/// The wasmtime command of a major version.
fn cli(major: &str) -> PathBuf {
    real_host(&format!("cli{major}")).join("wasmtime_cli/wasmtime")
}

/// Compiles a file with a wasmtime command, as its user would.
fn compile(env: &Environment, major: &str, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let source = env.file(&format!("{name}.wat"), source);
    let artifact = env.path(name);
    let mut command = env.command(cli(major));
    command.arg("compile").args(flags).arg(source).arg("-o").arg(&artifact);
    wasmfs_tests::succeed(&mut command);
    artifact
}

/// A module whose `answer` is `n`.
fn answering(n: u32) -> String {
    format!("(module (func (export \"answer\") (result i32) i32.const {n}))")
}

/// What a wasmtime command makes of `answer` in a compiled file.
fn ask(env: &Environment, major: &str, path: &std::path::Path) -> Result<String, String> {
    let mut command: Command = env.command(cli(major));
    command.args(["run", "--allow-precompiled", "--invoke", "answer"]).arg(path);
    let output = wasmfs_tests::output(&mut command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The engine that `name` means, as `wasmfs engines` tells it.
fn engine(env: &Environment, name: &str) -> Value {
    let engines = env.json(&["engines"]);
    let is = |e: &&Value| {
        e["label"] == name || e["aliases"].as_array().unwrap().iter().any(|alias| alias == name)
    };
    engines
        .as_array()
        .unwrap()
        .iter()
        .find(is)
        .unwrap_or_else(|| panic!("{name}: {engines}"))
        .clone()
}

/// Ends the threads of a test, also when it fails.
struct Stop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
