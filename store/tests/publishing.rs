//! Publishing, numbers, engines, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

use support::*;
use wasmfs_store::artifact::NotAnArtifact;
use wasmfs_store::{Error, Inode, Status, Store, Version};

#[test]
fn versions_and_inodes_count_up_and_survive_removal_and_reopening() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let mut inodes = Vec::new();
        for round in 0..3 {
            let store = open(dir.path(), settings);
            for n in 0..3 {
                let bytes = artifact(1, round * 3 + n, 40_000);
                let published = publish(&store, "a/key", &bytes);
                assert_eq!(published.version.version, Version(u64::from(round * 3 + n) + 1));
                assert!(inodes.last().is_none_or(|last| *last < published.version.inode));
                inodes.push(published.version.inode);
                assert!(read(&store, published.version.inode).unwrap() == bytes);
            }
            store.remove(&key("a/key"), None).unwrap();
            assert!(store.keys("").unwrap().is_empty());
            assert!(matches!(store.version(&key("a/key"), None), Err(Error::KeyRemoved(_))));
            store.close().unwrap();
        }
        // Removed versions are still known, and their bytes there.
        let store = open(dir.path(), settings);
        let versions = store.versions(&key("a/key")).unwrap();
        assert!(versions.len() == 9 && versions.iter().all(|v| v.removed && !v.current));
        for (n, version) in versions.iter().enumerate() {
            assert!(read(&store, version.inode).unwrap() == artifact(1, n as u32, 40_000));
        }
    });
}

#[test]
fn equal_bytes_are_stored_once_and_unchanged_when_current() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let (one, two) = (artifact(1, 1, 300_000), artifact(1, 2, 300_000));
        let objects = || {
            let shards = fs::read_dir(dir.path().join("objects")).unwrap();
            shards.map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().count()).sum::<usize>()
        };
        assert_eq!(publish(&store, "a", &one).status, Status::Published);
        let history = fs::read(dir.path().join("history")).unwrap();
        let again = publish(&store, "a", &one);
        assert_eq!((again.status, again.version.version), (Status::Unchanged, Version(1)));
        assert_eq!(fs::read(dir.path().join("history")).unwrap(), history);
        assert_eq!(publish(&store, "b", &one).version.version, Version(1));
        assert_eq!(publish(&store, "a", &two).version.version, Version(2));
        assert_eq!(publish(&store, "a", &one).version.version, Version(3));
        let expected =
            if settings.inline_limit == wasmfs_store::InlineLimit::UNLIMITED { 0 } else { 2 };
        assert_eq!(objects(), expected);
        assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
    });
}

#[test]
fn an_engine_never_moves_anothers_plain_name() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let first = publish(&store, "key", &artifact(1, 1, 1000));
        let other = publish(&store, "key", &artifact(2, 1, 1000));
        assert!(first.version.served_by_plain_name && !other.version.served_by_plain_name);
        assert_eq!(other.default_engine, first.version.engine);
        assert_eq!(other.path, format!(".wasmfs/engines/{}/key", other.version.engine));
        assert_eq!(store.version(&key("key"), None).unwrap().version, Version(1));
        // Also when the default engine's versions are removed, and all of them.
        store.remove(&key("key"), Some(Version(1))).unwrap();
        assert!(store.version(&key("key"), None).is_err());
        store.remove(&key("key"), None).unwrap();
        assert!(!publish(&store, "key", &artifact(2, 2, 1000)).version.served_by_plain_name);
        assert!(publish(&store, "key", &artifact(1, 2, 1000)).version.served_by_plain_name);
        let moved = try_publish(&store, "key", &artifact(2, 2, 1000), true).unwrap();
        assert_eq!((moved.status, moved.version.served_by_plain_name), (Status::Unchanged, true));
    });
}

#[test]
fn labels_grow_until_they_differ() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let label = publish(&store, "a", &artifact(1, 1, 10)).version.engine;
    assert!(
        label.starts_with("wasmtime-48-x86_64-") && label.len() == "wasmtime-48-x86_64-".len() + 8
    );
    // Every odd version string and target still gives one path component.
    for (n, version) in ["", "../..", "48\0", "a/b", &"x".repeat(200)].iter().enumerate() {
        let bytes = elf(200, 1, &engine(version, "", &[n as u8]), b"text");
        let label = publish(&store, &format!("odd-{n}"), &bytes).version.engine;
        assert!(!label.contains(['/', '\0']) && label.len() < 100, "{label}");
    }
}

#[test]
fn removal_serves_what_is_left_and_rollback_makes_new_versions() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let bytes: Vec<_> = (1..=3).map(|n| artifact(1, n, 50_000)).collect();
        for bytes in &bytes {
            publish(&store, "key", bytes);
        }
        let serves = || store.version(&key("key"), None).unwrap();
        let (removed, _) = store.remove(&key("key"), Some(Version(3))).unwrap();
        assert_eq!((removed.versions, removed.now_serves), (vec![Version(3)], Some(Version(2))));
        assert_eq!(serves().version, Version(2));
        assert!(matches!(
            store.remove(&key("key"), Some(Version(3))),
            Err(Error::VersionRemoved { .. })
        ));

        let (back, _) = store.rollback(&key("key"), None).unwrap();
        assert_eq!(
            (back.version.version, back.version.rollback_of),
            (Version(4), Some(Version(1)))
        );
        assert!(read(&store, serves().inode).unwrap() == bytes[0]);
        assert!(matches!(store.rollback(&key("key"), None), Err(Error::NoEarlierVersion(_))));
        // A removed version can be brought back by its number.
        let (third, _) = store.rollback(&key("key"), Some(Version(3))).unwrap();
        assert_eq!(
            (third.version.version, third.version.rollback_of),
            (Version(5), Some(Version(3)))
        );
        // Going back twice goes back two versions.
        assert_eq!(
            store.rollback(&key("key"), None).unwrap().0.version.rollback_of,
            Some(Version(2))
        );
        assert_eq!(
            store.rollback(&key("key"), None).unwrap().0.version.rollback_of,
            Some(Version(1))
        );
        assert!(matches!(
            store.rollback(&key("key"), Some(Version(99))),
            Err(Error::NoVersion { .. })
        ));
        assert!(matches!(store.rollback(&key("none"), None), Err(Error::NoKey(_))));
    });
}

#[test]
fn a_key_is_never_a_directory_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let bytes = artifact(1, 1, 10);
    publish(&store, "a/b", &bytes);
    publish(&store, "a-b", &bytes);
    for (name, other) in [("a", "a/b"), ("a/b/c", "a/b"), ("a/b/c/d", "a/b")] {
        match try_publish(&store, name, &bytes, false) {
            Err(Error::KeyConflict { other: found, .. }) => assert_eq!(found, other),
            result => panic!("{name}: {result:?}"),
        }
    }
    // What is removed is in nobody's way.
    store.remove(&key("a/b"), None).unwrap();
    publish(&store, "a", &bytes);
    assert!(matches!(try_publish(&store, "a/b", &bytes, false), Err(Error::KeyConflict { .. })));
}

#[test]
fn one_bad_item_of_a_batch_leaves_the_rest() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let item = |name: &str, n| {
            let staged = store.stage(&artifact(1, n, 30_000)[..]).unwrap();
            wasmfs_store::Publish::new(key(name), staged)
        };
        let batch = || vec![item("a", 1), item("a/b", 2), item("c", 1), item("d", 3)];
        let (results, changes) = store.publish(batch(), true).unwrap();
        assert!(matches!(results[0], Err(Error::HeldBack)));
        assert!(matches!(results[1], Err(Error::KeyConflict { .. })));
        assert!(changes.names.is_empty() && store.keys("").unwrap().is_empty(), "all or none");
        let (results, changes) = store.publish(batch(), false).unwrap();
        let good: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, true, true]);
        assert_eq!(store.keys("").unwrap().len(), 3);
        assert!(changes.names.contains(&(Inode(1), "c".to_owned())));
        assert!(!changes.names.iter().any(|(_, name)| name == "b"));
    });
}

#[test]
fn what_is_no_artifact_is_refused_with_its_name() {
    use NotAnArtifact::*;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let whole = artifact(1, 1, 2000);
    let other_elf = elf(0, 1, &engine("48", "x", &[]), b"text");
    let not_ours = elf(200, 0, &engine("48", "x", &[]), b"text");
    let refused = |bytes: &[u8]| match store.stage(bytes) {
        Err(Error::NotAnArtifact(why)) => why,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was taken"),
    };
    assert_eq!(refused(b""), Empty);
    assert_eq!(refused(b"\0asm\x01\0\0\0"), WasmModule);
    assert_eq!(refused(b"\0asm\x0d\0\x01\0"), WasmComponent);
    assert_eq!(refused(b"\n (module)"), Wat);
    assert_eq!(refused(b"hello"), Unknown);
    assert_eq!(refused(&other_elf), OtherElf(0));
    assert!(matches!(refused(&not_ours), Truncated(_)));
    assert!(refused(b"\0asm\x01\0\0\0").to_string().contains("this is a wasm module"));
    // Cut anywhere, it is refused, and never taken for something shorter.
    for len in (1..whole.len()).step_by(37).chain([whole.len() - 1]) {
        assert!(matches!(refused(&whole[..len]), Truncated(_) | Unknown), "{len}");
    }
    assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);

    for (flags, pulley, kind) in
        [(1, false, "Module"), (2, false, "Component"), (1 | 8, true, "Module")]
    {
        let target = if pulley { "pulley64" } else { "x86_64-unknown-linux-gnu" };
        let bytes = elf(200, flags, &engine("48", target, &[]), b"text");
        let staged = store.stage(&bytes[..]).unwrap();
        assert_eq!(format!("{:?}", staged.artifact().kind), kind);
        assert_eq!(staged.artifact().engine.pulley, pulley);
    }
}

#[test]
fn an_upload_that_fails_leaves_nothing() {
    struct Breaks(usize);
    impl Read for Breaks {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::ConnectionReset)?;
            buf.fill(7);
            Ok(buf.len())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    assert!(matches!(store.stage(Breaks(5)), Err(Error::Input(_))));
    let staged = store.stage(&artifact(1, 1, 100_000)[..]).unwrap();
    assert_eq!(
        fs::read_dir(dir.path().join("incoming")).unwrap().count(),
        2,
        "the lease and what it holds"
    );
    drop(staged);
    assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
}

#[test]
fn a_store_is_private_and_its_objects_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/store");
    let store = Store::open_or_create(&path).unwrap();
    let published = publish(&store, "key", &artifact(1, 1, 100_000));
    let sha256 = published.version.sha256.hex();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("objects").join(&sha256[..2]).join(&sha256)), 0o400);
    assert_eq!(mode(&path.join("history")), 0o600);
    drop(store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(&path).unwrap());
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn publishing_again_mends_a_damaged_payload() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let bytes = artifact(1, 1, 300_000);
    let published = publish(&store, "key", &bytes);
    let hex = published.version.sha256.hex();
    let object = dir.path().join("objects").join(&hex[..2]).join(&hex);
    drop(store);
    for damage in 0..3 {
        // Only root may write to the file itself.
        fs::remove_file(&object).unwrap();
        match damage {
            0 => {}
            1 => fs::write(&object, &bytes[..1000]).unwrap(),
            _ => {
                let mut bad = bytes.clone();
                bad[200_000] ^= 1;
                fs::write(&object, bad).unwrap();
            }
        }
        let store = open(dir.path(), &Default::default());
        assert!(read(&store, published.version.inode).is_err());
        let again = publish(&store, "key", &bytes);
        assert_eq!(
            (again.status, again.version.inode),
            (Status::Unchanged, published.version.inode)
        );
        assert!(read(&store, published.version.inode).unwrap() == bytes);
    }
}

#[test]
fn an_artifact_can_neither_fill_memory_nor_the_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let long = elf(200, 1, &vec![0; 100_000], b"text");
    assert!(matches!(
        store.stage(&long[..]),
        Err(Error::NotAnArtifact(NotAnArtifact::Truncated(_)))
    ));
    let target = format!("\u{1b}[31m{}", "x".repeat(120));
    let odd = elf(200, 1, &engine("48\n", &target, &[]), b"text");
    let version = publish(&store, "odd", &odd).version;
    assert!(!version.wasmtime.contains('\n') && !version.target.contains('\u{1b}'));
    assert!(version.target.chars().count() <= 128);
}
