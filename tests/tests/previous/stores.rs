//! Stores of the release before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use wasmfs_tests::{Environment, in_each_environment, names, output, succeed};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

/// Puts the store of the release before in the place of this user's.
fn unpack(env: &Environment) {
    fs::create_dir_all(env.store().parent().unwrap()).unwrap();
    let _ = fs::remove_dir_all(env.store());
    let parent = env.store().parent().unwrap().to_owned();
    let mut tar = env.command("tar");
    succeed(tar.args(["xzf"]).arg(fixture("store.tar.gz")).arg("-C").arg(&parent));
    fs::rename(parent.join("store"), env.store()).unwrap();
}

/// What the mount serves: path below it, inode number, bytes.
fn served(env: &Environment) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for name in names(&env.mounted(&directory)) {
            let path = format!("{directory}{name}");
            let whole = env.mounted(&path);
            if whole.is_dir() {
                directories.push(format!("{path}/"));
            } else {
                let inode = wasmfs_tests::identity(&whole).0;
                found.insert(path, (inode, fs::read(&whole).unwrap()));
            }
        }
    }
    found
}

#[test]
fn a_store_of_the_release_before_is_opened_and_served() {
    in_each_environment(|env| {
        unpack(env);
        // Its catalogue is brought up to today's layout, not rebuilt.
        let first = output(env.wasmfs().args(["engines", "--json"]));
        assert!(!String::from_utf8_lossy(&first.stderr).contains("rebuilding"), "{first:?}");
        let engines: Value = serde_json::from_slice(&first.stdout).unwrap();
        assert_eq!(env.json(&["ls"]), json("ls.json"));
        for engine in engines.as_array().unwrap() {
            let listed = json("ls.json").as_array().unwrap().clone();
            let has = |key: &&Value| {
                let engines = key["engines"].as_array().unwrap();
                engines.iter().any(|version| version["engine"] == engine["label"])
            };
            let counted = listed.iter().filter(has).count();
            assert_eq!(engine["keys"].as_u64(), Some(counted as u64), "{engine}");
        }
        assert_eq!(env.json(&["log"]), json("log.json"));
        assert_eq!(env.json(&["verify"])["findings"], serde_json::json!([]));
        env.mount();
        let found = served(env);
        let keys = json("ls.json");
        let keys = keys.as_array().unwrap();
        assert_eq!(found.len(), keys.len());
        for key in keys {
            let (inode, bytes) = &found[key["key"].as_str().unwrap()];
            assert_eq!(key["serves"]["inode"], *inode);
            assert_eq!(key["serves"]["size"], bytes.len() as u64);
        }
        // What is published on top goes on from its numbers.
        let before = json("log.json")[0]["inode"].as_u64().unwrap();
        let next = env.publish(&env.file("m.wat", "(module)"), "plain.cwasm", &[]);
        assert_eq!(next["version"], 4);
        assert!(next["inode"].as_u64().unwrap() > before);
        env.unmount();
    });
}

#[test]
fn its_catalogue_is_rebuilt_from_its_history_alone() {
    in_each_environment(|env| {
        unpack(env);
        env.mount();
        let expected = served(env);
        env.unmount();
        unpack(env);
        fs::remove_file(env.store().join("state.json")).unwrap();
        env.mount();
        assert!(served(env) == expected);
        env.unmount();
    });
}
