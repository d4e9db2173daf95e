//! What `--json` prints: docs/json.md has every field, and an error is JSON too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use wasmfs_tests::{Environment, Inline, User, output};

use crate::{MODULE, path};

/// The names of all fields, at any depth.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                // By the kind of request, which there may be more of.
                if name != "requests" {
                    fields(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
        _ => {}
    }
}

#[test]
fn the_page_of_json_has_every_field() {
    let env = Environment::new(User::Root, Inline::Default);
    let cache = env.dir("cache");
    let file = env.file("m.wat", MODULE);
    let bad = env.file("bad.cwasm", "no artifact");
    let (file, bad, cache) = (path(&file), path(&bad), path(&cache));
    let mut found = BTreeSet::new();
    let mut see = |args: &[&str]| {
        let output = output(env.wasmfs().args(args).arg("--json"));
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
        fields(&json, &mut found);
        json
    };
    see(&["status"]);
    env.mount();
    see(&["publish", file, bad, "--prefix", "a"]);
    see(&["publish", file, "--key", "b", "--compiler", "winch"]);
    let engines = see(&["engines"]);
    let engine = engines[0]["label"].as_str().unwrap().to_owned();
    fs::copy(env.mounted("b"), env.path("cache/b")).unwrap();
    fs::write(env.path("cache/notes"), "notes").unwrap();
    for args in [
        &["engines", "alias", "prod", &engine][..],
        &["engines", "diff", "prod", path(&env.mounted("b"))],
        &["import", cache],
        &["import", cache, "--prefix", "c"],
        &["recompile", "--all"],
        &["recompile", "c/b"],
        &["default", "--all", "prod"],
        &["rollback", "b", "1"],
        &["pin", "b@1"],
        &["gc", "--why", "b"],
        &["unpin", "b@1"],
        &["log"],
        &["show", "b"],
        &["ls"],
        &["link", path(&env.path("links"))],
        &["rm", "b"],
        &["gc"],
        &["export", path(&env.path("backup.tar"))],
        &["import", path(&env.path("backup.tar"))],
        &["verify"],
        &["status"],
        &["show", "none"],
    ] {
        see(args);
    }
    env.unmount();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let page = fs::read_to_string(page).unwrap();
    let missing: Vec<_> =
        found.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/json.md lacks {missing:?}");
}

#[test]
fn a_command_that_fails_prints_its_error_as_json() {
    let env = Environment::new(User::Root, Inline::Default);
    let error = |args: &[&str]| {
        let output = output(env.wasmfs().args(args));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let error = &json["error"];
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(stderr.contains(&message), "{stderr}");
        assert_eq!(json.as_object().unwrap().len(), 1);
        (error["code"].as_str().unwrap().to_owned(), output.status.code())
    };
    let code = |code: &str, status| (code.to_owned(), Some(status));
    assert_eq!(error(&["ls", "--json"]), code("no-store", 1));
    env.run(&["publish", path(&env.file("m.wat", MODULE))]);
    env.mount();
    for _ in ["mounted", "not mounted"] {
        assert_eq!(error(&["show", "none", "--json"]), code("no-key", 1));
        assert_eq!(error(&["log", "none", "--json"]), code("no-key", 1));
        assert_eq!(error(&["rm", "m.cwasm@7", "--json"]), code("no-version", 1));
        assert_eq!(error(&["unpin", "m.cwasm@1", "--json"]), code("not-pinned", 1));
        assert_eq!(error(&["import", "/nowhere", "--json"]), code("unreadable-directory", 1));
        assert_eq!(error(&["publish", "--json"]), code("usage", 2));
        assert_eq!(error(&["ls", "--json", "--nonsense"]), code("usage", 2));
        assert_eq!(error(&["default", "m.cwasm", "none", "--json"]), code("no-engine", 1));
        if env.json(&["status"])["mounted"] == true {
            env.unmount();
        }
    }
}
