//! What root makes in directories of others, and who may look into a store.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use walkdir::WalkDir;
use wasmfs_tests::{Inline, User, in_environment, output};

use crate::{give, module, snapshot, text, with_attacker};

#[test]
fn root_makes_nothing_in_a_home_that_is_not_its_own() {
    with_attacker(|env, arena| {
        let module = module(env, 0);
        let home = arena.join("home");
        for made in ["", ".local", ".local/share"] {
            fs::create_dir(home.join(made)).unwrap();
            give(&home.join(made));
            let before = snapshot(&home);
            for args in [
                &["publish", text(&module)][..],
                &["mount"],
                &["import", text(arena)],
                &["mount", "--foreground"],
                &["capture", "--env", "X", "--", "true"],
            ] {
                let output = output(env.wasmfs().env("HOME", &home).args(args));
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!output.status.success(), "{args:?}");
                assert!(stderr.contains("and this is root"), "{args:?}: {stderr}");
                assert_eq!(snapshot(&home), before, "{args:?}");
            }
        }
        // Nor a mount point.
        let other = env.path("store");
        let args = ["--store", text(&other), "mount"];
        let before = snapshot(&home);
        assert!(!output(env.wasmfs().env("HOME", &home).args(args)).status.success());
        assert_eq!(snapshot(&home), before);
        // What is named is made, and that is said.
        let store = arena.join("store");
        let made = output(env.wasmfs().arg("--store").arg(&store).arg("publish").arg(&module));
        let stderr = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(made.status.success() && stderr.contains("becomes root's"), "{stderr}");
    });
}

#[test]
fn what_belongs_to_somebody_else_is_found_and_given_back() {
    with_attacker(|env, _| {
        for n in 0..3 {
            env.publish(&module(env, n), &format!("k{n}"), &[]);
        }
        let mut objects = WalkDir::new(env.store().join("objects")).into_iter().map(Result::unwrap);
        let object = objects.find(|entry| entry.file_type().is_file()).unwrap();
        let history = env.store().join("history");
        for path in [object.path(), &history, &env.store().join("db")] {
            give(path);
            let report = env.fail(1, &["verify"]);
            assert!(report.contains("verify --repair"), "{report}");
            if path != object.path() {
                // Nothing in it is used as long as it is.
                for args in [&["ls"][..], &["mount"], &["gc"]] {
                    let stderr = env.fail(1, args);
                    assert!(stderr.contains("belongs to uid"), "{args:?}: {stderr}");
                }
            }
            let held = fs::OpenOptions::new().append(true).open(path);
            let report = env.json(&["verify", "--repair"]);
            let repaired = report["findings"][0]["repaired"].as_str().unwrap();
            assert!(repaired.contains("owner is uid 0"), "{report}");
            assert_eq!(fs::metadata(path).unwrap().uid(), 0);
            if let Ok(mut held) = held {
                // Whoever has it open has another file open by now.
                std::io::Write::write_all(&mut held, b"more").unwrap();
            }
            env.run(&["verify"]);
        }
    });
}

#[test]
fn a_store_is_private_whatever_the_umask() {
    for user in [User::Root, User::Ordinary] {
        in_environment(user, Inline::Default, &|env| {
            let wasmfs = env.binary("wasmfs");
            let run = |args: &[&str]| {
                let mut command = env.command("sh");
                command.args(["-c", "umask 000; exec \"$0\" \"$@\"", text(&wasmfs)]);
                let output = output(command.args(args));
                assert!(output.status.success(), "{output:?}");
            };
            let check = || {
                for entry in WalkDir::new(env.store()) {
                    let entry = entry.unwrap();
                    let mode = entry.metadata().unwrap().permissions().mode();
                    assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
                }
            };
            let modules: Vec<_> = (0..4).map(|n| module(env, n)).collect();
            run(&["publish", text(&modules[0])]);
            check();
            run(&["mount"]);
            env.watch(&env.mount_point());
            modules.iter().for_each(|module| run(&["publish", text(module)]));
            check();
            run(&["gc"]);
            run(&["unmount"]);
            check();
            fs::remove_file(env.store().join("state.json")).unwrap();
            run(&["ls"]);
            check();
        });
    }
}
