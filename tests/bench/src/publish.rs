//! Publishing, beside the least that makes a file durable.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::module::{self, Subject};
use crate::stats::Times;
use crate::workplace::{Workplace, succeed};

/// Small modules in a batch.
const BATCH: u64 = 2_000;

/// What publishing takes.
#[derive(Clone, Debug, Serialize)]
pub struct Publishing {
    pub alone: Vec<Alone>,
    pub batch: Batch,
}

/// One at a time.
#[derive(Clone, Debug, Serialize)]
pub struct Alone {
    pub module: String,
    pub bytes: u64,
    pub times: BTreeMap<&'static str, Times>,
}

/// Many small modules at once.
#[derive(Clone, Debug, Serialize)]
pub struct Batch {
    pub modules: u64,
    pub bytes_each: u64,
    /// How many a second.
    pub rates: BTreeMap<&'static str, f64>,
}

/// Writes an artifact followed by bytes that are nobody's, up to `len`: other bytes for each seed.
pub fn write_variant(path: &Path, artifact: &[u8], len: usize, seed: u64) -> Result<()> {
    let mut bytes = artifact.to_vec();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len.max(artifact.len() + 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    Ok(fs::write(path, bytes)?)
}

/// Writes, syncs, renames, and syncs the directory.
fn place_durably(bytes: &[u8], target: &Path) -> Result<()> {
    let temporary = target.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, target)?;
    if let Some(dir) = target.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

pub fn measure(place: &Workplace, subjects: &[Subject], rounds: f64) -> Result<Publishing> {
    let wasmfs = place.wasmfs("publish")?;
    wasmfs.mount(&[])?;
    let dir = place.make("publish-peers")?;
    let small = module::small()?;
    let mut artifacts = vec![("a function".to_owned(), small.clone())];
    for subject in subjects {
        artifacts.push((subject.name.clone(), fs::read(&subject.artifact)?));
    }
    let mut alone = Vec::new();
    let mut seed = 0;
    for (name, artifact) in artifacts {
        eprintln!("publish {name}");
        let count = if artifact.len() < 4_000_000 { 30.0 } else { 7.0 };
        let mut times: BTreeMap<&'static str, Vec<_>> = BTreeMap::new();
        for _ in 0..((count * rounds) as usize).max(1) {
            seed += 1;
            let source = dir.join("source.cwasm");
            write_variant(&source, &artifact, artifact.len(), seed)?;
            // On the disk and at rest: `publish` waits for what was written a moment ago.
            File::open(&source)?.sync_all()?;
            std::thread::sleep(Duration::from_millis(30));
            let mut time = |peer, action: &mut dyn FnMut() -> Result<()>| {
                rustix::fs::sync();
                let start = Instant::now();
                action()?;
                times.entry(peer).or_default().push(start.elapsed());
                anyhow::Ok(())
            };
            time("write + fsync + rename", &mut || {
                place_durably(&fs::read(&source)?, &dir.join("durable.cwasm"))
            })?;
            let target = dir.join("copied.cwasm");
            time("cp", &mut || succeed(Command::new("cp").arg(&source).arg(&target)).map(drop))?;
            // A command that makes durable what it writes, in place of a few system calls.
            time("dd conv=fsync", &mut || {
                let (from, to) = (source.display(), target.display());
                let arguments = [format!("if={from}"), format!("of={to}")];
                let mut dd = Command::new("dd");
                succeed(dd.args(arguments).args(["bs=1M", "conv=fsync"])).map(drop)
            })?;
            time("wasmfs publish", &mut || {
                succeed(wasmfs.command().arg("publish").arg(&source).args(["--key", &name]))
                    .map(drop)
            })?;
        }
        let times = times.iter().map(|(peer, times)| (*peer, Times::of(times))).collect();
        alone.push(Alone { module: name, bytes: artifact.len() as u64, times });
    }
    let sources = place.make("batch")?;
    for number in 0..BATCH {
        let path = sources.join(format!("module-{number:05}.cwasm"));
        write_variant(&path, &small, small.len(), 1_000_000 + number)?;
    }
    let mut rates = BTreeMap::new();
    let mut rate = |peer, action: &mut dyn FnMut() -> Result<()>| {
        rustix::fs::sync();
        let start = Instant::now();
        action()?;
        rates.insert(peer, BATCH as f64 / start.elapsed().as_secs_f64());
        anyhow::Ok(())
    };
    rate("write + fsync + rename", &mut || {
        for source in fs::read_dir(&sources)? {
            let source = source?.path();
            let target = dir.join(source.file_name().unwrap_or_default());
            place_durably(&fs::read(&source)?, &target)?;
        }
        Ok(())
    })?;
    rate("cp -r", &mut || {
        succeed(Command::new("cp").arg("-r").arg(&sources).arg(dir.join("all"))).map(drop)
    })?;
    rate("wasmfs import", &mut || {
        succeed(wasmfs.command().arg("import").arg(&sources).args(["--prefix", "batch"])).map(drop)
    })?;
    let bytes_each = small.len() as u64 + 8;
    Ok(Publishing { alone, batch: Batch { modules: BATCH, bytes_each, rates } })
}
