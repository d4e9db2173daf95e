//! `wasmfs default`: plain names that move together.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use wasmfs_tests::{Environment, Inline, User, in_each_environment};

use crate::{Stop, answering, ask, compile};

#[test]
fn named_keys_move_or_none_does() {
    in_each_environment(|env| {
        env.mount();
        let old = compile(env, "48", &answering(1), "old", &[]);
        let new = compile(env, "49", &answering(2), "new", &[]);
        for key in ["a", "b", "c"] {
            env.publish(&old, key, &[]);
        }
        let to = env.publish(&new, "a", &[])["engine"].as_str().unwrap().to_owned();
        env.publish(&new, "b", &[]);
        let inode = |key: &str| fs::metadata(env.mounted(key)).unwrap().ino();
        let before: Vec<_> = ["a", "b", "c"].map(inode).into();
        let refused = env.fail(1, &["default", "a", "c", &to]);
        assert!(refused.contains("c has no version of engine"), "{refused}");
        assert_eq!(Vec::from(["a", "b", "c"].map(inode)), before);
        for args in [&["default", &to][..], &["default", "--all", "a", &to]] {
            assert!(env.fail(2, args).contains("hint:"));
        }
        let moved = env.json(&["default", "a", &to]);
        assert_eq!((&moved["moved"], &moved["visible"]), (&serde_json::json!(["a"]), &true.into()));
        assert_eq!(ask(env, "49", &env.mounted("a")).unwrap(), "2");
        assert_eq!(ask(env, "48", &env.mounted("b")).unwrap(), "1");
        // What it hasn't got stays, and is named.
        let output = wasmfs_tests::output(env.wasmfs().args(["default", "--all", &to]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("c stays"), "{text}");
        assert_eq!((inode("b") != before[1], inode("c") == before[2]), (true, true));
        env.unmount();
    });
}

/// 10,000 keys of small modules, which is what the store holds most of inside sled.
#[test]
fn ten_thousand_plain_names_move_with_one_commit_under_readers() {
    const KEYS: usize = 10_000;
    let env = &Environment::new(User::Root, Inline::Default);
    let dir = env.dir("files");
    let (old, new) = (
        fs::read(compile(env, "48", &answering(1), "old", &[])).unwrap(),
        fs::read(compile(env, "49", &answering(2), "new", &[])).unwrap(),
    );
    let names: Vec<String> = (0..KEYS).map(|n| format!("{}/{n}", n % 20)).collect();
    for n in 0..20 {
        fs::create_dir(dir.join(n.to_string())).unwrap();
    }
    env.mount();
    for bytes in [&old, &new] {
        for name in &names {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let report = env.json(&["import", dir.to_str().unwrap()]);
        assert_eq!(report["imported"].as_array().unwrap().len(), KEYS);
    }
    let versions = |label: &str| -> Vec<u64> {
        let view = env.mounted(format!(".wasmfs/engines/{label}"));
        names.iter().map(|name| fs::metadata(view.join(name)).unwrap().ino()).collect()
    };
    let engines = env.json(&["engines"]);
    let label = |n: usize| engines[n]["label"].as_str().unwrap().to_owned();
    let (before, after) = (versions(&label(0)), versions(&label(1)));

    let (stop, looked, longest) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for reader in 0..2 {
            let (names, before, after) = (&names, &before, &after);
            let (stop, looked, longest) = (&stop, &looked, &longest);
            scope.spawn(move || {
                for n in (0..KEYS).cycle().skip(reader * KEYS / 2) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let start = Instant::now();
                    let inode = fs::metadata(env.mounted(&names[n])).unwrap().ino();
                    longest.fetch_max(start.elapsed().as_micros() as usize, Ordering::Relaxed);
                    assert!(inode == before[n] || inode == after[n], "{}", names[n]);
                    looked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..6 {
            let lines = || fs::read_to_string(env.store().join("history")).unwrap().lines().count();
            let had = lines();
            let start = Instant::now();
            let moved = env.json(&["default", "--all", &label((round + 1) % 2)]);
            took.push(start.elapsed().as_millis());
            assert_eq!(moved["moved"].as_array().unwrap().len(), KEYS);
            assert_eq!(moved["visible"], true);
            assert_eq!(lines(), had + 1, "one commit");
            // Whoever looks now sees what it did.
            let now = if round % 2 == 0 { &after } else { &before };
            for n in (0..KEYS).step_by(97) {
                assert_eq!(fs::metadata(env.mounted(&names[n])).unwrap().ino(), now[n]);
            }
        }
    });
    println!(
        "moving {KEYS} names took {took:?} ms; {} looks meanwhile, the longest {} ms",
        looked.load(Ordering::Relaxed),
        longest.load(Ordering::Relaxed) / 1000
    );
    env.unmount();
}
