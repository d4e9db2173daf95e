//! What the user decides.

use std::fs;

use wasmfs_tests::{Environment, Inline, User, in_environment};

use crate::{gc, number, objects, versions};

fn left(env: &Environment, key: &str) -> Vec<u64> {
    let versions = env.json(&["log", key]);
    let mut left: Vec<_> =
        versions.as_array().unwrap().iter().map(|v| number(&v["version"])).collect();
    left.sort();
    left
}

#[test]
fn gc_keeps_what_it_is_told_to() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        for mounted in [false, true] {
            let key = format!("key-{mounted}");
            if mounted {
                env.mount();
            }
            versions(env, &key, 6);
            env.run(&["pin", &format!("{key}@2")]);
            env.run(&["rm", &format!("{key}@1")]);
            let dry = gc(env, &["--keep", "2", "--dry-run"]);
            let planned: Vec<_> =
                dry["versions"].as_array().unwrap().iter().map(|v| number(&v["version"])).collect();
            assert_eq!(planned, [1, 3, 4]);
            assert_eq!(left(env, &key), [1, 2, 3, 4, 5, 6]);
            assert_eq!(number(&gc(env, &["--older-than", "1h"])["collected"]["versions"]), 0);
            let done = gc(env, &["--keep", "2"]);
            assert_eq!(done["collected"], dry["collected"]);
            assert_eq!(left(env, &key), [2, 5, 6]);
            let why = env.run(&["gc", "--why", &key, "--keep", "2"]);
            for (version, reason) in
                [(2, "pinned"), (5, "among the newest"), (6, "newest of its engine")]
            {
                let line = why.lines().find(|line| line.starts_with(&format!("{key}@{version}:")));
                assert!(line.unwrap().contains(reason), "{why}");
            }
            env.run(&["unpin", &format!("{key}@2")]);
            assert!(env.fail(1, &["unpin", &format!("{key}@2")]).contains("was not pinned"));
            gc(env, &[]);
            assert_eq!(left(env, &key), [6]);
            // Numbers go on where they were.
            env.run(&["rm", &key]);
            gc(env, &[]);
            assert!(env.fail(1, &["log", &key]).contains("there is no key"));
            versions(env, &key, 1);
            assert_eq!(left(env, &key), [7]);
            let stderr = env.fail(1, &["rollback", &key, "3"]);
            assert!(stderr.contains("has no version 3"), "{stderr}");
        }
        env.unmount();
    });
}

#[test]
fn a_policy_that_makes_no_sense_collects_nothing_and_stops_nobody() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        versions(env, "key", 3);
        let settings = env.store().join("settings.json");
        let with = |collect: &str| {
            fs::write(&settings, format!("{{\"format\": 1, \"collect\": {collect}}}")).unwrap();
        };
        for wrong in ["{\"older-than\": \"30d\"}", "{\"older_than\": \"30 dayz\"}", "7"] {
            with(wrong);
            env.mount();
            assert!(env.mounted("key").exists());
            let stderr = env.fail(1, &["gc"]);
            assert!(stderr.contains("collect") && stderr.contains("settings.json"), "{stderr}");
            assert_eq!(left(env, "key"), [1, 2, 3]);
            env.unmount();
        }
        // One that does is what is meant without options, and for those that are not given.
        with("{\"keep\": 2, \"older_than\": \"30d\"}");
        assert_eq!(number(&gc(env, &[])["collected"]["versions"]), 0);
        assert_eq!(number(&gc(env, &["--keep", "1"])["collected"]["versions"]), 0);
        assert_eq!(number(&gc(env, &["--older-than", "0s"])["collected"]["versions"]), 1);
        assert_eq!(left(env, "key"), [2, 3]);
        assert!(env.fail(2, &["gc", "--keep", "0"]).contains("--keep"));
        assert!(env.fail(2, &["gc", "--older-than", "soon"]).contains("--older-than"));
    });
}

#[test]
fn a_source_goes_with_its_last_version() {
    in_environment(User::Root, Inline::Default, &|env| {
        env.mount();
        versions(env, "key", 2);
        let sources: Vec<_> = env
            .json(&["log", "key"])
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["source"].as_str().unwrap().to_owned())
            .collect();
        for source in &sources {
            assert!(env.run(&["gc", "--why", source]).contains("key@"));
        }
        let done = gc(env, &[]);
        assert_eq!(
            (number(&done["collected"]["versions"]), number(&done["collected"]["payloads"])),
            (1, 2)
        );
        let gone = sources.iter().filter(|source| {
            let output = env.wasmfs().args(["gc", "--why", source]).output().unwrap();
            !output.status.success()
        });
        assert_eq!(gone.count(), 1);
        env.unmount();
    });
}

#[test]
fn what_a_crash_left_is_swept() {
    in_environment(User::Root, Inline::Default, &|env| {
        versions(env, "key", 1);
        let before = objects(env);
        let dir = env.store().join("objects/ab");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("ab{}", "0".repeat(62))), [1; 1000]).unwrap();
        fs::write(dir.join("notes.txt"), "not ours").unwrap();
        let done = gc(env, &[]);
        assert_eq!(number(&done["tidied"]["orphans"]["bytes"]), 1000);
        assert_eq!(objects(env), before + 1);
        assert!(dir.join("notes.txt").exists());
    });
}
