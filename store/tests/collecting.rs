//! What is given up, and what is not though sled says so.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::path::Path;
use std::time::Duration;

use support::*;
use wasmfs_store::{Error, Fate, Policy, Settings, Store, Version};

fn fates(store: &Store, policy: &Policy) -> Vec<Fate> {
    store.fates(&key("key"), policy).unwrap().into_iter().map(|c| c.fate).collect()
}

#[test]
fn a_version_is_as_old_as_what_took_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    for n in 1..=2 {
        publish(&store, "key", &artifact(1, n, 1000));
    }
    // The second never took the first one's place for long.
    store.remove(&key("key"), Some(Version(2))).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    publish(&store, "key", &artifact(1, 3, 1000));
    let policy = Policy { older_than: Duration::from_millis(300), ..Policy::default() };
    assert_eq!(fates(&store, &policy), [Fate::Recent, Fate::Free, Fate::Current]);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(fates(&store, &policy), [Fate::Free, Fate::Free, Fate::Current]);
    let keep = Policy { keep: 2, ..Policy::default() };
    assert_eq!(fates(&store, &keep), [Fate::Newest, Fate::Free, Fate::Current]);
    store.pin(&key("key"), Version(2)).unwrap();
    assert_eq!(fates(&store, &Policy::default()), [Fate::Free, Fate::Pinned, Fate::Current]);
}

#[test]
fn what_changed_since_it_was_chosen_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    for n in 1..=3 {
        publish(&store, "key", &artifact(1, n, 20_000));
    }
    let portion = store.collectable(&Policy::default(), None).unwrap();
    assert_eq!(portion.candidates.len(), 2);
    // The second is served again.
    store.remove(&key("key"), Some(Version(3))).unwrap();
    let (collected, changes) = store.collect(&portion.candidates, portion.seen).unwrap();
    assert_eq!((collected.versions, changes), (0, Default::default()));
    assert_eq!(store.versions(&key("key")).unwrap().len(), 3);
}

/// Takes away every block of the catalogue that has records of one kind, as sled may lose them
/// without a word.
fn lose(dir: &Path, kind: u8) {
    let db = sled::open(dir.join("db")).unwrap();
    let blocks: Vec<_> = db
        .scan_prefix([1])
        .map(Result::unwrap)
        .filter(|(_, block)| block.windows(2).any(|bytes| bytes[0] < 0x80 && bytes[1] == kind))
        .collect();
    assert!(!blocks.is_empty());
    for (at, _) in blocks {
        db.remove(at).unwrap();
    }
}

#[test]
fn records_that_sled_lost_cost_nothing_that_the_history_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let payloads: Vec<_> = (0..300).map(|n| artifact(1, n, 20_000)).collect();
    for (n, bytes) in payloads.iter().enumerate() {
        publish(&store, &format!("key-{n}"), bytes);
    }
    store.close().unwrap();
    lose(dir.path(), b'p');
    let store = Store::open(dir.path()).unwrap();
    // It would seem that nothing needs the object files, and that nothing was ever published.
    let refused = store.collect_orphans();
    assert!(matches!(refused, Err(Error::Inconsistent(_))), "{refused:?}");
    let _ = store.compact(store.last_change(), true);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    for (n, bytes) in payloads.iter().enumerate() {
        let inode = store.version(&key(&format!("key-{n}")), None).unwrap().inode;
        assert!(read(&store, inode).unwrap() == *bytes, "key-{n}");
    }
    assert_eq!(store.collect_orphans().unwrap().payloads, 0);
}
