//! How long a module takes to load, warm and cold.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::module::{self, Subject};
use crate::peers::{BASE, OTHER, Peer, Peers, TMPFS, WRITTEN, write_again};
use crate::stats::Times;
use crate::workplace::{Workplace, drop_caches, go_on, objects};

/// What is done with a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// Loaded, everything in memory.
    Warm,
    /// Loaded, instantiated, and called for the first time.
    WarmCall,
    /// Loaded, and a byte of every page read.
    WarmTouch,
    /// Loaded and called, nothing in memory.
    Cold,
    /// The same, by a worker that has just been started.
    ColdStart,
    /// The same, from a mount that has just been made.
    FirstOpen,
}

impl Case {
    pub const ALL: [Case; 6] =
        [Case::Warm, Case::WarmCall, Case::WarmTouch, Case::Cold, Case::ColdStart, Case::FirstOpen];

    pub fn title(self) -> &'static str {
        match self {
            Case::Warm => "Warm: load",
            Case::WarmCall => "Warm: load, instantiate, first call",
            Case::WarmTouch => "Warm: load, every page touched",
            Case::Cold => "Cold: page cache dropped, then load, instantiate, first call",
            Case::ColdStart => "The same, of a worker that was just started",
            Case::FirstOpen => "The same, of a mount that was just made",
        }
    }

    fn is_cold(self) -> bool {
        matches!(self, Case::Cold | Case::ColdStart | Case::FirstOpen)
    }
}

/// All that was measured with one module.
#[derive(Clone, Debug, Serialize)]
pub struct Loads {
    pub module: String,
    pub bytes: u64,
    /// By case and peer.
    pub times: BTreeMap<Case, BTreeMap<&'static str, Times>>,
}

pub fn measure(place: &Workplace, subjects: &[Subject], rounds: f64) -> Result<Vec<Loads>> {
    let peers = Peers::new(place, subjects)?;
    let mut all = Vec::new();
    for subject in subjects {
        let mut times = BTreeMap::new();
        for case in Case::ALL {
            eprintln!("{}: {}", subject.name, case.title());
            let count = match (case.is_cold(), subject.size) {
                (true, _) => 9.0,
                (false, ..4_000_000) => 300.0,
                (false, ..40_000_000) => 60.0,
                (false, _) => 20.0,
            };
            let count = ((count * rounds).round() as usize).max(1);
            times.insert(case, measure_case(&peers, subject, case, count)?);
        }
        all.push(Loads { module: subject.name.clone(), bytes: subject.size, times });
    }
    Ok(all)
}

fn measure_case(
    peers: &Peers<'_>,
    subject: &Subject,
    case: Case,
    rounds: usize,
) -> Result<BTreeMap<&'static str, Times>> {
    let takes_part = |peer: &&Peer| match case {
        Case::Cold => peer.has_disk,
        Case::ColdStart => peer.name == BASE || peer.has_disk && peers.store_of(peer).is_some(),
        Case::FirstOpen => peer.name == BASE || peers.store_of(peer).is_some(),
        _ => true,
    };
    let taking_part: Vec<&Peer> = peers.all.iter().filter(takes_part).collect();
    if !case.is_cold() {
        warm(peers, &taking_part, subject)?;
    }
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); taking_part.len()];
    let mut order: Vec<usize> = (0..taking_part.len()).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..rounds {
        // What came before leaves its traces in the processor's caches: not always the same.
        shuffle(&mut order, &mut random);
        for &index in &order {
            let (Some(peer), Some(times)) = (taking_part.get(index), times.get_mut(index)) else {
                continue;
            };
            go_on()?;
            if let Some(wasmfs) = peers.store_of(peer) {
                match case {
                    Case::Cold => read_here_and_there(&wasmfs.mount_point().join(OTHER))?,
                    Case::ColdStart => wasmfs.replace_worker()?,
                    Case::FirstOpen => wasmfs.mount_again()?,
                    _ => {}
                }
            }
            if case.is_cold() {
                drop_caches()?;
            }
            let start = Instant::now();
            let module = peer.load(subject)?.context("a module")?;
            match case {
                Case::Warm => {}
                Case::WarmTouch => {
                    std::hint::black_box(module::touch(&module));
                }
                Case::WarmCall | Case::Cold | Case::ColdStart | Case::FirstOpen => {
                    module::call(&module, &subject.name)?;
                }
            }
            times.push(start.elapsed());
            drop(module);
        }
    }
    Ok(taking_part.iter().zip(&times).map(|(peer, times)| (peer.name, Times::of(times))).collect())
}

fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}

/// Brings everything into memory as it is after a restart: read in because a host touched it. But
/// for files that are always in memory, or were just written.
fn warm(peers: &Peers<'_>, taking_part: &[&Peer], subject: &Subject) -> Result<()> {
    rustix::fs::sync();
    for peer in taking_part {
        let file = peer.file(subject);
        if [WRITTEN, TMPFS].contains(&peer.name) {
            write_again(file.parent().unwrap_or(&file), subject)?;
        } else {
            // One by one: dropping all caches marks pages of tmpfs and of memory files, which the
            // kernel then maps one at a time (PG_reclaim is PG_readahead, mm/filemap.c).
            drop_pages(&file)?;
            if let Some(wasmfs) = peers.store_of(peer) {
                objects(&wasmfs.store())?.iter().try_for_each(|object| drop_pages(object))?;
            }
        }
        let module = peer.load(subject)?.context("a module")?;
        std::hint::black_box(module::touch(&module));
        module::call(&module, &subject.name)?;
    }
    Ok(())
}

/// Reads parts of more blocks than a worker keeps: what it has still of others it forgets.
fn read_here_and_there(file: &Path) -> Result<()> {
    let file = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    fadvise(&file, 0, None, Advice::Random)?;
    for at in (0..file.metadata()?.len()).step_by(64 << 10) {
        file.read_at(&mut [0; 4096], at)?;
    }
    Ok(())
}

fn drop_pages(file: &Path) -> Result<()> {
    let file = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}
