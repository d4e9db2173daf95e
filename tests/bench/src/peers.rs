//! What wasmfs is compared with: the same files, by other ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use wasmtime::{Engine, Module};

use crate::host::{Way, cached_engine, load};
use crate::module::{self, Subject};
use crate::publish::write_variant;
use crate::workplace::{Wasmfs, Workplace, go_on, succeed};

/// One way to a module.
pub struct Peer {
    pub name: &'static str,
    way: Way,
    engine: Engine,
    /// Where its files are; of the cache, nowhere in particular.
    dir: Option<PathBuf>,
    /// Whether it can be cold: what is in tmpfs is always in memory.
    pub has_disk: bool,
}

impl Peer {
    /// The file that a host loads.
    pub fn file(&self, subject: &Subject) -> PathBuf {
        match &self.dir {
            Some(dir) => dir.join(format!("{}.cwasm", subject.name)),
            None => subject.wasm.clone(),
        }
    }

    pub fn load(&self, subject: &Subject) -> Result<Option<Module>> {
        load(&self.engine, self.way, &self.file(subject))
    }
}

/// Every peer, with the modules of a run; ext4 first, which the others are compared with.
pub struct Peers<'a> {
    pub all: Vec<Peer>,
    pub wasmfs: Vec<Wasmfs<'a>>,
    images: Vec<PathBuf>,
    tmpfs: PathBuf,
}

/// `EXT4_SUPER_MAGIC` (linux/magic.h).
const EXT4: rustix::fs::FsWord = 0xef53;
/// A file of every mount of wasmfs that is none of the modules, of more blocks than a worker keeps.
pub const OTHER: &str = "other.cwasm";
const OTHER_BYTES: usize = 6 << 20;
/// The first of [`Peers::all`].
pub const BASE: &str = "ext4";
/// ext4 whose pages are those that somebody wrote a moment ago.
pub const WRITTEN: &str = "ext4, just written";
pub const TMPFS: &str = "tmpfs";
pub const PLAIN: &str = "wasmfs";
pub const PASSTHROUGH: &str = "wasmfs --passthrough";
pub const IN_MEMORY: &str = "wasmfs --in-memory --passthrough";

impl<'a> Peers<'a> {
    pub fn new(place: &'a Workplace, subjects: &[Subject]) -> Result<Peers<'a>> {
        let fs_type = rustix::fs::statfs(place.dir())?.f_type;
        ensure!(fs_type == EXT4, "{} is not on ext4: give another --work", place.dir().display());
        let base = copies(place.make("ext4")?, subjects)?;
        let written = copies(place.make("ext4-written")?, subjects)?;
        let tmpfs = tempfile::Builder::new().prefix("wasmfs-bench-").tempdir_in("/dev/shm")?.keep();
        let mut peers = Peers { all: Vec::new(), wasmfs: Vec::new(), images: Vec::new(), tmpfs };
        let engine = module::engine()?;
        let map = |name, dir: PathBuf, has_disk| Peer {
            name,
            way: Way::Map,
            engine: engine.clone(),
            dir: Some(dir),
            has_disk,
        };
        peers.all.push(map(BASE, base.clone(), true));
        peers.all.push(map(WRITTEN, written, false));
        copies(peers.tmpfs.clone(), subjects)?;
        peers.all.push(map(TMPFS, peers.tmpfs.clone(), false));
        for (name, make) in [("EROFS", "mkfs.erofs"), ("SquashFS", "mksquashfs")] {
            let image = place.dir().join(format!("{make}.image"));
            let mount_point = place.make(&format!("{make}.mount"))?;
            let mounted = match make {
                "mkfs.erofs" => succeed(Command::new(make).arg(&image).arg(&base)),
                _ => succeed(Command::new(make).arg(&base).arg(&image).arg("-quiet")),
            };
            let mut mount = Command::new("mount");
            mount.args(["-o", "loop,ro"]).arg(&image).arg(&mount_point);
            if let Err(e) = mounted.and_then(|_| succeed(&mut mount)) {
                go_on()?;
                eprintln!("{name}: left out: {e}");
                continue;
            }
            peers.images.push(mount_point.clone());
            peers.all.push(map(name, mount_point, true));
        }
        let cached = cached_engine(&place.make("cache")?)?;
        let cache = Peer {
            name: "wasmtime's cache",
            way: Way::Cache,
            engine: cached,
            dir: None,
            has_disk: true,
        };
        for subject in subjects {
            // The first time it compiles.
            cache.load(subject)?;
        }
        peers.all.push(cache);
        peers.all.push(Peer {
            name: "read + deserialize",
            way: Way::Read,
            engine: engine.clone(),
            dir: Some(copies(place.make("ext4-read")?, subjects)?),
            has_disk: true,
        });
        let ways: [(&str, &[&str]); 3] = [
            (PLAIN, &[]),
            (PASSTHROUGH, &["--passthrough"]),
            (IN_MEMORY, &["--in-memory", "--passthrough"]),
        ];
        for (number, (name, options)) in ways.into_iter().enumerate() {
            let wasmfs = place.wasmfs(&format!("wasmfs-{number}"))?;
            if let Err(e) = wasmfs.mount(options) {
                go_on()?;
                eprintln!("{name}: left out: {e}");
                continue;
            }
            publish(&wasmfs, subjects)?;
            let other = place.dir().join(OTHER);
            write_variant(&other, &module::small()?, OTHER_BYTES, 0)?;
            succeed(wasmfs.command().arg("publish").arg(&other))?;
            peers.all.push(map(name, wasmfs.mount_point(), name != IN_MEMORY));
            peers.wasmfs.push(wasmfs);
        }
        Ok(peers)
    }

    /// The store of a peer, if it is wasmfs.
    pub fn store_of(&self, peer: &Peer) -> Option<&Wasmfs<'a>> {
        self.wasmfs.iter().find(|wasmfs| Some(wasmfs.mount_point()) == peer.dir)
    }
}

pub fn publish(wasmfs: &Wasmfs<'_>, subjects: &[Subject]) -> Result<()> {
    let artifacts = subjects.iter().map(|subject| &subject.artifact);
    succeed(wasmfs.command().arg("publish").args(artifacts)).map(drop)
}

fn copies(dir: PathBuf, subjects: &[Subject]) -> Result<PathBuf> {
    for subject in subjects {
        write_again(&dir, subject)?;
    }
    Ok(dir)
}

/// Puts a copy of the artifact in `dir`, in one write as a host would.
pub fn write_again(dir: &Path, subject: &Subject) -> Result<()> {
    fs::write(dir.join(format!("{}.cwasm", subject.name)), fs::read(&subject.artifact)?)?;
    Ok(())
}

impl Drop for Peers<'_> {
    fn drop(&mut self) {
        for image in &self.images {
            let _ = Command::new("umount").arg("-l").arg(image).status();
        }
        let _ = fs::remove_dir_all(&self.tmpfs);
    }
}
