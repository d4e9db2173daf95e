//! Damage in any file of a store: nothing wrong is ever served, and all that
//! is undamaged can be got back.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use support::random::Random;
use support::*;
use wasmfs_store::maintenance::{Course, FindingKind, Verified, verify};
use wasmfs_store::{Error, InlineLimit, Settings, Sha, Store, StoreDir, Version};

/// Trials, if the environment doesn't ask for more.
fn trials(otherwise: u64) -> u64 {
    std::env::var("WASMFS_DAMAGE_TRIALS").map_or(otherwise, |n| n.parse().unwrap())
}

type Contents = BTreeMap<(String, Version), (Sha, Vec<u8>)>;

/// A store with some of everything, closed; and what is in it.
fn template(dir: &Path, compacted: bool) -> Contents {
    let settings = Settings { inline_limit: InlineLimit::Bytes(4 << 10), ..Settings::default() };
    let store = open(dir, &settings);
    let mut contents = Contents::new();
    for n in 0..40u32 {
        let bytes = artifact((n % 3) as u8, n, if n % 3 == 0 { 1000 } else { 9_000 * n as usize });
        let name = format!("dir-{}/key-{}", n % 2, n % 7);
        let published = publish(&store, &name, &bytes);
        let version = published.version.version;
        contents.insert((name, version), (published.version.sha256, bytes));
    }
    store.remove(&key("dir-1/key-1"), Some(Version(1))).unwrap();
    let engines = store.engines().unwrap();
    store.alias("prod", &engines[1].label).unwrap();
    store.pin(&key("dir-0/key-0"), Version(1)).unwrap();
    if compacted {
        assert!(store.compact(store.last_change(), true).unwrap().is_some());
    }
    store.close().unwrap();
    contents
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
    found.sort();
}

/// Damages one file of some kind, and says which.
fn damage(dir: &Path, random: &mut Random) -> (String, PathBuf) {
    let mut all = Vec::new();
    files(dir, &mut all);
    let kinds = [
        "history",
        "db/db",
        "db/snap",
        "db/conf",
        "objects/",
        "state.json",
        "settings.json",
        "lock",
    ];
    let kind = kinds[random.index(kinds.len())];
    let of_kind: Vec<_> = all
        .iter()
        .filter(|path| path.strip_prefix(dir).unwrap().to_string_lossy().starts_with(kind))
        .collect();
    let path = match of_kind.len() {
        0 => dir.join("history"),
        n => of_kind[random.index(n)].clone(),
    };
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1) as u64;
    let at = random.below(used) as usize;
    let what = match random.below(4) {
        0 => {
            bytes.truncate(at);
            "truncated"
        }
        1 => {
            let end = (at + 1 + random.below(3000) as usize).min(bytes.len());
            bytes[at.min(end)..end].fill(0);
            "zeroed"
        }
        2 => {
            for _ in 0..20 {
                let at = random.below(used) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            "20 bits flipped"
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
            "a bit flipped"
        }
    };
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();
    if kind == "objects/" {
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    }
    (format!("{} {what} at {at}", path.strip_prefix(dir).unwrap().display()), path)
}

/// How many versions are there with all their bytes. Anything that is not what was published is wrong.
fn check(store: &Store, contents: &Contents) -> usize {
    let mut right = 0;
    for ((name, version), (sha256, bytes)) in contents {
        let Ok(info) = store.version(&key(name), Some(*version)) else { continue };
        assert_eq!(info.sha256, *sha256, "{name}@{version}");
        match read(store, info.inode) {
            Ok(read) => {
                assert!(read == *bytes, "{name}@{version} has other bytes");
                right += 1;
            }
            Err(Error::PayloadDamaged { .. } | Error::Io { .. } | Error::Inconsistent(_)) => {}
            Err(e) => panic!("{name}@{version}: {e}"),
        }
    }
    right
}

/// The versions whose lines are left, with those of their payloads where these are kept inside.
fn intact_versions(whole: &Path, damaged: &[u8], contents: &Contents) -> Vec<(String, Version)> {
    let original = fs::read(whole.join("history")).unwrap();
    let lines = |text: &[u8]| -> BTreeSet<Vec<u8>> {
        text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (original, damaged) = (lines(&original), lines(damaged));
    let left: String =
        original.intersection(&damaged).map(|line| String::from_utf8_lossy(line)).collect();
    let is_left = |(name, version): &(String, Version), sha: &Sha, bytes: &[u8]| {
        let line = |op| format!("\"op\":\"{op}\",\"key\":\"{name}\",\"version\":{version},");
        let payload = format!("\"op\":\"payload\",\"sha256\":\"{sha}\"");
        (left.contains(&line("publish")) || left.contains(&line("version")))
            && (bytes.len() > 4 << 10 || left.contains(&payload))
    };
    contents.iter().filter(|(k, (sha, b))| is_left(k, sha, b)).map(|(k, _)| k.clone()).collect()
}

fn verified(dir: &Path, store: Result<&Store, &Error>) -> Verified {
    let mut progress = |_, _| {};
    verify(
        &StoreDir::open(dir).unwrap(),
        store,
        &mut Course { progress: &mut progress, gently: false },
    )
    .unwrap()
}

#[test]
fn nothing_wrong_is_served_and_repair_gets_back_what_is_undamaged() {
    let whole = tempfile::tempdir().unwrap();
    let wholes = [false, true].map(|compacted| {
        let dir = whole.path().join(format!("store-{compacted}"));
        let contents = template(&dir, compacted);
        (dir, contents)
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut opened, mut refused, mut restored, mut possible, mut settings_lost) = (0, 0, 0, 0, 0);
    for trial in 0..trials(80) {
        let (whole, contents) = &wholes[trial as usize % 2];
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("store");
        copy_dir(whole, &dir);
        let (what, path) = damage(&dir, &mut random);
        let untrusted = random.below(2) == 0;
        if untrusted {
            Store::distrust_catalogue(&StoreDir::open(&dir).unwrap());
        }
        let damaged = fs::read(dir.join("history")).unwrap();
        let context = format!("trial {trial}: {what}{}", if untrusted { ", no trust" } else { "" });
        let first = catch_unwind(AssertUnwindSafe(|| {
            let store = Store::open(&dir)?;
            check(&store, contents);
            Ok::<_, Error>(store)
        }));
        let found = match first {
            // A server would end and have its successor rebuild the catalogue.
            Err(_) => {
                Store::distrust_catalogue(&StoreDir::open(&dir).unwrap());
                let store = Store::open(&dir).unwrap_or_else(|e| panic!("{context}: {e}"));
                check(&store, contents);
                verified(&dir, Ok(&store))
            }
            Ok(Ok(store)) => {
                opened += 1;
                verified(&dir, Ok(&store))
            }
            Ok(Err(Error::Settings { .. } | Error::NewerFormat { .. })) => {
                settings_lost += 1;
                continue;
            }
            Ok(Err(e)) => {
                refused += 1;
                assert!(matches!(e, Error::HistoryDamaged { .. }), "{context}: {e}");
                verified(&dir, Err(&e))
            }
        };
        let mut found = found;
        if !found.is_sound() {
            wasmfs_store::maintenance::repair(&StoreDir::open(&dir).unwrap(), &mut found)
                .unwrap_or_else(|e| panic!("{context}: {e}"));
        }
        let store = Store::open(&dir).unwrap_or_else(|e| panic!("{context}, repaired: {e}"));
        let right = check(&store, contents);
        let again = verified(&dir, Ok(&store));
        let left = again.findings.iter().filter(|f| {
            !matches!(
                f.kind,
                FindingKind::PayloadMissing | FindingKind::PayloadDamaged | FindingKind::Orphan
            )
        });
        assert_eq!(left.count(), 0, "{context}: {again:#?}");
        // What one damaged file can cost.
        let is_history = path.ends_with("history");
        let inside = contents.values().filter(|(_, bytes)| bytes.len() <= 4 << 10).count();
        let objects = path.starts_with(dir.join("objects"));
        let intact = intact_versions(whole, &damaged, contents);
        let expected = match () {
            () if is_history && untrusted => intact.len(),
            () if path.starts_with(dir.join("db")) => contents.len() - inside,
            () if objects => contents.len() - 1,
            () => contents.len(),
        };
        assert!(right >= expected, "{context}: {right} of {}: {found:#?}", contents.len());
        if is_history && untrusted {
            restored += right;
            possible += contents.len();
        }
        // And it goes on: numbers are not given twice.
        let before: Vec<_> = store.latest(1000).unwrap().iter().map(|v| v.inode).collect();
        let new = publish(&store, "dir-0/key-0", &artifact(1, 4711 + trial as u32, 5000));
        assert!(!before.contains(&new.version.inode), "{context}");
        if let Err(e) = store.close() {
            panic!("{context}: {e}");
        }
    }
    println!(
        "{opened} opened, {refused} refused for their history, {settings_lost} for their settings; of damaged \
         histories without a catalogue {restored} of {possible} versions were restored"
    );
}

#[test]
fn every_flipped_byte_of_a_payload_is_refused() {
    let flips = std::env::var("WASMFS_FLIPS").map_or(500, |n| n.parse().unwrap());
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let store = open(&dir, settings);
        let bytes = artifact(1, 7, 400_000);
        let published = publish(&store, "key", &bytes);
        if settings.inline_limit == InlineLimit::UNLIMITED {
            // Inside, sled's own checksums come first: `opening.rs` has that.
            return;
        }
        // Reading this leaves nothing else in memory.
        let other = publish(&store, "other", &artifact(1, 8, 8_000_000)).version.inode;
        let hex = published.version.sha256.hex();
        let object = dir.join("objects").join(&hex[..2]).join(&hex);
        fs::set_permissions(&object, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut random = Random(0x1234_5678_9abc_def1);
        for _ in 0..flips {
            let at = random.index(bytes.len());
            let mut bad = bytes.clone();
            bad[at] ^= 1 << random.below(8);
            fs::write(&object, &bad).unwrap();
            let error = store.version(&key("key"), None).map(|v| v.inode).and_then(|inode| {
                // Another payload in between, so that nothing comes from memory.
                read(&store, other)?;
                match store.inode(inode)? {
                    Some(wasmfs_store::InodeRecord::Version(version)) => {
                        store.read(&version, at as u64 & !4095, 4096)
                    }
                    _ => panic!("no version"),
                }
            });
            assert!(matches!(error, Err(Error::PayloadDamaged { .. })), "byte {at}");
        }
        fs::write(&object, &bytes).unwrap();
    });
}
