//! Promises about names and numbers.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use wasmfs_tests::{identity, in_all_environments, in_each_environment, names};

use crate::{module, publish};

#[test]
fn another_engine_never_moves_the_plain_name() {
    in_each_environment(|env| {
        env.mount();
        let first = publish(env, "key", 1);
        let winch = env.publish(&module(env, 1), "key", &["--compiler", "winch"]);
        assert_eq!(winch["served_by_plain_name"], false);
        assert_eq!(winch["default_engine"], first["engine"]);
        assert_eq!(identity(&env.mounted("key")).0, first["inode"].as_u64().unwrap());
        let path = winch["path"].as_str().unwrap();
        assert_eq!(identity(&env.mounted(path)).0, winch["inode"].as_u64().unwrap());
        // Not even when its own engine's versions are gone: the name is absent rather than wrong.
        env.run(&["rm", "key@1"]);
        assert!(!env.mounted("key").exists());
        assert!(env.mounted(path).exists());
        // The default engine survives the removal of everything.
        env.run(&["rm", "key"]);
        env.publish(&module(env, 2), "key", &["--compiler", "winch"]);
        assert!(!env.mounted("key").exists());
        // --default moves it, also without a new version.
        let moved = env.publish(&module(env, 2), "key", &["--compiler", "winch", "--default"]);
        assert_eq!(
            (&moved["status"], &moved["served_by_plain_name"]),
            (&"unchanged".into(), &true.into())
        );
        assert_eq!(identity(&env.mounted("key")).0, moved["inode"].as_u64().unwrap());
        env.unmount();
    });
}

#[test]
fn every_version_has_a_name_of_its_own() {
    in_all_environments(|env| {
        env.mount();
        let inodes: Vec<u64> =
            (1..6).map(|n| publish(env, "a/key", n)["inode"].as_u64().unwrap()).collect();
        let check = || {
            assert_eq!(names(&env.mounted(".wasmfs/versions/a/key")), ["1", "2", "3", "4", "5"]);
            for (n, inode) in inodes.iter().enumerate() {
                let name = format!(".wasmfs/versions/a/key/{}", n + 1);
                assert_eq!(identity(&env.mounted(name)).0, *inode);
            }
        };
        check();
        assert!(!env.mounted(".wasmfs/versions/a/key/01").exists());
        assert!(!env.mounted(".wasmfs/versions/a/key/6").exists());
        env.unmount();
        env.mount();
        check();
        env.run(&["rm", "a/key@3"]);
        assert_eq!(names(&env.mounted(".wasmfs/versions/a/key")), ["1", "2", "4", "5"]);
        env.unmount();
    });
}

#[test]
fn an_engine_sees_only_its_own() {
    in_each_environment(|env| {
        env.mount();
        let engines = env.mounted(".wasmfs/engines");
        assert!(names(&engines).is_empty());
        let cranelift = publish(env, "both/key", 1)["engine"].as_str().unwrap().to_owned();
        publish(env, "only-cranelift", 1);
        let winch = env.publish(&module(env, 1), "both/key", &["--compiler", "winch"]);
        let winch = winch["engine"].as_str().unwrap().to_owned();
        let mut both = vec![cranelift.clone(), winch.clone()];
        both.sort();
        let mut listed = names(&engines);
        listed.sort();
        assert_eq!(listed, both);
        assert_eq!(names(&engines.join(&cranelift)), ["both", "only-cranelift"]);
        assert_eq!(names(&engines.join(&winch)), ["both"]);
        assert_ne!(
            identity(&engines.join(&winch).join("both/key")),
            identity(&engines.join(&cranelift).join("both/key"))
        );
        // An engine without keys has no directory, until it has keys again.
        env.run(&["rm", "both/key@2"]);
        assert_eq!(names(&engines), std::slice::from_ref(&cranelift));
        assert!(!engines.join(&winch).exists());
        env.publish(&module(env, 3), "new", &["--compiler", "winch"]);
        assert_eq!(names(&engines.join(&winch)), ["new"]);
        env.unmount();
    });
}

#[test]
fn numbers_are_never_given_twice() {
    in_all_environments(|env| {
        let mut inodes = HashSet::new();
        let mut versions = HashSet::new();
        for round in 0..4 {
            env.mount();
            for n in 0..3 {
                let published = publish(env, "key", round * 10 + n);
                let inode = identity(&env.mounted("key")).0;
                assert_eq!(inode, published["inode"].as_u64().unwrap());
                assert!(inodes.insert(inode), "inode {inode} was given twice");
                assert!(versions.insert(published["version"].as_u64().unwrap()));
            }
            env.run(&["rm", "key"]);
            env.unmount();
        }
        assert_eq!(versions.iter().max(), Some(&12));
    });
}

#[test]
fn a_directory_keeps_its_number() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "a/b/key", 1);
        let paths = ["a", "a/b", ".wasmfs/versions/a/b", ".wasmfs/versions/a/b/key"];
        let look = || paths.map(|path| fs::metadata(env.mounted(path)).unwrap().ino());
        let first = look();
        env.run(&["rm", "a/b/key"]);
        assert!(paths.iter().all(|path| !env.mounted(path).exists()));
        publish(env, "a/other", 1);
        publish(env, "a/b/key", 2);
        assert_eq!(look(), first);
        assert!(first.iter().all(|inode| *inode < 1 << 53));
        env.unmount();
        env.mount();
        assert_eq!(look(), first);
        env.unmount();
    });
}

#[test]
fn an_absent_name_appears() {
    in_each_environment(|env| {
        env.mount();
        let absent = ["key", "a/key", "a/b/c/key"];
        // Looked for twice, so that the second answer is the kernel's own.
        for _ in 0..2 {
            assert!(absent.iter().all(|name| !env.mounted(name).exists()));
            assert!(!env.mounted(".wasmfs/versions/key").exists());
            assert!(!env.mounted(".wasmfs/versions/a/b/c/key/1").exists());
        }
        for (n, name) in absent.iter().enumerate() {
            publish(env, name, n as u32);
            assert!(File::open(env.mounted(name)).is_ok(), "{name}");
        }
        assert!(env.mounted(".wasmfs/versions/key").exists());
        assert!(env.mounted(".wasmfs/versions/a/b/c/key/1").exists());
        assert!(!env.mounted("a/b/other").exists());
        publish(env, "a/b/other", 9);
        assert!(env.mounted("a/b/other").exists());
        for name in absent {
            env.run(&["rm", name]);
            assert!(!env.mounted(name).exists(), "{name}");
        }
        assert!(!env.mounted("a/b/c").exists());
        assert!(env.mounted("a/b").exists());
        // A name that isn't UTF-8 can't be a key, and is simply absent.
        let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff");
        assert_eq!(fs::metadata(env.mounted(odd)).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        let long = "x".repeat(256);
        assert_eq!(
            fs::metadata(env.mounted(long)).unwrap_err().raw_os_error(),
            Some(libc::ENAMETOOLONG)
        );
        env.unmount();
    });
}

#[test]
fn the_mounts_own_names_open_and_are_not_listed() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "key", 1);
        assert_eq!(names(&env.mount_point()), ["key"]);
        assert!(env.mounted(".wasmfs").is_dir());
        let mut listed = names(&env.mounted(".wasmfs"));
        listed.sort();
        assert_eq!(listed, ["engines", "versions"]);
        let tag = fs::read_to_string(env.mounted("CACHEDIR.TAG")).unwrap();
        assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
        for key in [".wasmfs/x", "CACHEDIR.TAG"] {
            let refused = env.fail(2, &["publish", module(env, 1).to_str().unwrap(), "--key", key]);
            assert!(refused.contains("belongs to the mount"), "{refused}");
        }
        env.unmount();
    });
}

#[test]
fn an_alias_leads_to_its_engine() {
    in_each_environment(|env| {
        env.mount();
        let one = publish(env, "dir/key", 1);
        let two = env.publish(&module(env, 2), "dir/key", &["--compiler", "winch"]);
        let label =
            |published: &serde_json::Value| published["engine"].as_str().unwrap().to_owned();
        let (alias, file) =
            (env.mounted(".wasmfs/engines/dev"), env.mounted(".wasmfs/engines/dev/dir/key"));
        assert!(!file.exists());
        env.run(&["engines", "alias", "dev", &label(&one)]);
        assert_eq!(fs::read_link(&alias).unwrap().to_str(), Some(label(&one).as_str()));
        assert_eq!(identity(&file).0, one["inode"].as_u64().unwrap());
        let inode = fs::symlink_metadata(&alias).unwrap().ino();
        let held = fs::File::open(&file).unwrap();
        for to in [&two, &one, &two] {
            env.run(&["engines", "alias", "dev", &label(to)]);
            assert_eq!(fs::read_link(&alias).unwrap().to_str(), Some(label(to).as_str()));
            assert_eq!(identity(&file).0, to["inode"].as_u64().unwrap());
        }
        assert_ne!(
            fs::symlink_metadata(&alias).unwrap().ino(),
            inode,
            "each link says one thing for ever"
        );
        assert_eq!(held.metadata().unwrap().ino(), one["inode"].as_u64().unwrap());
        let listed = names(&env.mounted(".wasmfs/engines"));
        assert_eq!(listed.len(), 3, "{listed:?}");
        assert!(listed.contains(&"dev".to_owned()));
        // A directory of one's own that is a link to it goes with it.
        let own = env.path("own");
        std::os::unix::fs::symlink(&alias, &own).unwrap();
        assert_eq!(identity(&own.join("dir/key")).0, two["inode"].as_u64().unwrap());
        env.run(&["engines", "unalias", "dev"]);
        assert!(!file.exists() && fs::symlink_metadata(&alias).is_err());
        assert!(!own.join("dir/key").exists());
        drop(held);
        env.unmount();
    });
}
