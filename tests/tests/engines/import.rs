//! `wasmfs import`: caches that applications made, while they use them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;
use wasmfs_tests::{Environment, Inline, User, in_each_environment, output};

use crate::{Stop, answering, ask, compile};

fn paths(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|v| v["file"].as_str().unwrap().to_owned()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn artifacts_become_keys_and_everything_else_is_left() {
    in_each_environment(|env| {
        env.mount();
        let (one, two) = (
            compile(env, "48", &answering(1), "one", &[]),
            compile(env, "36", &answering(2), "two", &[]),
        );
        let outside = env.dir("outside");
        fs::copy(&one, outside.join("secret")).unwrap();
        let cache = env.dir("cache");
        let dir = cache.to_str().unwrap();
        fs::create_dir_all(cache.join("app/0.1")).unwrap();
        fs::copy(&one, cache.join("app/0.1/x")).unwrap();
        fs::copy(&two, cache.join("y.cwasm")).unwrap();
        fs::write(cache.join("index.json"), "{}").unwrap();
        fs::write(cache.join("m.wat"), answering(1)).unwrap();
        fs::write(cache.join("empty"), "").unwrap();
        fs::copy(&one, cache.join(OsStr::from_bytes(b"\xff"))).unwrap();
        symlink(&outside, cache.join("directory")).unwrap();
        symlink(outside.join("secret"), cache.join("file")).unwrap();
        symlink(cache.join("y.cwasm"), cache.join("within")).unwrap();

        let report = env.json(&["import", dir, "--prefix", "zellij"]);
        assert_eq!(paths(&report["imported"]), set(["app/0.1/x", "y.cwasm"]));
        assert_eq!(
            paths(&report["left"]),
            set(["directory", "empty", "file", "index.json", "m.wat", "within", "\u{fffd}"])
        );
        assert_eq!(ask(env, "48", &env.mounted("zellij/app/0.1/x")).unwrap(), "1");
        assert_eq!(ask(env, "36", &env.mounted("zellij/y.cwasm")).unwrap(), "2");

        // Again: nothing is new. Then what changed is, and nothing else.
        let report = env.json(&["import", dir, "--prefix", "zellij"]);
        assert_eq!(report["imported"], serde_json::json!([]));
        assert_eq!(paths(&report["unchanged"]), set(["app/0.1/x", "y.cwasm"]));
        fs::copy(compile(env, "36", &answering(3), "three", &[]), cache.join("y.cwasm")).unwrap();
        let report = env.json(&["import", dir, "--prefix", "zellij"]);
        assert_eq!(paths(&report["imported"]), set(["y.cwasm"]));
        assert_eq!(report["imported"][0]["published"]["version"], 2);

        // What was published over it, or taken away, doesn't come back by itself.
        env.publish(&two, "zellij/y.cwasm", &[]);
        let newer =
            env.publish(&compile(env, "36", &answering(4), "four", &[]), "zellij/y.cwasm", &[]);
        let report = env.json(&["import", dir, "--prefix", "zellij"]);
        let reason = report["left"].as_array().unwrap().iter().find(|l| l["file"] == "y.cwasm");
        let reason = reason.unwrap()["reason"].as_str().unwrap();
        assert!(reason.contains("zellij/y.cwasm@2, which is not its engine's newest"), "{reason}");
        assert_eq!(env.json(&["show", "zellij/y.cwasm"])["version"], newer["version"]);

        // One engine's only.
        env.run(&["engines", "learn", "old", two.to_str().unwrap()]);
        let output = output(env.wasmfs().args(["import", dir, "--engine", "old", "--json"]));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(paths(&report["imported"]), set(["y.cwasm"]));
        let refused = report["failed"][0]["error"].as_str().unwrap();
        assert!(refused.contains("compiled by wasmtime 48, old is 36.0.9"), "{refused}");

        // A cut artifact is neither taken nor passed over in silence.
        fs::write(cache.join("cut"), &fs::read(&one).unwrap()[..5000]).unwrap();
        let said = env.fail(2, &["import", dir, "--prefix", "zellij"]);
        assert!(
            said.contains("cache/cut: this is a wasmtime artifact that is truncated"),
            "{said}"
        );
        assert!(env.fail(1, &["import", "absent"]).contains("can't be read"));
        let stderr = env.fail(1, &["import", "cache/empty"]);
        assert!(
            stderr.contains("not a complete archive") && stderr.contains("wasmfs publish"),
            "{stderr}"
        );

        // Nor is the mount imported into itself.
        let report = env.json(&["import", env.path(".cache").to_str().unwrap()]);
        assert_eq!(report["imported"], serde_json::json!([]));
        env.unmount();
    });
}

#[test]
fn what_hosts_wrote_into_a_linked_directory_becomes_links() {
    in_each_environment(|env| {
        let (old, new) = (
            compile(env, "36", &answering(1), "old", &[]),
            compile(env, "48", &answering(2), "new", &[]),
        );
        let cache = env.dir("cache");
        let dir = cache.to_str().unwrap();
        fs::copy(&old, cache.join("a")).unwrap();
        let refused = env.fail(1, &["import", dir, "--link"]);
        assert!(refused.contains("is not mounted"), "{refused}");
        assert!(fs::symlink_metadata(cache.join("a")).unwrap().is_file());
        env.mount();
        env.publish(&old, "app/a", &[]);
        fs::remove_file(cache.join("a")).unwrap();
        env.run(&["link", dir, "app"]);
        assert!(fs::read_link(cache.join("a")).is_ok());

        // A host of another engine wrote on a miss.
        fs::copy(&new, cache.join("b")).unwrap();
        fs::write(cache.join("notes"), "mine").unwrap();
        let mapped = fs::File::open(cache.join("b")).unwrap();
        let report = env.json(&["import", dir, "--prefix", "app", "--link"]);
        assert_eq!(paths(&report["imported"]), set(["b"]));
        assert_eq!((&report["linked"], &report["links"]), (&serde_json::json!(["b"]), &1.into()));
        let link = fs::read_link(cache.join("b")).unwrap();
        assert!(link.starts_with(env.mounted(".wasmfs/engines")), "{}", link.display());
        assert_eq!(ask(env, "48", &cache.join("b")).unwrap(), "2");
        assert_eq!(fs::read_to_string(cache.join("notes")).unwrap(), "mine");
        drop(mapped);
        // Another engine's file is neither linked nor taken, known or not; an engine's name in a
        // link is one that the mount has.
        fs::copy(&old, cache.join("a2")).unwrap();
        fs::copy(&new, cache.join("c")).unwrap();
        env.publish(&old, "app/a2", &[]);
        let fingerprint = crate::engine(env, report["imported"][0]["engine"].as_str().unwrap());
        let fingerprint = fingerprint["fingerprint"].as_str().unwrap()[..10].to_owned();
        let args = ["import", dir, "--prefix", "app", "--link", "--engine", &fingerprint, "--json"];
        let one_engine = output(env.wasmfs().args(args));
        let one_engine: Value = serde_json::from_slice(&one_engine.stdout).unwrap();
        assert_eq!(paths(&one_engine["failed"]), set(["a2"]));
        assert_eq!(one_engine["linked"], serde_json::json!(["c"]));
        assert_eq!(ask(env, "48", &cache.join("c")).unwrap(), "2");
        assert!(fs::symlink_metadata(cache.join("a2")).unwrap().is_file());
        fs::remove_file(cache.join("a2")).unwrap();
        // Repeated, it finds nothing; `link` goes on with what import left.
        let report = env.json(&["import", dir, "--prefix", "app", "--link"]);
        assert_eq!((&report["imported"], &report["links"]), (&serde_json::json!([]), &3.into()));
        env.run(&["link", dir, "app"]);
        assert_eq!(fs::read_link(cache.join("b")).unwrap(), env.mounted("app/b"));
        env.unmount();
    });
}

#[test]
fn a_thousand_files_are_imported_and_again_passed_over() {
    let env = &Environment::new(User::Root, Inline::Default);
    env.mount();
    let cache = env.dir("cache");
    let artifact = fs::read(compile(env, "48", &answering(1), "m", &[])).unwrap();
    for n in 0..1000 {
        // Different bytes after the last section make different artifacts of one.
        let bytes = [&artifact[..], &vec![n as u8; n + 1]].concat();
        fs::write(cache.join(n.to_string()), bytes).unwrap();
    }
    for round in 0..2 {
        let start = Instant::now();
        let report = env.json(&["import", cache.to_str().unwrap()]);
        let list = if round == 0 { "imported" } else { "unchanged" };
        assert_eq!(report[list].as_array().unwrap().len(), 1000);
        println!("{list}: 1,000 files in {:?}", start.elapsed());
    }
    env.unmount();
}

/// An application that rewrites a file in place, again and again, with one of two contents.
fn rewrite(path: &Path, contents: &[Vec<u8>; 2], stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let bytes = &contents[round % 2];
        // The same length, no truncation: nothing but the times tells that it is being written.
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        for piece in bytes.chunks(64 << 10) {
            file.write_all(piece).unwrap();
        }
        drop(file);
        std::thread::sleep(std::time::Duration::from_millis(round as u64 % 60));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_taken() {
    let env = &Environment::new(User::Root, Inline::Default);
    env.mount();
    let base = fs::read(compile(env, "48", &answering(1), "m", &[])).unwrap();
    let contents = [1u8, 2].map(|n| [&base[..], &vec![n; 1 << 20]].concat());
    let cache = env.dir("cache");
    let file = cache.join("busy");
    fs::write(&file, &contents[0]).unwrap();
    let (stop, mut taken, mut refused) = (AtomicBool::new(false), 0, 0);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| rewrite(&file, &contents, &stop));
        for _ in 0..25 {
            let output = output(env.wasmfs().args(["import", cache.to_str().unwrap()]));
            if output.status.success() {
                taken += 1;
            } else {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(said.contains("it changed while it was read"), "{said}");
                refused += 1;
            }
        }
    });
    println!("{taken} imports found it at rest, {refused} refused it");
    assert!(refused > 0);
    // Whatever was taken is one of the two, whole.
    if taken > 0 {
        for version in env.json(&["log", "busy"]).as_array().unwrap() {
            let path = env.mounted(format!(".wasmfs/versions/busy/{}", version["version"]));
            let bytes = fs::read(path).unwrap();
            assert!(contents.contains(&bytes), "a mixture was taken");
        }
    }
    env.unmount();
}

#[test]
fn a_directory_that_becomes_a_link_is_not_followed() {
    let env = &Environment::new(User::Root, Inline::Default);
    let artifact = compile(env, "48", &answering(1), "m", &[]);
    let (cache, outside) = (env.dir("cache"), env.dir("outside"));
    fs::create_dir(cache.join("real")).unwrap();
    for n in 0..40 {
        fs::copy(&artifact, cache.join(format!("real/{n}"))).unwrap();
        let secret = [fs::read(&artifact).unwrap(), b"secret".to_vec()].concat();
        fs::write(outside.join(n.to_string()), secret).unwrap();
    }
    symlink(&outside, cache.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let (real, link) = (cache.join("real"), cache.join("link"));
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &real,
                    rustix::fs::CWD,
                    &link,
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .unwrap();
            }
        });
        for _ in 0..20 {
            output(env.wasmfs().args(["import", cache.to_str().unwrap()]));
        }
    });
    let keys = env.json(&["ls"]);
    let keys = keys.as_array().unwrap();
    assert!(!keys.is_empty());
    let size = fs::metadata(&artifact).unwrap().len();
    assert!(keys.iter().all(|key| key["serves"]["size"] == size), "something from outside came in");
}

#[test]
fn what_an_application_writes_meanwhile_is_never_lost() {
    let env = &Environment::new(User::Root, Inline::Default);
    env.mount();
    let base = fs::read(compile(env, "48", &answering(1), "m", &[])).unwrap();
    let cache = env.dir("cache");
    let (file, new) = (cache.join("busy"), env.path("new"));
    let version = |n: u32| [&base[..], &n.to_le_bytes()].concat();
    let mut last = 0;
    let (stop, mut linked, mut kept) = (AtomicBool::new(false), 0, 0);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let importing = scope.spawn(|| {
            let (mut linked, mut kept) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let args = ["import", cache.to_str().unwrap(), "--link", "--json"];
                let report = output(env.wasmfs().args(args));
                let report: Value = serde_json::from_slice(&report.stdout).unwrap();
                linked += report["linked"].as_array().unwrap().len();
                kept += report["failed"].as_array().unwrap().len();
            }
            (linked, kept)
        });
        let start = Instant::now();
        while start.elapsed().as_secs() < 6 {
            // Now and then it takes its file away, and writes it anew.
            last += 1;
            if last % 7 == 0 {
                let _ = fs::remove_file(&file);
            }
            fs::write(&new, version(last)).unwrap();
            fs::rename(&new, &file).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(u64::from(last % 61)));
        }
        stop.store(true, Ordering::Relaxed);
        (linked, kept) = importing.join().unwrap();
    });
    println!("{last} versions written; {linked} became links, {kept} had changed");
    assert!(linked > 0);
    assert!(fs::read(&file).unwrap() == version(last), "the last that was written");
    assert_eq!(wasmfs_tests::names(&cache), ["busy"]);
    env.unmount();
}
