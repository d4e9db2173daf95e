//! Directories that are no store, and look like one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{module, snapshot, text, with_attacker};

/// A directory with these files; a name that ends with a slash is a directory.
fn filled(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, content) in files {
        match name.strip_suffix('/') {
            Some(name) => fs::create_dir(dir.join(name)).unwrap(),
            None => fs::write(dir.join(name), content).unwrap(),
        }
    }
}

#[test]
fn what_is_no_store_is_not_touched() {
    with_attacker(|env, _| {
        let module = module(env, 1);
        env.run(&["publish", text(&module), "--key", "k"]);
        env.run(&["export", text(&env.path("archive.tar"))]);
        let editor = "{\"editor.fontSize\": 12, \"wasmfs\": {\"path\": \"/usr/bin/wasmfs\"}}";
        let numbered = "{\"format\": 1, \"theme\": \"dark\"}";
        let cases: &[&[(&str, &str)]] = &[
            &[("settings.json", editor)],
            &[("settings.json", "not JSON"), ("notes.txt", "mine")],
            &[
                ("settings.json", numbered),
                ("history", "mine: a history\nof something else\n"),
                ("lock", "mine too, and long enough to see"),
                ("incoming/", ""),
                ("incoming/letter", "to be read"),
                ("incoming/0123456789abcdef.0", "to be read"),
                ("objects/", ""),
                ("db/", ""),
                ("db/db", "rows"),
                ("reserve", "wine"),
                ("state.json", "{\"closed\": true}"),
                ("wasmfs.log", "a log"),
            ],
            &[("settings.json", numbered), ("incoming/", ""), ("incoming/letter", "to be read")],
            &[("settings.json", numbered), ("control.sock", "a file"), ("history", "")],
        ];
        for (number, files) in cases.iter().enumerate() {
            let dir = env.path(format!("dir{number}"));
            filled(&dir, files);
            let before = snapshot(&dir);
            for args in [
                &["ls"][..],
                &["status"],
                &["publish", text(&module), "--key", "k"],
                &["import", text(&env.path("archive.tar"))],
                &["import", text(&dir)],
                &["export", text(&env.path("other.tar"))],
                &["mount", text(&env.path("mount"))],
                &["verify"],
                &["verify", "--repair"],
                &["gc"],
                &["recompile", "--all"],
                &["rm", "k"],
                &["capture", "--env", "X", "--", "true"],
            ] {
                let output = wasmfs_tests::output(
                    env.wasmfs().args([&["--store", text(&dir)], args].concat()),
                );
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!output.status.success(), "{number} {args:?}");
                assert!(stderr.contains("is not a wasmfs store"), "{number} {args:?}: {stderr}");
                assert_eq!(snapshot(&dir), before, "{number} {args:?}");
            }
        }
    });
}

#[test]
fn a_store_of_an_older_release_is_one() {
    with_attacker(|env, _| {
        let module = module(env, 1);
        env.run(&["publish", text(&module), "--key", "k"]);
        let settings = env.store().join("settings.json");
        let without = "{\"format\": 2, \"inline_limit\": 16384}";
        for damage in ["", "settings.json", "history", "state.json"] {
            fs::write(&settings, without).unwrap();
            let before = fs::read(env.store().join("history")).unwrap();
            match damage {
                "" => {}
                "settings.json" => fs::write(&settings, "{").unwrap(),
                "history" => {
                    fs::write(env.store().join("history"), vec![b'x'; before.len()]).unwrap();
                }
                name => fs::remove_file(env.store().join(name)).unwrap(),
            }
            let output = wasmfs_tests::output(env.wasmfs().arg("ls"));
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!stderr.contains("is not a wasmfs store"), "{damage}: {stderr}");
            fs::write(env.store().join("history"), before).unwrap();
        }
        fs::write(&settings, without).unwrap();
        assert_eq!(env.run(&["ls"]).lines().count(), 1);
        // From then on it says so itself, and what the owner wrote is as it was.
        let said = fs::read_to_string(&settings).unwrap();
        assert!(said.contains("\"wasmfs\": \"store\"") && said.contains("16384"), "{said}");
    });
}
