//! Archives: backups, and copies for other machines.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use wasmfs_tests::{Environment, Inline, User, in_each_environment, in_environment, output};

use crate::{flip, number, object_files, versions};

/// Some of everything.
fn fill(env: &Environment) {
    versions(env, "dir/key", 3);
    versions(env, "other", 2);
    env.run(&["rollback", "dir/key", "1"]);
    env.run(&["rm", "dir/key@2"]);
    env.run(&["pin", "other@1"]);
    let label = env.json(&["engines"])[0]["label"].as_str().unwrap().to_owned();
    env.run(&["engines", "alias", "prod", &label]);
}

fn told(env: &Environment, store: &str) -> String {
    ["dir/key", "other"].map(|key| env.run(&["--store", store, "log", key, "--json"])).concat()
        + &env.run(&["--store", store, "engines", "--json"])
}

/// The bytes of every object file.
fn bytes(store: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let read =
        |path: std::path::PathBuf| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap());
    object_files(store).into_iter().map(read).collect()
}

#[test]
fn an_empty_store_becomes_what_was_exported_to_the_byte() {
    in_each_environment(|env| {
        fill(env);
        for (mounted, more) in [(false, None), (true, None), (true, Some("--zstd"))] {
            if mounted && more.is_none() {
                env.mount();
            }
            let name = format!("backup-{mounted}-{}", more.is_some());
            let (archive, copy) = (format!("{name}.tar"), env.path(format!("{name}.store")));
            let mut args = vec!["export", &archive];
            args.extend(more);
            env.run(&args);
            assert!(env.fail(1, &["export", &archive]).contains("exists already"));
            let copy_name = copy.to_str().unwrap();
            let said = env.run(&["--store", copy_name, "import", &archive]);
            assert!(said.contains("is an exact copy"), "{said}");
            let own = env.store().to_str().unwrap().to_owned();
            assert_eq!(told(env, copy_name), told(env, &own));
            assert_eq!(
                fs::read(copy.join("history")).unwrap(),
                fs::read(env.store().join("history")).unwrap()
            );
            assert_eq!(bytes(&copy), bytes(&env.store()));
            env.run(&["--store", copy_name, "verify"]);
        }
        env.unmount();
    });
}

#[test]
fn an_archive_goes_through_a_pipe() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        fill(env);
        let mut export =
            env.wasmfs().args(["export", "-", "--zstd"]).stdout(Stdio::piped()).spawn().unwrap();
        let copy = env.path("copy");
        let mut import = env.wasmfs();
        import.arg("--store").arg(&copy).args(["import", "-"]).stdin(export.stdout.take().unwrap());
        let output = output(&mut import);
        assert!(export.wait().unwrap().success() && output.status.success(), "{output:?}");
        assert_eq!(bytes(&copy), bytes(&env.store()));
    });
}

#[test]
fn what_is_damaged_or_cut_short_is_refused_and_can_be_done_again() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        fill(env);
        env.run(&["export", "whole.tar"]);
        let whole = fs::read(env.path("whole.tar")).unwrap();
        env.file("short.tar", &whole[..whole.len() / 2]);
        env.file("bad.tar", &whole);
        // In the middle of the first payload, after the settings.
        flip(&env.path("bad.tar"), 512 * 4 + 3000);
        env.file("none.tar", b"WebAssembly is no archive");
        for (store, name, says) in [
            ("copy", "short.tar", "not a complete archive"),
            ("other", "bad.tar", "differ"),
            ("copy", "none.tar", "not a complete archive"),
        ] {
            let stderr = env.fail(1, &["--store", store, "import", name]);
            assert!(stderr.contains(says) && stderr.contains("hint:"), "{name}: {stderr}");
            let store = env.path(store);
            assert!(
                !store.join("history").exists()
                    || fs::metadata(store.join("history")).unwrap().len() < 300
            );
        }
        let report = env.json(&["--store", "copy", "import", "whole.tar"]);
        assert!(number(&report["skipped"]) > 0, "{report}");
        assert_eq!(bytes(&env.path("copy")), bytes(&env.store()));
        let stderr = env.fail(2, &["import", "whole.tar", "--link"]);
        assert!(stderr.contains("are for a directory"), "{stderr}");
    });
}

#[test]
fn another_store_gets_what_it_has_not_got() {
    in_each_environment(|env| {
        fill(env);
        env.run(&["export", "theirs.tar"]);
        let theirs = env.json(&["log", "dir/key"]);
        // Another store, with a key of its own and one of theirs.
        let store = env.path("ours").to_str().unwrap().to_owned();
        let file = env.file("own.wat", "(module (func (export \"own\")))");
        // Later by the second, which is what times are shown to.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        env.run(&["--store", &store, "publish", file.to_str().unwrap(), "--key", "own"]);
        env.run(&["--store", &store, "publish", file.to_str().unwrap(), "--key", "other"]);
        let report = env.json(&["--store", &store, "import", "theirs.tar"]);
        // What is here under `other` is newer than theirs.
        assert_eq!((number(&report["added"]), number(&report["older"])), (3, 2), "{report}");
        assert_eq!(report["exact"], false);
        let again = env.json(&["--store", &store, "import", "theirs.tar"]);
        assert_eq!((number(&again["added"]), number(&again["unchanged"])), (0, 3), "{again}");
        // What was removed comes back.
        env.run(&["--store", &store, "rm", "dir/key"]);
        let back = env.json(&["--store", &store, "import", "theirs.tar"]);
        assert_eq!(number(&back["added"]), 3, "{back}");
        let ours = env.json(&["--store", &store, "log", "dir/key"]);
        let newest = |log: &serde_json::Value| {
            let versions = log.as_array().unwrap().clone();
            let served = versions.into_iter().find(|v| v["served_by_plain_name"] == true).unwrap();
            (served["sha256"].clone(), served["source"].clone(), served["producer"].clone())
        };
        assert_eq!(newest(&ours), newest(&theirs));
        let other = env.json(&["--store", &store, "log", "other"]);
        assert_eq!(other.as_array().unwrap().len(), 1);
        let engines = env.run(&["--store", &store, "engines"]);
        assert!(engines.contains("prod"), "{engines}");
        env.run(&["--store", &store, "verify"]);
        // And into one that is mounted.
        env.run(&["--store", &store, "export", "ours.tar"]);
        env.mount();
        let report = env.json(&["import", "ours.tar"]);
        assert_eq!(number(&report["added"]), 2, "{report}");
        let pinned = env.json(&["log", "other"]);
        assert_eq!(pinned.as_array().unwrap().iter().filter(|v| v["pinned"] == true).count(), 1);
        assert!(env.mounted("own").exists());
        env.unmount();
    });
}
