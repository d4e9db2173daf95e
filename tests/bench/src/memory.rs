//! Memory: of many hosts with one module, and of the server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::host::Way;
use crate::module::Subject;
use crate::peers::publish;
use crate::workplace::{Workplace, drop_caches, in_page_cache, objects, succeed};

/// What some hosts with the same module take, every page of it touched.
#[derive(Clone, Debug, Serialize)]
pub struct Shared {
    pub peer: &'static str,
    pub name: String,
    pub bytes: u64,
    pub hosts: usize,
    /// What they all have in memory, without that of as many hosts that loaded nothing: pages
    /// that several share count once. In bytes.
    pub pss: i64,
    /// Of it, the pages of the module's file; of one that is read into memory of its own, all.
    pub module: i64,
    /// How often that is the module's size, with the store's own pages.
    pub copies: f64,
    /// Pages of the store's own files that are in memory besides.
    pub besides: u64,
}

pub fn measure(place: &Workplace, subject: &Subject, counts: &[usize]) -> Result<Vec<Shared>> {
    let ext4 = place.make("memory-ext4")?.join("module.cwasm");
    fs::copy(&subject.artifact, &ext4)?;
    let cache = place.make("memory-cache")?;
    let [plain, passthrough] =
        [("memory-wasmfs", &[][..]), ("memory-passthrough", &["--passthrough"])].map(
            |(name, options)| {
                let wasmfs = place.wasmfs(name)?;
                wasmfs.mount(options)?;
                publish(&wasmfs, std::slice::from_ref(subject))?;
                anyhow::Ok(wasmfs)
            },
        );
    let (plain, passthrough) = (plain?, passthrough?);
    let name = format!("{}.cwasm", subject.name);
    // Compiled once, so that the cache has it.
    end(start(Way::Cache, &subject.wasm, Some(&cache), 1)?)?;
    let mut all = Vec::new();
    for &hosts in counts {
        drop_caches()?;
        let (nothing, _) = pss_of(start(Way::Nothing, &ext4, None, hosts)?, &ext4)?;
        let mounted = |wasmfs: &crate::workplace::Wasmfs<'_>| wasmfs.mount_point().join(&name);
        // Of what is passed through the store's file is what hosts map.
        let peers = [
            Peer { name: "ext4", way: Way::Map, file: ext4.clone(), cache: None, own: vec![] },
            Peer {
                name: "wasmtime's cache",
                way: Way::Cache,
                file: subject.wasm.clone(),
                cache: Some(&cache),
                own: vec![],
            },
            Peer {
                name: "wasmfs",
                way: Way::Map,
                file: mounted(&plain),
                cache: None,
                own: objects(&plain.store())?,
            },
            Peer {
                name: "wasmfs --passthrough",
                way: Way::Map,
                file: mounted(&passthrough),
                cache: None,
                own: vec![],
            },
        ];
        for Peer { name: peer, way, file, cache, own } in peers {
            let private = if way == Way::Cache { hosts as u64 * subject.size * 2 } else { 0 };
            if private > available()? {
                eprintln!("{hosts} hosts with {peer}: left out, for want of memory");
                continue;
            }
            drop_caches()?;
            let running = start(way, &file, cache, hosts)?;
            let besides = in_page_cache(&own)?;
            let (all_of_it, of_file) = pss_of(running, &file)?;
            let pss = all_of_it - nothing;
            let module = if way == Way::Map { of_file } else { pss };
            let copies = (module as f64 + besides as f64) / subject.size as f64;
            let (name, bytes) = (subject.name.clone(), subject.size);
            all.push(Shared { peer, name, bytes, hosts, pss, module, copies, besides });
        }
    }
    Ok(all)
}

/// Memory that can be had, in bytes.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).context("MemAvailable")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// A way to the module.
struct Peer<'a> {
    name: &'static str,
    way: Way,
    file: PathBuf,
    cache: Option<&'a Path>,
    /// The store's own files, which may be in memory besides.
    own: Vec<PathBuf>,
}

/// Starts hosts, and waits until each has loaded its module.
fn start(way: Way, file: &Path, cache: Option<&Path>, count: usize) -> Result<Vec<Child>> {
    let mut running = Vec::new();
    for _ in 0..count {
        let way = clap::ValueEnum::to_possible_value(&way).context("a way")?;
        let mut host = Command::new(std::env::current_exe()?);
        host.args(["host", way.get_name()]).arg(file).args(["--touch", "--stay"]);
        if let Some(cache) = cache {
            host.arg("--cache").arg(cache);
        }
        running.push(host.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    }
    for host in &mut running {
        let mut line = String::new();
        BufReader::new(host.stdout.take().context("its output")?).read_line(&mut line)?;
        ensure!(line == "loaded\n", "a host failed");
    }
    Ok(running)
}

/// The sum of what the hosts have in memory, shared pages divided among those who share them, in
/// bytes; and of it, pages of `file`.
fn pss_of(running: Vec<Child>, file: &Path) -> Result<(i64, i64)> {
    let (mut all, mut of_file) = (0, 0);
    for host in &running {
        let text = fs::read_to_string(format!("/proc/{}/smaps", host.id()))?;
        let mut is_file = false;
        for line in text.lines() {
            // The head of a mapping ends with its path; what is said of it begins with a name.
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Pss:") => {
                    let kib: i64 = words.next().context("a number")?.parse()?;
                    all += kib * 1024;
                    of_file += if is_file { kib * 1024 } else { 0 };
                }
                Some(first) if !first.ends_with(':') => {
                    is_file = words.next_back().is_some_and(|path| Path::new(path) == file);
                }
                _ => {}
            }
        }
    }
    end(running)?;
    Ok((all, of_file))
}

fn end(running: Vec<Child>) -> Result<()> {
    for mut host in running {
        drop(host.stdin.take());
        ensure!(host.wait()?.success(), "a host failed");
    }
    Ok(())
}

/// What a server takes whose store is large.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    pub payload_bytes: u64,
    pub payloads: usize,
    pub resident_at_start: u64,
    /// After every file was read once.
    pub resident_after_reading: u64,
    pub keeper: u64,
    /// Pages of the store's payloads left in memory, of all that were read.
    pub besides: u64,
}

/// Whether there is room for all that is measured.
pub fn check_space(place: &Workplace, gigabytes: u64) -> Result<()> {
    let space = rustix::fs::statvfs(place.dir())?;
    ensure!(
        space.f_bavail * space.f_frsize > (gigabytes + 3) * 1_000_000_000,
        "{} has no room for a store of {gigabytes} GB: give less with --store-gb, or another --work",
        place.dir().display()
    );
    Ok(())
}

pub fn of_a_large_store(place: &Workplace, gigabytes: u64) -> Result<Server> {
    const PAYLOAD: u64 = 100_000_000;
    let wasmfs = place.wasmfs("large")?;
    let payloads = (gigabytes * 1_000_000_000).div_ceil(PAYLOAD).max(1) as usize;
    let artifact = crate::module::small()?;
    wasmfs.mount(&[])?;
    let file = place.dir().join("large.cwasm");
    for number in 0..payloads {
        crate::publish::write_variant(&file, &artifact, PAYLOAD as usize, number as u64)?;
        succeed(
            wasmfs.command().arg("publish").arg(&file).args(["--key", &format!("key-{number}")]),
        )?;
    }
    fs::remove_file(&file)?;
    wasmfs.unmount()?;
    wasmfs.mount(&[])?;
    drop_caches()?;
    let resident = || -> Result<u64> {
        wasmfs.status()?["worker"]["resident_bytes"].as_u64().context("its memory")
    };
    let resident_at_start = resident()?;
    for number in 0..payloads {
        std::io::copy(
            &mut fs::File::open(wasmfs.mount_point().join(format!("key-{number}")))?,
            &mut std::io::sink(),
        )?;
    }
    let keeper = wasmfs.status()?["keeper"]["pid"].as_u64().context("a keeper")?;
    let status = fs::read_to_string(format!("/proc/{keeper}/status"))?;
    let rss = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: u64 = rss.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(Server {
        payload_bytes: payloads as u64 * PAYLOAD,
        payloads,
        resident_at_start,
        resident_after_reading: resident()?,
        keeper: kib * 1024,
        besides: in_page_cache(&objects(&wasmfs.store())?)?,
    })
}
