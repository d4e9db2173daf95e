//! `wasmfs link`.

use std::fs;

use serde_json::json;
use wasmfs_tests::in_each_environment;

use crate::{MODULE, path};

#[test]
fn links_follow_what_is_published() {
    in_each_environment(|env| {
        let files = ["m.wat", "n.wat"].map(|name| env.file(name, MODULE));
        env.publish(&files[0], "a/b", &[]);
        env.publish(&files[0], "c", &["--compiler", "winch"]);
        env.mount();
        let dir = env.path("links");
        let link = |more: &[&str]| env.json(&[&["link", path(&dir)], more].concat());
        assert_eq!(link(&[])["linked"], json!(["a/b", "c"]));
        assert_eq!(link(&[])["unchanged"], 2);
        assert!(fs::read(dir.join("a/b")).unwrap() == fs::read(env.mounted("a/b")).unwrap());
        // A new version needs no new link.
        env.publish(&env.file("o.wat", "(module)"), "a/b", &[]);
        assert!(fs::read(dir.join("a/b")).unwrap() == fs::read(env.mounted("a/b")).unwrap());
        // A directory that becomes a key, and a file of the host's own in the way of another.
        env.run(&["rm", "a/b"]);
        env.publish(&files[1], "a", &[]);
        fs::remove_file(dir.join("c")).unwrap();
        fs::write(dir.join("c"), "the host's own").unwrap();
        let report = link(&[]);
        assert_eq!((&report["linked"], &report["kept"]), (&json!(["a"]), &json!(["c"])));
        assert_eq!(fs::read_to_string(dir.join("c")).unwrap(), "the host's own");
        assert!(dir.join("a").is_file());
        // Only one engine's; an engine that nobody has is a mistake, and takes nothing away.
        let winch = env.json(&["show", "c"])["engine"].as_str().unwrap().to_owned();
        let stderr = env.fail(1, &["link", path(&dir), "--engine", "wasmtime-48"]);
        assert!(stderr.contains("`wasmfs engines` lists"), "{stderr}");
        assert_eq!(link(&["--engine", &winch])["removed"], json!(["a"]));
        env.unmount();
    });
}
