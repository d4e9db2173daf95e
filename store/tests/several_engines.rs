//! Engines: their names, the plain names they serve, and what versions were compiled from.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::fs;

use support::{artifact, elf, engine, key, open, publish, try_publish, with_both_limits};
use wasmfs_store::artifact::Compiler;
use wasmfs_store::{Error, Inode, Publish, Settings, Source, Status, Store, StoreDir, Version};

fn label_of(store: &Store, name: &str) -> String {
    store.version(&key(name), None).unwrap().engine
}

#[test]
fn an_engine_answers_to_its_alias_its_label_and_the_start_of_its_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    publish(&store, "a", &artifact(1, 1, 100));
    publish(&store, "b", &artifact(2, 1, 100));
    let [one, two] = &store.engines().unwrap()[..] else { panic!() };
    let (info, changes) = store.alias("prod", &one.label).unwrap();
    assert_eq!((info.aliases, info.keys), (vec!["prod".to_owned()], 1));
    assert!(changes.names.contains(&(wasmfs_store::ENGINES_INODE, "prod".to_owned())));
    let hex = one.engine.description.fingerprint.hex();
    for name in ["prod", &one.label, &hex, &hex[..8], &hex[..6].to_uppercase()] {
        assert_eq!(store.engine(name).unwrap().label, one.label, "{name}");
    }
    for name in ["", "pro", &hex[..5], "wasmtime-48", &format!("{hex}0")] {
        assert!(matches!(store.engine(name), Err(Error::NoEngine(_))), "{name}");
    }
    // Giving it again changes nothing; giving it to another moves it.
    let last = store.last_change();
    store.alias("prod", "prod").unwrap();
    assert_eq!(store.last_change(), last);
    store.alias("prod", &two.label).unwrap();
    assert_eq!(store.engine("prod").unwrap().label, two.label);
    assert!(store.engine(&one.label).unwrap().aliases.is_empty());
    store.unalias("prod").unwrap();
    assert!(matches!(store.unalias("prod"), Err(Error::NoAlias(_))));
    for name in ["", ".x", "-x", "a/b", "a b", "ü", "wasmtime-48", &"x".repeat(256)] {
        assert!(matches!(store.alias(name, &one.label), Err(Error::AliasName { .. })), "{name:?}");
    }
}

#[test]
fn an_engine_can_be_named_before_anything_of_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let section = engine("36.0.1", "aarch64-unknown-linux-gnu", b"?");
    let (info, _) = store.learn("edge", &section).unwrap();
    assert_eq!((info.engine.description.wasmtime.as_str(), info.keys), ("36.0.1", 0));
    assert_eq!(info.engine.description.compiler, Compiler::Unknown);
    assert_eq!((info.engine.settings, info.last_publish), (None, None));
    publish(&store, "a", &elf(200, 1, &section, b"code"));
    let info = store.engine("edge").unwrap();
    assert_eq!((info.keys, info.label), (1, label_of(&store, "a")));
    assert!(info.last_publish.is_some());
}

#[test]
fn an_artifact_of_another_engine_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let published = publish(&store, "a", &artifact(1, 1, 100));
    store.alias("prod", &published.version.engine).unwrap();
    let request = |bytes: &[u8], engine: &str| Publish {
        engine: Some(engine.to_owned()),
        ..Publish::new(key("a"), store.stage(bytes).unwrap())
    };
    let other = elf(200, 1, &engine("36", "aarch64-unknown-linux-gnu", &[]), b"code");
    let refused = store.publish(vec![request(&other, "prod")], false).unwrap().0.remove(0);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "it was compiled by another engine than prod: compiled by wasmtime 36, prod is 48; \
         compiled for aarch64-unknown-linux-gnu, prod is for x86_64-unknown-linux-gnu"
    );
    // Nothing is known in which they differ, and still they do.
    let refused = store.publish(vec![request(&artifact(2, 1, 100), "prod")], false).unwrap();
    assert!(matches!(&refused.0[0], Err(Error::OtherEngine { .. })));
    let unknown = store.publish(vec![request(&other, "nobody")], false).unwrap();
    assert!(matches!(&unknown.0[0], Err(Error::NoEngine(_))));
    assert_eq!(store.engines().unwrap().len(), 1);
    let own = store.publish(vec![request(&artifact(1, 2, 100), "prod")], false).unwrap();
    assert_eq!(own.0[0].as_ref().unwrap().version.version, Version(2));
}

#[test]
fn plain_names_move_together_and_come_back_after_a_crash_at_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let names: Vec<String> = (0..150).map(|n| format!("d{}/k{n}", n % 7)).collect();
    for name in &names {
        publish(&store, name, &artifact(1, 1, 100));
        publish(&store, name, &artifact(2, 1, 100));
    }
    publish(&store, "only-old", &artifact(1, 1, 100));
    publish(&store, "gone", &artifact(1, 1, 100));
    store.remove(&key("gone"), None).unwrap();
    let [old, new] = &store.engines().unwrap()[..] else { panic!() };
    let (before, bytes_before) =
        (store.last_change(), fs::read(dir.path().join("history")).unwrap());
    let (moved, changes) = store.set_default(None, &new.label).unwrap();
    assert_eq!((moved.moved.len(), moved.unchanged), (150, 0));
    assert_eq!(moved.lacking, [key("only-old")]);
    assert_eq!(changes.names.len(), 150);
    assert_eq!(store.last_change(), before.next(), "one commit");
    assert!(names.iter().all(|name| label_of(&store, name) == new.label));
    let (again, _) = store.set_default(None, &new.label).unwrap();
    assert_eq!((again.moved.len(), again.unchanged), (0, 150));
    // Named keys: all have to have it.
    let named = [key("d0/k0"), key("only-old")];
    assert!(matches!(store.set_default(Some(&named), &new.label), Err(Error::NotOfEngine { .. })));
    assert!(matches!(store.set_default(Some(&[key("none")]), &new.label), Err(Error::NoKey(_))));
    store.close().unwrap();

    let whole = fs::read(dir.path().join("history")).unwrap();
    let line = whole.len() - bytes_before.len();
    for cut in [1, line / 3, line - 1, line] {
        let crashed = tempfile::tempdir().unwrap();
        fs::create_dir(crashed.path().join("objects")).unwrap();
        fs::copy(dir.path().join("settings.json"), crashed.path().join("settings.json")).unwrap();
        fs::write(crashed.path().join("history"), &whole[..bytes_before.len() + cut]).unwrap();
        let store = Store::open(crashed.path()).unwrap();
        let expected = if cut == line { &new.label } else { &old.label };
        assert!(names.iter().all(|name| label_of(&store, name) == *expected), "{cut} of {line}");
    }
}

#[test]
fn a_batch_that_goes_in_together_moves_its_plain_names_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let batch = |engine, seed| {
        let item = |name: &str| Publish {
            make_default: true,
            ..Publish::new(key(name), store.stage(&artifact(engine, seed, 100)[..]).unwrap())
        };
        vec![item("a"), item("b"), item("c")]
    };
    store.publish(batch(1, 1), true).unwrap();
    let (results, changes) = store.publish(batch(2, 2), true).unwrap();
    for result in results {
        let published = result.unwrap();
        assert!(published.version.served_by_plain_name, "{published:?}");
        assert!(changes.names.contains(&(Inode(1), published.version.key.to_string())));
    }
    let history = fs::read_to_string(dir.path().join("history")).unwrap();
    let moves: Vec<_> = history.lines().filter(|line| line.contains(r#""op":"default""#)).collect();
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert!(moves[0].contains(r#""keys":["a","b","c"]"#));
}

#[test]
fn sources_are_kept_once_and_can_be_read_back() {
    with_both_limits(|settings| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), settings);
        let wasm = [b"\0asm\x01\0\0\0".to_vec(), vec![7; 300_000]].concat();
        let request = |name: &str, seed, keep: bool| Publish {
            source: keep.then(|| Source::Staged(store.stage_source(&wasm[..]).unwrap())),
            producer: Some("wasmtime 48.0.2".into()),
            ..Publish::new(key(name), store.stage(&artifact(1, seed, 100)[..]).unwrap())
        };
        let requests = vec![request("a", 1, true), request("b", 2, true), request("c", 3, false)];
        store.publish(requests, false).unwrap();
        let source = |name: &str| store.version(&key(name), None).unwrap().source;
        let sha256 = source("a").unwrap();
        assert_eq!((source("b"), source("c")), (Some(sha256), None));
        let mut back = Vec::new();
        while let Some(piece) = store.read_payload(&sha256, back.len() as u64, 100_000).unwrap() {
            if piece.is_empty() {
                break;
            }
            back.extend(piece);
        }
        assert!(back == wasm);
        // Whoever publishes the same bytes and knows more adds that.
        let before = store.version(&key("c"), None).unwrap();
        let again = store.publish(vec![request("c", 3, true)], false).unwrap().0.remove(0).unwrap();
        assert_eq!((again.status, again.version.version), (Status::Unchanged, before.version));
        assert_eq!(source("c"), Some(sha256));
        // A rollback has what it goes back to; a recompilation names what the store has.
        let newer = Publish {
            source: Some(Source::Stored(sha256)),
            ..Publish::new(key("c"), store.stage(&artifact(1, 9, 100)[..]).unwrap())
        };
        store.publish(vec![newer], false).unwrap().0.remove(0).unwrap();
        let back = store.rollback(&key("c"), None).unwrap().0.version;
        assert_eq!(
            (back.source, back.producer.as_deref()),
            (Some(sha256), Some("wasmtime 48.0.2"))
        );
        let absent = Publish {
            source: Some(Source::Stored(wasmfs_store::Sha([9; 32]))),
            ..Publish::new(key("c"), store.stage(&artifact(1, 9, 100)[..]).unwrap())
        };
        let refused = store.publish(vec![absent], false).unwrap().0.remove(0);
        assert!(matches!(refused, Err(Error::NoPayload(_))));
        assert!(matches!(store.stage_source(&b"(module)"[..]), Err(Error::NotWasm)));
        assert_eq!(store.engines().unwrap()[0].producer.as_deref(), Some("wasmtime 48.0.2"));

        // All of it is in the history.
        let versions: Vec<_> = store.latest(100).unwrap();
        let engines = store.engines().unwrap();
        drop(store);
        Store::distrust_catalogue(&StoreDir::open(dir.path()).unwrap());
        let store = Store::open(dir.path()).unwrap();
        assert_eq!((store.latest(100).unwrap(), store.engines().unwrap()), (versions, engines));
    });
}

/// What a line of the history holds, as it is read back.
fn with_sum(entry: &str) -> String {
    use sha2::{Digest, Sha256};
    let sum: String =
        Sha256::digest(entry.as_bytes())[..8].iter().map(|b| format!("{b:02x}")).collect();
    format!("{{\"sum\":\"{sum}\",\"entry\":{entry}}}\n")
}

#[test]
fn a_history_from_before_engines_had_sections_is_read_and_completed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    publish(&store, "a", &artifact(1, 1, 100));
    try_publish(&store, "a", &artifact(2, 1, 100), true).unwrap();
    let engines = store.engines().unwrap();
    store.set_default(Some(&[key("a")]), &engines[0].label).unwrap();
    store.close().unwrap();
    let path = dir.path().join("history");
    let mut old = String::new();
    for line in fs::read_to_string(&path).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut entry = line["entry"].clone();
        if entry["op"] == "engine" {
            entry.as_object_mut().unwrap().remove("section");
        }
        if let Some(keys) = entry.as_object_mut().unwrap().remove("keys") {
            entry["key"] = keys[0].clone();
        }
        old += &with_sum(&entry.to_string());
    }
    assert!(old.contains(r#""key":"a","op":"default""#), "{old}");
    fs::write(&path, old).unwrap();
    Store::distrust_catalogue(&StoreDir::open(dir.path()).unwrap());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(label_of(&store, "a"), engines[0].label);
    // The next publish of an engine tells its section, and nothing else of it changes.
    publish(&store, "b", &artifact(1, 1, 100));
    let history = fs::read_to_string(&path).unwrap();
    assert_eq!(history.matches("\"section\"").count(), 1);
    let (now, before) = (store.engines().unwrap(), engines);
    assert_eq!((now[0].label.as_str(), now.len()), (before[0].label.as_str(), 2));
    assert_eq!(store.engine(&before[0].label).unwrap().keys, 2);
}

#[test]
fn a_catalogue_of_another_layout_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    publish(&store, "a", &artifact(1, 1, 100));
    let version = store.version(&key("a"), None).unwrap();
    store.close().unwrap();
    // As an earlier wasmfs wrote its first record, four numbers and no layout; and as a
    // later one will.
    let as_written_by = |change: &dyn Fn(&[u8]) -> Vec<u8>| {
        let db = sled::open(dir.path().join("db")).unwrap();
        let applied = db.get("m").unwrap().unwrap();
        db.insert("m", change(&applied)).unwrap();
        db.flush().unwrap();
    };
    let earlier = |applied: &[u8]| applied[2..].to_vec();
    let later = |applied: &[u8]| [&[0, 77], &applied[2..], b"more"].concat();
    for change in [&earlier as &dyn Fn(&[u8]) -> Vec<u8>, &later] {
        as_written_by(change);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.version(&key("a"), None).unwrap(), version);
        store.close().unwrap();
        // What it had applied was acknowledged, and is not cut off as an unfinished end.
        as_written_by(change);
        let history = fs::read(dir.path().join("history")).unwrap();
        fs::write(dir.path().join("history"), &history[..history.len() - 9]).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(Error::HistoryDamaged { .. })));
        fs::write(dir.path().join("history"), &history).unwrap();
        Store::open(dir.path()).unwrap().close().unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.version(&key("a"), None).unwrap(), version);
}

#[test]
fn what_is_compiled_again_never_undoes_something_newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let wasm = |n: u8| [b"\0asm\x01\0\0\0", &[n; 8][..]].concat();
    let mut seed = 0;
    let mut item = |engine, source: u8, from| {
        seed += 1;
        Publish {
            source: Some(Source::Staged(store.stage_source(&wasm(source)[..]).unwrap())),
            recompiled_from: from,
            ..Publish::new(key("a"), store.stage(&artifact(engine, seed, 100)[..]).unwrap())
        }
    };
    let publish = |item| store.publish(vec![item], false).unwrap().0.remove(0);
    publish(item(1, 1, None)).unwrap();
    // Engine 2 has a newer program already.
    publish(item(2, 2, None)).unwrap();
    let lines = store.last_change();
    let refused = publish(item(2, 1, Some(Version(1))));
    assert_eq!(store.last_change(), lines, "nothing of it is kept");
    assert!(matches!(refused, Err(Error::Overtaken { version: Version(2), .. })), "{refused:?}");
    // The plain name got a newer program while it was compiled.
    publish(item(1, 3, None)).unwrap();
    let refused = publish(item(3, 1, Some(Version(1))));
    assert!(matches!(refused, Err(Error::Overtaken { version: Version(3), .. })), "{refused:?}");
    // From what is served now it goes in, and again.
    assert_eq!(publish(item(3, 3, Some(Version(3)))).unwrap().version.version, Version(4));
    assert_eq!(publish(item(3, 3, Some(Version(3)))).unwrap().version.version, Version(5));
    // The same bytes undo nothing, whatever is known of theirs.
    let bytes = artifact(4, 1000, 100);
    let bare = Publish::new(key("a"), store.stage(&bytes[..]).unwrap());
    assert_eq!(publish(bare).unwrap().version.version, Version(6));
    let same = Publish {
        recompiled_from: Some(Version(3)),
        ..Publish::new(key("a"), store.stage(&bytes[..]).unwrap())
    };
    assert_eq!(publish(same).unwrap().status, Status::Unchanged);
    let other = Publish {
        recompiled_from: Some(Version(3)),
        ..Publish::new(key("a"), store.stage(&artifact(4, 1001, 100)[..]).unwrap())
    };
    assert!(publish(other).unwrap_err().to_string().contains("from unknown source"));
}

#[test]
fn a_producer_is_short_and_fit_to_be_shown() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let request = Publish {
        producer: Some(format!("wasm\x1b[31mtime\n{}", "x".repeat(10_000))),
        ..Publish::new(key("a"), store.stage(&artifact(1, 1, 100)[..]).unwrap())
    };
    let producer =
        store.publish(vec![request], false).unwrap().0.remove(0).unwrap().version.producer.unwrap();
    assert_eq!(producer.chars().count(), 128);
    assert!(!producer.contains(char::is_control));
}

#[test]
fn an_engine_with_an_alias_has_a_directory_before_it_has_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Settings::default());
    let section = engine("48", "x86_64-unknown-linux-gnu", b"?");
    let (info, changes) = store.learn("dev", &section).unwrap();
    let engines = wasmfs_store::ENGINES_INODE;
    let names = |names: &[&str]| names.iter().map(|name| (engines, (*name).to_owned())).collect();
    assert_eq!(changes.names, names(&["dev", &info.label]));
    assert!(store.engine_entry(&info.label).unwrap().is_some());
    // The last alias takes it away again, as long as nothing is in it.
    let (_, changes) = store.alias("test", "dev").unwrap();
    assert_eq!(changes.names, names(&["test"]));
    store.unalias("dev").unwrap();
    let (_, changes) = store.unalias("test").unwrap();
    assert_eq!(changes.names, names(&["test", &info.label]));
    assert_eq!(store.engine_entry(&info.label).unwrap(), None);
    for section in [vec![], vec![0; 65 << 10]] {
        assert!(matches!(store.learn("x", &section), Err(Error::NotAnArtifact(_))));
    }
}

/// How many keys an engine has, counted and kept.
fn keys_of(store: &Store, engine: &str) -> (usize, u64) {
    let has = |info: &wasmfs_store::KeyInfo| info.engines.iter().any(|v| v.engine == engine);
    let counted = store.keys("").unwrap().iter().filter(|info| has(info)).count();
    (counted, store.engine(engine).unwrap().keys)
}

#[test]
fn the_number_of_an_engines_keys_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let engine = publish(&store, "a", &artifact(1, 1, 100)).version.engine;
    publish(&store, "a", &artifact(1, 2, 100));
    publish(&store, "b/c", &artifact(1, 1, 100));
    publish(&store, "b/d", &artifact(2, 1, 100));
    let check = |expected| assert_eq!(keys_of(&store, &engine), (expected as usize, expected));
    check(2);
    store.remove(&key("a"), Some(Version(2))).unwrap();
    check(2);
    store.remove(&key("a"), None).unwrap();
    check(1);
    store.rollback(&key("a"), Some(Version(1))).unwrap();
    check(2);
    store.remove(&key("b/c"), None).unwrap();
    store.remove(&key("a"), None).unwrap();
    check(0);
    publish(&store, "a", &artifact(1, 3, 100));
    check(1);
    store.close().unwrap();
    // So it is in a catalogue that is made from the history.
    Store::distrust_catalogue(&StoreDir::open(dir.path()).unwrap());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(keys_of(&store, &engine), (1, 1));
}
