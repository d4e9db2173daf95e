//! What is damaged is found, and repaired as far as it can be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use wasmfs_tests::{Environment, Inline, User, in_each_environment, in_environment, output};

use crate::{flip, gc, number, object_files, versions};

/// `wasmfs verify ARGS --json`, and its exit status.
fn verify(env: &Environment, args: &[&str]) -> (i32, Value) {
    let output = output(env.wasmfs().arg("verify").args(args).arg("--json"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

fn kinds(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_sound_store_verifies_mounted_or_not() {
    in_each_environment(|env| {
        versions(env, "key", 3);
        env.run(&["rm", "key@1"]);
        for mounted in [false, true] {
            if mounted {
                env.mount();
            }
            let (status, report) = verify(env, &[]);
            assert_eq!((status, kinds(&report)), (0, vec![]), "{report}");
            assert_eq!(number(&report["payloads"]), 6);
            assert!(number(&report["records"]) > 10 && number(&report["changes"]) > 10);
        }
        env.unmount();
    });
}

#[test]
fn verify_beside_publishes_and_collections_finds_nothing() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        env.mount();
        versions(env, "key", 2);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    versions(env, &format!("key-{}", round % 3), 2);
                    gc(env, &[]);
                    if round % 3 == 0 {
                        env.signal(env.worker_pid(), "-KILL");
                    }
                }
            });
            for round in 0..12 {
                let (status, report) = verify(env, &[]);
                assert_eq!(status, 0, "round {round}: {report}");
            }
            stop.store(true, Ordering::Relaxed);
        });
        env.unmount();
    });
}

#[test]
fn a_damaged_payload_is_named_moved_aside_and_mended_by_publishing() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        env.mount();
        let file = crate::artifacts(env, 1).remove(0).0;
        let published = env.publish(&file, "dir/key", &[]);
        env.run(&["rm", "compiled"]);
        gc(env, &[]);
        env.unmount();
        versions(env, "other", 1);
        let sha256 = published["sha256"].as_str().unwrap();
        let store = env.store();
        let object = object_files(&store).into_iter().find(|path| path.ends_with(sha256)).unwrap();
        flip(&object, 300_000);
        env.mount();
        for _ in 0..2 {
            let (status, report) = verify(env, &[]);
            assert_eq!((status, kinds(&report)), (1, vec!["payload-damaged"]), "{report}");
            assert_eq!(report["findings"][0]["versions"][0], "dir/key@1");
            assert!(object.exists());
        }
        let stderr = env.fail(1, &["verify", "--repair"]);
        assert!(stderr.contains("mounted") && stderr.contains("wasmfs unmount"), "{stderr}");
        env.unmount();
        let (status, report) = verify(env, &["--repair"]);
        assert_eq!(status, 2, "{report}");
        assert_eq!(report["findings"][0]["lost"], true);
        assert!(!object.exists() && store.join("quarantine").join(sha256).exists());
        env.publish(&file, "dir/key", &[]);
        let (status, report) = verify(env, &[]);
        assert_eq!((status, kinds(&report)), (0, vec![]), "{report}");
    });
}

#[test]
fn a_damaged_history_is_written_anew_from_the_catalogue() {
    in_each_environment(|env| {
        versions(env, "key", 4);
        let before = env.run(&["log", "key", "--json"]);
        let history = env.store().join("history");
        flip(&history, fs::metadata(&history).unwrap().len() as usize / 2);
        let (status, report) = verify(env, &[]);
        assert_eq!((status, kinds(&report)), (1, vec!["history"]), "{report}");
        let (status, report) = verify(env, &["--repair"]);
        assert_eq!((status, &report["sound"]), (0, &Value::Bool(true)), "{report}");
        assert_eq!(env.run(&["log", "key", "--json"]), before);
        assert_eq!(verify(env, &[]).0, 0);
        let names = fs::read_dir(env.store()).unwrap();
        let names: Vec<_> = names.map(|n| n.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with("history.damaged-")), "{names:?}");
    });
}

#[test]
fn a_lost_catalogue_is_rebuilt_by_itself_and_says_what_is_lost() {
    in_each_environment(|env| {
        versions(env, "key", 2);
        fs::remove_dir_all(env.store().join("db")).unwrap();
        env.mount();
        let inside = env.store().join("objects").read_dir().unwrap().count() == 0;
        let read = fs::read(env.mounted("key"));
        assert_eq!(read.is_err(), inside, "{read:?}");
        let (status, report) = verify(env, &[]);
        assert_eq!(status == 1, inside, "{report}");
        env.unmount();
        if inside {
            let (status, report) = verify(env, &["--repair"]);
            assert_eq!(status, 2, "{report}");
        }
    });
}

#[test]
fn what_is_too_open_is_closed() {
    in_environment(User::Root, Inline::Default, &|env| {
        env.publish(&env.file("module.wat", wasmfs_tests::module::wat(1)), "key", &[]);
        let object = object_files(&env.store()).remove(0);
        fs::set_permissions(&object, fs::Permissions::from_mode(0o666)).unwrap();
        let (status, report) = verify(env, &[]);
        assert_eq!((status, kinds(&report)), (1, vec!["permissions"]), "{report}");
        assert_eq!(verify(env, &["--repair"]).0, 0);
        assert_eq!(fs::metadata(&object).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(verify(env, &[]).0, 0);
    });
}
