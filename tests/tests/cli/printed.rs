//! What each command prints, word for word.

use wasmfs_tests::{Environment, Inline, User};

use crate::snapshot::{check, session};
use crate::{COMPONENT, MODULE, path};

/// A user with some files, and nothing published.
fn user() -> Environment {
    let env = Environment::new(User::Root, Inline::Default);
    env.file("app.wat", MODULE);
    env.file("app-2.wat", "(module (func (export \"answer\") (result i32) i32.const 43))");
    env.file("part.wat", COMPONENT);
    env.file("notes.txt", "no artifact");
    env
}

/// The same, with two versions of one key and one of another.
fn publisher() -> Environment {
    let env = user();
    for (file, key) in
        [("app.wat", "app.cwasm"), ("app-2.wat", "app.cwasm"), ("part.wat", "lib/part.cwasm")]
    {
        env.run(&["publish", path(&env.path(file)), "--key", key]);
    }
    env
}

#[test]
fn publish() {
    let env = user();
    let text = session(
        &env,
        &[
            &["publish"],
            &["publish", "app.wat"],
            &["publish", "app.wat"],
            &["publish", "app.wat", "part.wat", "--prefix", "tools"],
            &["publish", "app.wat", "notes.txt", "missing.wasm"],
            &["publish", "app-2.wat", "--key", "app.cwasm", "--compiler", "winch"],
            &["publish", "app-2.wat", "--key", "../up"],
            &["publish", "app-2.wat", "--key", "app.cwasm/below"],
            &["publish", "app.wat", "part.wat", "--key", "one"],
            &["publish", "app.wat", "--engine", "nobody"],
        ],
    );
    check("publish", &text);
}

#[test]
fn ls() {
    let env = user();
    let empty = session(&env, &[&["ls"]]);
    let env = publisher();
    // A character may be two columns wide.
    let wide: &[&str] = &["publish", "app.wat", "--key", "部品.cwasm"];
    let text = session(&env, &[&["ls"], &["ls", "lib/"], &["ls", "nothing"], wide, &["ls"]]);
    check("ls", &format!("{empty}\n{text}"));
}

#[test]
fn log_and_show() {
    let env = publisher();
    let text = session(
        &env,
        &[
            &["log"],
            &["log", "app.cwasm"],
            &["log", "absent"],
            &["show", "app.cwasm"],
            &["show", "app.cwasm@1"],
            &["show", "app.cwasm@9"],
            &["show", "lib/part.cwasm", "--json"],
        ],
    );
    check("log_and_show", &text);
}

#[test]
fn rollback_and_rm() {
    let env = publisher();
    let text = session(
        &env,
        &[
            &["rollback", "app.cwasm"],
            &["rollback", "lib/part.cwasm"],
            &["rm", "app.cwasm@3"],
            &["rm", "app.cwasm"],
            &["rm", "app.cwasm"],
            &["rm", "absent"],
        ],
    );
    check("rollback_and_rm", &text);
}

#[test]
fn pin_and_gc() {
    let env = publisher();
    let text = session(
        &env,
        &[
            &["pin", "app.cwasm@1"],
            &["gc", "--dry-run"],
            &["gc", "--why", "app.cwasm@1"],
            &["unpin", "app.cwasm@1"],
            &["unpin", "app.cwasm@1"],
            &["gc", "--why", "app.cwasm@1"],
            &["gc"],
            &["gc", "--keep", "none"],
        ],
    );
    check("pin_and_gc", &text);
}

#[test]
fn engines_and_default() {
    let env = publisher();
    env.run(&["publish", path(&env.path("app.wat")), "--key", "app.cwasm", "--compiler", "winch"]);
    let engines = env.json(&["engines"]);
    let label = |n: usize| engines[n]["label"].as_str().unwrap().to_owned();
    let (cranelift, winch) = (label(0), label(1));
    let text = session(
        &env,
        &[
            &["engines"],
            &["engines", "alias", "prod", &cranelift],
            &["engines", "alias", "wasmtime-x", &cranelift],
            &["engines", "diff", "prod", &winch],
            &["default", "app.cwasm", &winch],
            &["default", "--all", "prod"],
            &["default", "lib/part.cwasm", &winch],
            &["engines", "unalias", "prod"],
            &["engines", "unalias", "prod"],
        ],
    );
    check("engines_and_default", &text);
}

#[test]
fn recompile() {
    let env = publisher();
    let text = session(
        &env,
        &[&["recompile", "--all", "--compiler", "winch"], &["recompile", "absent"], &["recompile"]],
    );
    check("recompile", &text);
}

#[test]
fn verify_export_and_import() {
    let env = publisher();
    let text = session(
        &env,
        &[
            &["verify"],
            &["export", "backup.tar"],
            &["export", "backup.tar"],
            &["--store", "other", "import", "backup.tar"],
            &["--store", "other", "import", "backup.tar"],
            &["--store", "third", "import", "notes.txt"],
            &["verify", "--store", "nowhere"],
        ],
    );
    check("verify_export_and_import", &text);
}

#[test]
fn mount_status_and_unmount() {
    let env = publisher();
    let text = session(&env, &[&["status"], &["reload"], &["unmount"]]);
    env.mount();
    let mounted = session(
        &env,
        &[
            &["mount"],
            &["publish", "app.wat", "--key", "more.cwasm"],
            &["mount", "elsewhere"],
            &["unmount", "elsewhere"],
            &["unmount"],
        ],
    );
    check("mount_status_and_unmount", &format!("{text}\n{mounted}"));
}

#[test]
fn link_and_capture() {
    let env = publisher();
    let unmounted = session(&env, &[&["link", "cache"]]);
    env.mount();
    let text = session(
        &env,
        &[
            &["link", "cache"],
            &["link", "cache"],
            &["link", "cache", "--engine", "nobody"],
            &["capture", "--", "true"],
            &["capture", "--", "/nowhere/host"],
            &["import", "cache"],
        ],
    );
    env.unmount();
    check("link_and_capture", &format!("{unmounted}\n{text}"));
}
