//! Whatever bytes somebody brings, made from ones that make sense, for `WASMFS_FUZZ_SECONDS`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "support/fuzz.rs"]
mod checks;
mod support;

use std::fs;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use support::random::Random;
use support::{artifact, key, publish};
use wasmfs_store::{Settings, Store, StoreDir};

/// Changes some bytes: flipped, cut, doubled, or of another seed.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.index(4) {
        let at = random.index(bytes.len().max(1));
        match random.index(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.index(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.index(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), random.index(256) as u8),
            4 => {
                let end = (at + random.index(64)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at.min(end)..at.min(end), piece);
            }
            _ => {
                let other = &others[random.index(others.len())];
                let from = random.index(other.len().max(1)).min(other.len());
                let end = (from + random.index(128)).min(other.len());
                let at = at.min(bytes.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
}

fn seconds() -> Duration {
    let given = std::env::var("WASMFS_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok());
    Duration::from_secs(given.unwrap_or(1))
}

/// Runs `check` on mutations of `seeds` for as long as was asked for.
fn fuzz(what: &str, seeds: &[Vec<u8>], check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (start, mut runs) = (Instant::now(), 0u64);
    while start.elapsed() < seconds() / 3 || runs < 10 {
        let mut bytes = seeds[random.index(seeds.len())].clone();
        mutate(&mut random, &mut bytes, seeds);
        if catch_unwind(|| check(&bytes)).is_err() {
            panic!("{what} after {runs} runs: {bytes:02x?}");
        }
        runs += 1;
    }
    eprintln!("{what}: {runs} runs");
}

#[test]
fn whatever_is_published_is_read_without_a_panic() {
    let mut seeds: Vec<_> = (0..3).map(|n| artifact(n, 7, 40)).collect();
    seeds.push(b"\0\x0248\x18x86_64-unknown-linux-gnu\0\0".to_vec());
    seeds.push(support::engine("36.0.1", "aarch64-unknown-linux-gnu", &[0; 80]));
    seeds.push(b"\0asm\x01\0\0\0".to_vec());
    fuzz("artifacts", &seeds, checks::artifact);
}

#[test]
fn whatever_is_named_is_a_key_or_refused() {
    let seeds = [
        "a/b.cwasm",
        "zellij/0.43/5f3c",
        "..",
        "/",
        ".wasmfs/x",
        "CACHEDIR.TAG",
        "\u{fc}/\u{2026}",
    ];
    let seeds: Vec<_> = seeds.iter().map(|name| name.as_bytes().to_vec()).collect();
    fuzz("keys", &seeds, checks::key);
}

#[test]
fn whatever_a_history_says_the_store_opens_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    publish(&store, "a/key", &artifact(1, 1, 100));
    publish(&store, "b", &artifact(2, 2, 20_000));
    store.remove(&key("b"), None).unwrap();
    store.close().unwrap();
    let whole = fs::read(dir.path().join("history")).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let seeds: Vec<_> = [vec![whole]].into_iter().chain([lines]).flatten().collect();
    fuzz("histories", &seeds, |bytes| {
        let dir = tempfile::tempdir().unwrap();
        StoreDir::open_or_create(dir.path(), &Settings::default()).unwrap();
        fs::write(dir.path().join("history"), bytes).unwrap();
        if let Ok(store) = Store::open(dir.path()) {
            drop(store.keys(""));
            drop(store.latest(10));
        }
    });
}
