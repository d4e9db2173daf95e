//! Kills and power cuts: what was acknowledged is there.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::disk::{self, Disk};
use support::*;
use wasmfs_store::maintenance::{Course, verify};
use wasmfs_store::{Error, Policy, Settings, Store, Version};

/// How often, if the environment doesn't say otherwise.
fn times(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |n| n.parse().unwrap())
}

/// Publishes, collects and compacts until it is killed, and says what was done.
#[test]
#[ignore = "run by the others"]
fn publish_for_ever() {
    let store = Store::open(Path::new(&std::env::var("WASMFS_CRASH_DIR").unwrap())).unwrap();
    let tidy = std::env::var("WASMFS_CRASH_TIDY").is_ok();
    let start = store.latest(1).unwrap().first().map_or(0, |v| v.inode.get() as u32);
    for n in start.. {
        let size = [500, 20_000, 200_000][n as usize % 3];
        let published = publish(&store, &format!("key-{}", n % 5), &artifact(1, n, size));
        println!("ack {} {} {n} {size}", published.version.key, published.version.version);
        if tidy && n % 7 == 0 {
            let portion = store.collectable(&Policy::default(), None).unwrap();
            store.collect(&portion.candidates, portion.seen).unwrap();
        }
        if tidy && n % 11 == 0 {
            store.collect_orphans().unwrap();
            store.compact(store.last_change(), true).unwrap();
        }
    }
}

/// What was acknowledged: key, version, seed and size.
type Acknowledged = Vec<(String, u64, u32, usize)>;

fn publisher(dir: &Path, log: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--nocapture", "--exact", "publish_for_ever"])
        .env("WASMFS_CRASH_DIR", dir)
        .stdout(fs::File::create(log).unwrap())
        .stderr(Stdio::null());
    command
}

fn read_log(log: &Path) -> Acknowledged {
    let text = fs::read_to_string(log).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_once("ack ")?.1.split(' ').collect();
        let number = |n: usize| fields[n].parse::<u64>().unwrap();
        Some((fields[0].to_owned(), number(1), number(2) as u32, number(3) as usize))
    };
    whole.lines().filter_map(parse).collect()
}

/// How many acknowledged versions are lost. One that is there and wrong is an error.
fn lost(store: &Store, acknowledged: &Acknowledged, tidied: bool) -> usize {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, version, ..) in acknowledged {
        newest.insert(name, *version);
    }
    let mut lost = 0;
    for (name, version, seed, size) in acknowledged {
        match store.version(&key(name), Some(Version(*version))) {
            Ok(info) => match read(store, info.inode) {
                Ok(bytes) => assert!(bytes == artifact(1, *seed, *size), "{name}@{version}"),
                Err(_) => lost += 1,
            },
            Err(Error::NoVersion { .. }) if tidied && newest[name.as_str()] > *version => {}
            Err(Error::NoVersion { .. } | Error::NoKey(_)) => lost += 1,
            Err(e) => panic!("{name}@{version}: {e}"),
        }
    }
    lost
}

#[test]
fn a_killed_publisher_loses_nothing_acknowledged() {
    let kills = times("WASMFS_KILLS", 13);
    with_both_limits(|settings| {
        for tidied in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let log = tempfile::NamedTempFile::new().unwrap();
            open(dir.path(), settings).close().unwrap();
            let mut acknowledged = Acknowledged::new();
            for trial in 0..kills {
                let mut command = publisher(dir.path(), log.path());
                if tidied {
                    command.env("WASMFS_CRASH_TIDY", "1");
                }
                let mut child = command.spawn().unwrap();
                std::thread::sleep(Duration::from_millis(60 + trial * 13 % 90));
                child.kill().unwrap();
                child.wait().unwrap();
                let new = read_log(log.path());
                let store = Store::open(dir.path()).unwrap();
                assert_eq!(lost(&store, &new, tidied), 0, "kill {trial}");
                acknowledged.extend(new);
            }
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(lost(&store, &acknowledged, tidied), 0);
            let mut progress = |_, _| {};
            let mut course = Course { progress: &mut progress, gently: false };
            let verified = verify(store.open_dir(), Ok(&store), &mut course).unwrap();
            assert!(verified.is_sound(), "{verified:#?}");
            println!("{} acknowledgments, {kills} kills, tidied: {tidied}", acknowledged.len());
            assert!(acknowledged.len() as u64 > kills);
        }
    });
}

/// Publishes until the power is cut, so many times; how many acknowledgments there were, and
/// how many of them were lost. `preload` is loaded into the publisher.
fn cut_power(settings: &Settings, cuts: u64, preload: Option<&Path>) -> (usize, usize) {
    let (mut total, mut total_lost) = (0, 0);
    let disk = Disk::new();
    let log = tempfile::NamedTempFile::new().unwrap();
    for cut in 0..cuts {
        let dir = disk.at.join(format!("store-{cut}"));
        open(&dir, settings).close().unwrap();
        let mut command = publisher(&dir, log.path());
        if let Some(preload) = preload {
            command.env("LD_PRELOAD", preload);
        }
        if cut % 3 == 2 {
            command.env("WASMFS_CRASH_TIDY", "1");
        }
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(90 + cut * 37 % 160));
        disk.cut_power();
        child.kill().unwrap();
        child.wait().unwrap();
        disk.unmount();
        disk.mount();
        let acknowledged = read_log(log.path());
        // The machine would have another number for its new run.
        let state = dir.join("state.json");
        if state.exists() {
            let text = fs::read_to_string(&state).unwrap();
            let rest = text.split_once("closed").map_or("closed\": false}", |(_, rest)| rest);
            let closed = rest.contains("true");
            fs::write(&state, format!("{{\"boot_id\": \"another\", \"closed\": {closed}}}"))
                .unwrap();
        }
        total += acknowledged.len();
        match Store::open(&dir) {
            Ok(store) => total_lost += lost(&store, &acknowledged, cut % 3 == 2),
            Err(e) if preload.is_some() => {
                println!("cut {cut}: {e}");
                total_lost += acknowledged.len();
            }
            Err(e) => panic!("cut {cut}: {e}"),
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    (total, total_lost)
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    with_both_limits(|settings| {
        let (acknowledged, lost) = cut_power(settings, times("WASMFS_POWER_CUTS", 8), None);
        println!("{acknowledged} acknowledgments, {lost} lost");
        assert_eq!(lost, 0);
        assert!(acknowledged > 8);
    });
}

/// The test above would notice: without fsync much is lost.
#[test]
fn without_fsync_a_power_cut_loses_what_was_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    let (source, shim) = (place.path().join("shim.c"), place.path().join("shim.so"));
    fs::write(&source, "int fsync(int f) { return 0; }\nint fdatasync(int f) { return 0; }\n")
        .unwrap();
    disk::run("cc", &["-shared", "-fPIC", "-o", shim.to_str().unwrap(), source.to_str().unwrap()]);
    let (acknowledged, lost) = cut_power(&Settings::default(), 3, Some(&shim));
    println!("{acknowledged} acknowledgments, {lost} lost without fsync");
    assert!(lost > 0);
}
