//! Sizes and times at scale; by hand, with `--ignored --nocapture`, in the directory that
//! `WASMFS_SCALE_DIR` names, with `WASMFS_SCALE` keys.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use support::*;
use wasmfs_store::View;
use wasmfs_store::{Policy, Publish, Settings, Store, StoreDir};

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |value| value.parse().unwrap())
}

fn dir(name: &str) -> PathBuf {
    let dir = std::env::var_os("WASMFS_SCALE_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    dir.join(format!("wasmfs-scale-{name}"))
}

fn size(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_dir() {
        return fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum();
    }
    std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn collect_all(store: &Store) -> u64 {
    let (mut after, mut versions) = (None, 0);
    loop {
        let portion = store.collectable(&Policy::default(), after.as_deref()).unwrap();
        versions += store.collect(&portion.candidates, portion.seen).unwrap().0.versions;
        after = portion.next;
        if after.is_none() {
            break;
        }
    }
    store.collect_orphans().unwrap();
    store.compact(store.last_change(), false).unwrap();
    if let Some(shrunk) = store.shrink().unwrap() {
        println!("shrunk: {shrunk:?}");
    }
    versions
}

/// Publishes, removes and collects the same keys again and again: sizes reach a plateau.
#[test]
#[ignore = "by hand"]
fn cycles_reach_a_plateau() {
    let (keys, cycles) = (setting("WASMFS_SCALE", 1000), setting("WASMFS_CYCLES", 30));
    let payload = setting("WASMFS_PAYLOAD", 3000) as usize;
    let dir = dir("cycles");
    let _ = fs::remove_dir_all(&dir);
    let store = open(&dir, &Settings::default());
    for cycle in 0..cycles {
        for batch in 0..keys.div_ceil(1000) {
            let requests = (batch * 1000..keys.min(batch * 1000 + 1000)).map(|n| {
                let bytes = artifact(1, (cycle * keys + n) as u32, payload);
                Publish::new(
                    key(&format!("dir-{}/key-{n}", n % 10)),
                    store.stage(&bytes[..]).unwrap(),
                )
            });
            store.publish(requests.collect(), false).unwrap();
        }
        for n in (0..keys).filter(|n| n % 3 == cycle % 3) {
            store.remove(&key(&format!("dir-{}/key-{n}", n % 10)), None).unwrap();
        }
        let collected = collect_all(&store);
        println!(
            "cycle {cycle}: {collected} versions collected; db {:.1} MB, history {:.2} MB, objects {:.1} MB",
            size(&dir.join("db")) as f64 / 1e6,
            size(&dir.join("history")) as f64 / 1e6,
            size(&dir.join("objects")) as f64 / 1e6,
        );
    }
    drop(store);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
#[ignore = "by hand"]
fn figures() {
    let keys = setting("WASMFS_SCALE", 100_000);
    let dir = dir("keys");
    let _ = fs::remove_dir_all(&dir);
    let store = open(&dir, &Settings::default());
    let names = |n: u64| format!("dir-{:03}/key-{n:07}.cwasm", n % 10);
    let payloads: Vec<_> = (0..100).map(|n| artifact(1, n, 5_000)).collect();
    let alone = Instant::now();
    for n in 0..500 {
        publish(&store, &format!("alone/{n}"), &artifact(1, 1_000_000 + n, 20_000));
    }
    println!("alone: {:.0} a second", 500.0 / alone.elapsed().as_secs_f64());
    let start = Instant::now();
    for batch in 0..keys.div_ceil(10_000) {
        let requests = (batch * 10_000..keys.min((batch + 1) * 10_000)).map(|n| {
            Publish::new(key(&names(n)), store.stage(&payloads[n as usize % 100][..]).unwrap())
        });
        store.publish(requests.collect(), false).unwrap();
    }
    println!(
        "{keys} in batches of 10,000: {:.0} a second",
        keys as f64 / start.elapsed().as_secs_f64()
    );
    println!(
        "db {:.1} MB, history {:.1} MB, resident {:.1} MB",
        size(&dir.join("db")) as f64 / 1e6,
        size(&dir.join("history")) as f64 / 1e6,
        resident() as f64 / 1e6
    );
    lookups(&store, keys);
    let start = Instant::now();
    store.close().unwrap();
    println!("close: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
}

/// What `figures` left, opened in a process that did nothing before.
#[test]
#[ignore = "by hand"]
fn figures_of_a_fresh_process() {
    let keys = setting("WASMFS_SCALE", 100_000);
    let dir = dir("keys");
    println!("resident {:.1} MB before", resident() as f64 / 1e6);
    let start = Instant::now();
    let store = Store::open(&dir).unwrap();
    println!("open: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    println!("resident {:.1} MB", resident() as f64 / 1e6);
    lookups(&store, keys);
    if setting("WASMFS_CLOSE", 1) == 0 {
        std::process::abort();
    }
    if setting("WASMFS_COMPACT", 0) == 1 {
        let start = Instant::now();
        collect_all(&store);
        println!("a collection that finds nothing: {:.1} s", start.elapsed().as_secs_f64());
        let start = Instant::now();
        store.compact(store.last_change(), true).unwrap();
        println!(
            "compaction: {:.1} s; history {:.1} MB",
            start.elapsed().as_secs_f64(),
            size(&dir.join("history")) as f64 / 1e6
        );
    }
    store.close().unwrap();
    if setting("WASMFS_DISTRUST", 0) == 1 {
        Store::distrust_catalogue(&StoreDir::open(&dir).unwrap());
    }
}

fn lookups(store: &Store, keys: u64) {
    let mut hits = Vec::new();
    let mut misses = Vec::new();
    let mut state = 1u64;
    for _ in 0..100_000 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (state >> 33) % keys;
        let path = format!("dir-{:03}", n % 10);
        for (times, name) in
            [(&mut hits, format!("key-{n:07}.cwasm")), (&mut misses, format!("key-{n:07}.none"))]
        {
            let start = Instant::now();
            let found = store.child(View::Keys, &path, &name).unwrap();
            times.push(start.elapsed());
            assert_eq!(found.is_some(), name.ends_with("cwasm"));
        }
    }
    for (what, mut times) in [("hit", hits), ("miss", misses)] {
        times.sort();
        let at = |p: usize| times[times.len() * p / 1000].as_nanos() as f64 / 1000.0;
        println!(
            "lookup {what}: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us",
            at(500),
            at(990),
            at(999)
        );
    }
    println!("resident {:.1} MB", resident() as f64 / 1e6);
}
