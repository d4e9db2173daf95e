//! A disk that is full, or can't be written: what was published goes on being
//! served, and publishing works again as soon as it can.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use support::disk::Disk;
use support::*;
use wasmfs_store::{Error, InlineLimit, Inode, Settings, Store};

/// A file system of 64 MB in memory; taken away when it is dropped.
struct Tmpfs {
    at: PathBuf,
    _place: tempfile::TempDir,
}

impl Tmpfs {
    fn new() -> Tmpfs {
        assert!(rustix::process::geteuid().is_root(), "only root can mount a small disk");
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("at");
        fs::create_dir(&at).unwrap();
        let tmpfs = Tmpfs { at, _place: place };
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(&tmpfs.at);
        assert!(mount.status().unwrap().success());
        tmpfs
    }

    /// Fills it up to so many bytes.
    fn fill(&self, leave: u64) {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        let free = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
        let mut file = File::options().append(true).create(true).open(self.filler()).unwrap();
        let block = vec![1; 64 << 10];
        let mut left = free;
        while left > 0 {
            let n = left.min(block.len() as u64) as usize;
            if file.write_all(&block[..n]).is_err() {
                break;
            }
            left -= n as u64;
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// Whether an error says that the disk is full.
fn says_full(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut text = String::new();
    while let Some(error) = cause {
        text += &error.to_string();
        cause = error.source();
    }
    text.contains("is full") || text.contains("No space left") || text.contains("StorageFull")
}

/// Everything published so far, with its bytes.
#[derive(Default)]
struct Known(Vec<(u64, Vec<u8>)>);

impl Known {
    fn publish(&mut self, store: &Store, seed: u32, size: usize) -> Result<(), Error> {
        let bytes = artifact(1, seed, size);
        let name = format!("key-{}", seed % 3);
        let published = try_publish(store, &name, &bytes, false)?;
        self.0.push((published.version.inode.get(), bytes));
        Ok(())
    }

    fn check(&self, store: &Store, context: &str) {
        for (inode, bytes) in &self.0 {
            let read =
                read(store, Inode(*inode)).unwrap_or_else(|e| panic!("{context}: {inode}: {e}"));
            assert!(read == *bytes, "{context}: {inode}");
        }
    }
}

#[test]
fn a_full_disk_refuses_publishes_and_harms_nothing() {
    for inline_limit in
        [InlineLimit::Bytes(16 << 10), InlineLimit::Bytes(0), InlineLimit::UNLIMITED]
    {
        let settings = Settings { inline_limit, ..Settings::default() };
        let disk = Tmpfs::new();
        let dir = disk.at.join("store");
        let store = open(&dir, &settings);
        let mut known = Known::default();
        for seed in 0..6 {
            known.publish(&store, seed, [900, 15_000, 300_000][seed as usize % 3]).unwrap();
        }
        let mut seed = 100;
        let mut refused = 0;
        // From nothing to more than enough: each step of a publish is the one that fails.
        for leave in (0..24).map(|n| n * 4096).chain((0..30).map(|n| n * 700_000)) {
            disk.fill(leave);
            for size in [700, 12_000, 200_000, 2_000_000] {
                seed += 1;
                let context = format!("{leave} bytes left, {size} to publish");
                match known.publish(&store, seed, size) {
                    Ok(()) => {}
                    Err(e) => {
                        refused += 1;
                        assert!(says_full(&e), "{context}: {e:?}");
                    }
                }
                known.check(&store, &context);
                if size == 12_000 {
                    disk.fill(leave);
                }
            }
            disk.empty();
            // Without opening it again.
            seed += 1;
            known.publish(&store, seed, 20_000).unwrap_or_else(|e| panic!("after {leave}: {e:?}"));
            if known.0.len() > 12 {
                // Make room again.
                let portion = store.collectable(&Default::default(), None).unwrap();
                store.collect(&portion.candidates, portion.seen).unwrap();
                known.0.retain(|(inode, _)| store.inode(Inode(*inode)).unwrap().is_some());
            }
        }
        println!("{inline_limit:?}: {refused} refused");
        assert!(refused > 40);
        store.close().unwrap();
        let store = Store::open(&dir).unwrap();
        known.check(&store, "opened again");
    }
}

/// Somebody else fills the disk at any moment, past every check.
#[test]
fn a_disk_that_fills_up_at_any_moment_harms_nothing() {
    let disk = Tmpfs::new();
    let dir = disk.at.join("store");
    let store = open(&dir, &Settings::default());
    let mut known = Known::default();
    let (stop, filled) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                disk.fill(0);
                filled.store(true, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(3));
                disk.empty();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let (mut done, mut refused) = (0, 0);
        for seed in 0..times("WASMFS_DISK_ROUNDS", 400) as u32 {
            match known.publish(&store, seed, [800, 9_000, 60_000][seed as usize % 3]) {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
            if seed % 20 == 0 {
                for (inode, bytes) in &known.0 {
                    // A read may come while the catalogue is opened again.
                    if let Ok(read) = read(&store, Inode(*inode)) {
                        assert!(read == *bytes);
                    }
                }
                let portion = store.collectable(&Default::default(), None);
                if let Ok(portion) = portion {
                    let _ = store.collect(&portion.candidates, portion.seen);
                }
                known.0.retain(|(inode, _)| !matches!(store.inode(Inode(*inode)), Ok(None)));
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!("{done} published, {refused} refused");
        assert!(done > 20 && refused > 20);
    });
    std::thread::sleep(std::time::Duration::from_millis(1100));
    known.check(&store, "afterwards");
    known.publish(&store, 5000, 50_000).unwrap();
    drop(store);
    let store = Store::open(&dir).unwrap();
    known.check(&store, "opened again");
}

fn times(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |n| n.parse().unwrap())
}

#[test]
fn a_store_on_a_full_disk_opens() {
    for inline_limit in [InlineLimit::Bytes(16 << 10), InlineLimit::UNLIMITED] {
        let disk = Tmpfs::new();
        let dir = disk.at.join("store");
        let store = open(&dir, &Settings { inline_limit, ..Settings::default() });
        let mut known = Known::default();
        for seed in 0..6 {
            known.publish(&store, seed, [900, 15_000, 300_000][seed as usize % 3]).unwrap();
        }
        drop(store);
        for _ in 0..3 {
            // The second time there is no reserve any more.
            disk.fill(0);
            let store = Store::open(&dir).unwrap();
            known.check(&store, "opened on a full disk");
            assert!(says_full(&known.publish(&store, 99, 20_000).unwrap_err()));
            disk.fill(0);
            known.check(&store, "after a publish was refused");
            disk.empty();
            let seed = 100 + known.0.len() as u32;
            known.publish(&store, seed, 20_000).unwrap();
            drop(store);
        }
        let store = Store::open(&dir).unwrap();
        known.check(&store, "at last");
    }
}

#[test]
fn a_disk_that_turns_read_only_goes_on_being_served() {
    let disk = Disk::new();
    let dir = disk.at.join("store");
    let store = open(&dir, &Settings::default());
    let mut known = Known::default();
    for seed in 0..6 {
        known.publish(&store, seed, [900, 15_000, 300_000][seed as usize % 3]).unwrap();
    }
    disk.fail();
    let refused = |known: &mut Known, store: &Store| {
        let error = known.publish(store, 50, 100).unwrap_err();
        let Error::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
        known.check(store, "on a read-only disk");
    };
    refused(&mut known, &store);
    drop(store);
    // A server that is replaced opens it as well.
    let store = Store::open(&dir).unwrap();
    refused(&mut known, &store);
    drop(store);
    disk.unmount();
    disk.mount();
    let store = Store::open(&dir).unwrap();
    known.publish(&store, 51, 30_000).unwrap();
    known.check(&store, "written again");
}
