//! Many names: the first answer, lookups, listings.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use wasmfs_store::{Key, Publish, Store};

use crate::module;
use crate::stats::Times;
use crate::workplace::{Workplace, drop_caches, succeed};

/// Keys in one directory of a large store; and in a commit, whose uploads wait in memory.
const DIRECTORY: u64 = 100_000;
const COMMIT: u64 = 4_000;
/// Names that are looked up.
const LOOKUPS: u64 = 10_000;

/// What was measured with so many keys.
#[derive(Clone, Debug, Serialize)]
pub struct Names {
    pub keys: u64,
    /// How many were published a second, in batches of 4,000.
    pub publish_rate: f64,
    /// From `wasmfs mount` to the first answer, everything on the disk, in milliseconds.
    pub first_answer_ms: f64,
    /// `stat` of names that nobody has asked for, each a request.
    pub hit: Times,
    pub miss: Times,
    /// How many names the directory has that is listed.
    pub listed: u64,
    /// `ls` of it, the first time and again, in milliseconds.
    pub first_ls_ms: f64,
    pub ls_ms: f64,
    /// `find` of everything, in milliseconds.
    pub find_ms: f64,
    /// The server's memory after all that, in bytes.
    pub resident: u64,
}

fn name(number: u64) -> String {
    format!("dir-{}/key-{number:07}.cwasm", number / DIRECTORY)
}

pub fn measure(place: &Workplace, counts: &[u64]) -> Result<Vec<Names>> {
    counts.iter().map(|&keys| measure_one(place, keys)).collect()
}

fn measure_one(place: &Workplace, keys: u64) -> Result<Names> {
    eprintln!("{keys} names");
    let wasmfs = place.wasmfs(&format!("names-{keys}"))?;
    let artifact = module::small()?;
    let store = Store::open_or_create(&wasmfs.store())?;
    let start = Instant::now();
    for from in (0..keys).step_by(COMMIT as usize) {
        let batch = (from..keys.min(from + COMMIT)).map(|number| {
            let key = Key::new(name(number)).context("a key")?;
            Ok(Publish::new(key, store.stage(&artifact[..])?))
        });
        store.publish(batch.collect::<Result<_>>()?, false)?;
    }
    let publish_rate = keys as f64 / start.elapsed().as_secs_f64();
    store.close()?;
    drop_caches()?;
    let start = Instant::now();
    wasmfs.mount(&[])?;
    let mounted = |number| wasmfs.mount_point().join(name(number));
    fs::metadata(mounted(keys / 2)).context("the first answer")?;
    let first_answer_ms = milliseconds(start);
    // Spread over all of them, and each once.
    let step = (keys / LOOKUPS).max(1);
    let hit = time_each((0..LOOKUPS.min(keys)).map(|n| mounted(n * step)), true)?;
    let miss = (0..LOOKUPS.min(keys)).map(|n| mounted(n * step).with_extension("absent"));
    let miss = time_each(miss, false)?;
    let listed = keys.min(DIRECTORY);
    let directory = wasmfs.mount_point().join("dir-0");
    let list = || -> Result<f64> {
        let start = Instant::now();
        let text = succeed(Command::new("ls").arg(&directory))?;
        anyhow::ensure!(text.lines().count() as u64 == listed, "ls shows something else");
        Ok(milliseconds(start))
    };
    let first_ls_ms = list()?;
    let ls_ms = list()?;
    let start = Instant::now();
    let mut find = Command::new("find");
    let found = succeed(find.arg(wasmfs.mount_point()).args(["-type", "f", "-printf", "."]))?;
    anyhow::ensure!(found.len() as u64 == keys, "find finds something else");
    let find_ms = milliseconds(start);
    let resident = wasmfs.status()?["worker"]["resident_bytes"].as_u64().context("its memory")?;
    wasmfs.unmount()?;
    fs::remove_dir_all(wasmfs.store())?;
    Ok(Names {
        keys,
        publish_rate,
        first_answer_ms,
        hit,
        miss,
        listed,
        first_ls_ms,
        ls_ms,
        find_ms,
        resident,
    })
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn time_each(paths: impl Iterator<Item = PathBuf>, there: bool) -> Result<Times> {
    let mut times: Vec<Duration> = Vec::new();
    for path in paths {
        let start = Instant::now();
        let found = fs::symlink_metadata(&path).is_ok();
        times.push(start.elapsed());
        anyhow::ensure!(found == there, "{}: found: {found}", path.display());
    }
    Ok(Times::of(&times))
}
