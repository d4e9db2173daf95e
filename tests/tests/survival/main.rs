//! The server can die, and the hosts don't notice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod keeper;
mod passthrough;
mod requests;
mod stress;

use std::time::{Duration, Instant};

use wasmfs_tests::Environment;

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "it doesn't happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What keeper and workers logged.
fn log(env: &Environment) -> String {
    std::fs::read_to_string(env.store().join("wasmfs.log")).unwrap()
}

/// How often the worker was replaced.
fn replacements(env: &Environment) -> u64 {
    env.json(&["status"])["worker"]["replacements"].as_u64().unwrap()
}

/// Waits until the worker was replaced so often.
fn replacements_of(env: &Environment, count: u64) {
    wait_until(|| replacements(env) >= count);
    assert_eq!(replacements(env), count);
}
