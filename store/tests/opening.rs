//! Opening a store: whose it is, what was cut off, and what can't be trusted.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::Path;

use support::*;
use wasmfs_store::{Error, Inode, Settings, Store, Version};

/// Everything that a store tells of its names.
fn contents(store: &Store) -> String {
    let keys = store.keys("").unwrap();
    let versions: Vec<_> = keys.iter().map(|k| store.versions(&k.key).unwrap()).collect();
    format!("{keys:#?}\n{versions:#?}")
}

/// Publishes over several keys, and returns what the store says then.
fn fill(store: &Store) -> String {
    for n in 0..12u32 {
        publish(
            store,
            &format!("dir-{}/key-{}", n % 2, n % 3),
            &artifact((n % 2) as u8, n, 3000 + 9000 * n as usize),
        );
    }
    store.remove(&key("dir-1/key-1"), None).unwrap();
    store.rollback(&key("dir-0/key-0"), Some(Version(1))).unwrap();
    contents(store)
}

fn check_bytes(store: &Store) {
    for key in store.keys("").unwrap() {
        for version in store.versions(&key.key).unwrap() {
            let bytes = read(store, version.inode).unwrap();
            let same = store.stage(&bytes[..]).unwrap();
            assert_eq!(same.sha256(), version.sha256);
        }
    }
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    match Store::open(dir.path()) {
        Err(Error::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("two owners"),
    }
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn what_is_not_ones_own_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::NoStore(_))));
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    match Store::open_or_create(dir.path()) {
        Err(Error::NotAStore { found, .. }) => assert_eq!(found, "thesis.tex"),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was made a store"),
    }
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &Default::default()));
    let settings = dir.path().join("settings.json");
    fs::write(&settings, "{\"format\": 3, \"inline_limit\": {\"of\": \"another kind\"}}").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::NewerFormat { found: 3, .. })));
    fs::write(&settings, "{\"format\": 1, \"inline_limit\": \"lots\"}").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::Settings { .. })));
    fs::write(&settings, "{\"format\": 2}").unwrap();
    assert_eq!(*Store::open(dir.path()).unwrap().settings(), Settings::default());
    if rustix::process::geteuid().is_root() {
        chown(dir.path(), Some(12345), None).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(Error::WrongOwner { owner: 12345, .. })));
    }
}

#[test]
fn a_reopened_store_is_the_same() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let before = fill(&store);
        store.close().unwrap();
        for close in [true, false, true] {
            let store = open(dir.path(), settings);
            assert_eq!(contents(&store), before);
            check_bytes(&store);
            if close {
                store.close().unwrap();
            }
        }
    });
}

#[test]
fn an_unfinished_end_of_the_history_is_cut_off() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let before = fill(&store);
        store.close().unwrap();
        let path = dir.path().join("history");
        let good = fs::read(&path).unwrap();
        let last = good[..good.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        let line = &good[last..];
        let mut flipped = line.to_vec();
        flipped[30] ^= 1;
        for tail in [&line[..1], &line[..line.len() - 1], b"garbage\n", b"\0\0\0\0", &flipped] {
            OpenOptions::new().append(true).open(&path).unwrap().write_all(tail).unwrap();
            let store = open(dir.path(), settings);
            assert_eq!(contents(&store), before);
            assert_eq!(fs::read(&path).unwrap(), good);
            store.close().unwrap();
        }
    });
}

#[test]
fn damage_to_acknowledged_history_is_refused_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    fill(&store);
    store.close().unwrap();
    let path = dir.path().join("history");
    let mut bad = fs::read(&path).unwrap();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&path, &bad).unwrap();
    // As long as sled is there, the old lines aren't needed.
    Store::open(dir.path()).unwrap().close().unwrap();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::HistoryDamaged { .. })));
    assert_eq!(fs::read(&path).unwrap(), bad);
}

/// Makes the store look as if the machine had restarted without closing it.
fn forget_boot(dir: &Path) {
    fs::write(dir.join("state.json"), "{\"boot_id\": \"another\", \"closed\": false}").unwrap();
}

#[test]
fn a_catalogue_from_before_a_restart_is_rebuilt() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let before = fill(&store);
        // Everything else is still right afterwards: numbers go on where they were.
        store.close().unwrap();
        forget_boot(dir.path());
        let store = open(dir.path(), settings);
        assert_eq!(contents(&store), before);
        check_bytes(&store);
        let version = publish(&store, "dir-0/key-0", &artifact(0, 99, 100)).version;
        assert!(version.version > Version(2) && version.inode > Inode(16));
        store.close().unwrap();
        // Nothing of the old one is left.
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("db.")), "{left:?}");
    });
}

#[test]
fn a_damaged_catalogue_is_rebuilt_and_kept_aside() {
    let settings =
        Settings { inline_limit: wasmfs_store::InlineLimit::Bytes(0), ..Settings::default() };
    let mut rebuilt = 0;
    for trial in 0..20u32 {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &settings);
        let before = fill(&store);
        store.close().unwrap();
        let file = dir.path().join("db/db");
        let mut bytes = fs::read(&file).unwrap();
        match trial % 5 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.fill(0),
            _ => {
                let used = bytes.iter().rposition(|b| *b != 0).unwrap();
                for n in 0..50 {
                    let at = (trial as usize * 7919 + n * 104_729) % used;
                    bytes[at] ^= 1 << (n % 8);
                }
            }
        }
        fs::write(&file, &bytes).unwrap();
        if trial % 5 == 4 {
            // Nothing that sled can open.
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
        }
        forget_boot(dir.path());
        let store = open(dir.path(), &settings);
        assert_eq!(contents(&store), before, "trial {trial}");
        check_bytes(&store);
        let aside = fs::read_dir(dir.path()).unwrap();
        rebuilt += aside
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"))
            .count();
    }
    println!("{rebuilt} of 20 damaged catalogues could not be opened and were kept aside");
    assert_eq!(rebuilt, 4);
}

#[test]
fn a_payload_lost_with_the_catalogue_is_an_error_until_it_is_published_again() {
    let settings =
        Settings { inline_limit: wasmfs_store::InlineLimit::UNLIMITED, ..Settings::default() };
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &settings);
    let bytes = artifact(1, 1, 60_000);
    let published = publish(&store, "key", &bytes);
    store.close().unwrap();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let store = open(dir.path(), &settings);
    let inode = published.version.inode;
    assert!(matches!(read(&store, inode), Err(Error::PayloadDamaged { .. })));
    let again = publish(&store, "key", &bytes);
    assert_eq!((again.version.version, again.version.inode), (Version(1), inode));
    assert!(read(&store, inode).unwrap() == bytes);
}

/// Publishes without end, and prints each acknowledgment: to be killed.
#[test]
fn a_store_of_format_1_stays_one_until_something_new_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("settings.json");
    let store = open(dir.path(), &Default::default());
    publish(&store, "key", &artifact(1, 1, 100_000));
    publish(&store, "key", &artifact(1, 2, 100_000));
    store.close().unwrap();
    fs::write(&settings, "{\"format\": 1}").unwrap();
    let store = open(dir.path(), &Default::default());
    publish(&store, "other", &artifact(1, 1, 100_000));
    store.rollback(&key("key"), None).unwrap();
    assert!(fs::read_to_string(&settings).unwrap().contains("\"format\": 1"));
    publish(&store, "key", &artifact(1, 3, 100_000));
    assert!(fs::read_to_string(&settings).unwrap().contains("\"format\": 2"));
}

#[test]
fn a_flipped_bit_inside_sled_is_an_error_and_never_data() {
    let settings =
        Settings { inline_limit: wasmfs_store::InlineLimit::UNLIMITED, ..Settings::default() };
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &settings);
    let bytes = artifact(1, 1, 400_000);
    let inode = publish(&store, "key", &bytes).version.inode;
    let sha256 = store.versions(&key("key")).unwrap()[0].sha256;
    store.close().unwrap();
    // Block 5 is chunks 40 to 47 of 4 KiB.
    let db = sled::open(dir.path().join("db")).unwrap();
    let chunk = [&b"c"[..], &sha256.0, &40u32.to_be_bytes()].concat();
    let mut damaged = db.get(&chunk).unwrap().unwrap().to_vec();
    damaged[99] ^= 4;
    db.insert(chunk, damaged).unwrap();
    drop(db);
    let store = open(dir.path(), &settings);
    let Some(wasmfs_store::InodeRecord::Version(version)) = store.inode(inode).unwrap() else {
        panic!("no version");
    };
    const BLOCK_SIZE: usize = 32 << 10;
    for (block, right) in bytes.chunks(BLOCK_SIZE).enumerate() {
        let read = store.read(&version, (block * BLOCK_SIZE) as u64, BLOCK_SIZE);
        match (block, read) {
            (5, Err(Error::PayloadDamaged { reason, .. })) => {
                assert!(reason.contains("byte 163840 "), "{reason}");
            }
            (5, other) => panic!("{other:?}"),
            (_, read) => assert!(read.unwrap() == right),
        }
    }
}

#[test]
fn an_interrupted_rebuild_leaves_the_catalogue_untrusted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let before = fill(&store);
    store.close().unwrap();
    forget_boot(dir.path());
    // The rebuild fails: its place can't be made.
    fs::write(dir.path().join("db.new"), "in the way").unwrap();
    assert!(Store::open(dir.path()).is_err());
    let state = fs::read_to_string(dir.path().join("state.json")).unwrap();
    assert!(state.contains("\"boot_id\": null") && state.contains("\"closed\": false"), "{state}");
    fs::remove_file(dir.path().join("db.new")).unwrap();
    assert_eq!(contents(&open(dir.path(), &Default::default())), before);
}

#[test]
fn what_the_catalogue_proves_to_have_been_acknowledged_is_never_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let before = fill(&store);
    store.close().unwrap();
    let path = dir.path().join("history");
    let good = fs::read(&path).unwrap();
    let last = good[..good.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let mut flipped = good.clone();
    flipped[last + 40] ^= 1;
    for bad in [&flipped[..], &good[..last], &good[..last + 20], b""] {
        fs::write(&path, bad).unwrap();
        match Store::open(dir.path()) {
            Err(Error::HistoryDamaged { reason, .. }) => {
                assert!(reason.contains("was acknowledged"));
            }
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("it was opened"),
        }
        assert_eq!(fs::read(&path).unwrap(), bad);
        fs::write(&path, &good).unwrap();
        assert_eq!(contents(&open(dir.path(), &Default::default())), before);
    }
}

#[test]
fn a_line_of_a_newer_wasmfs_is_not_cut_off() {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    fill(&store);
    store.close().unwrap();
    let path = dir.path().join("history");
    let mut history = fs::read(&path).unwrap();
    let seq = history.iter().filter(|b| **b == b'\n').count();
    let entry = format!("{{\"seq\":{},\"after\":{seq},\"time\":1,\"op\":\"teleport\"}}", seq + 1);
    let sum: String = Sha256::digest(&entry)[..8].iter().map(|b| format!("{b:02x}")).collect();
    history.extend(format!("{{\"sum\":\"{sum}\",\"entry\":{entry}}}\n").bytes());
    fs::write(&path, &history).unwrap();
    match Store::open(dir.path()) {
        Err(Error::HistoryDamaged { reason, .. }) => assert!(reason.contains("a newer wasmfs")),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was opened"),
    }
    assert_eq!(fs::read(&path).unwrap(), history);
}

#[test]
fn a_catalogue_that_failed_while_it_was_open_is_rebuilt_by_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let before = fill(&store);
    let inode = store.latest(1).unwrap()[0].inode;
    store.close().unwrap();
    let db = sled::open(dir.path().join("db")).unwrap();
    // The block that the inode's record is in: see `catalogue/packed.rs`.
    let (block, _) =
        db.get_lt([&b"\x01i"[..], &inode.next().get().to_be_bytes()].concat()).unwrap().unwrap();
    db.insert(block, &b"\xff\xff\xff"[..]).unwrap();
    drop(db);
    let store = open(dir.path(), &Default::default());
    assert!(matches!(store.inode(inode), Err(Error::Inconsistent(_))));
    store.close().unwrap();
    let store = open(dir.path(), &Default::default());
    assert_eq!(contents(&store), before);
}
