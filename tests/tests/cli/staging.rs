//! What a command stages beside the server: whole, held while the command lives, and swept after.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use wasmfs_tests::{Environment, Inline, User, in_each_environment, in_environment, names};

use crate::path;

/// An artifact that is no small one: data that its code never looks at makes it so.
fn large_artifact(env: &Environment, name: &str, seed: usize) -> Vec<u8> {
    let data: String = (0..300_000).map(|at| char::from(b'a' + ((at * seed) % 23) as u8)).collect();
    let module = format!("(module (memory 8) (data (i32.const {seed}) \"{data}\"))");
    let file = env.file("large.wat", module);
    env.run(&["publish", path(&file), "--key", name, "--no-keep-source"]);
    let sha256 = env.json(&["show", name])["sha256"].as_str().unwrap().to_owned();
    let bytes = fs::read(env.object(&sha256));
    let bytes = bytes.unwrap_or_else(|_| fs::read(env.mounted(name)).unwrap());
    env.run(&["rm", name]);
    bytes
}

/// A publish that reads from a pipe.
fn publish(env: &Environment, key: &str) -> (Child, ChildStdin) {
    let mut command = env.wasmfs();
    command.args(["publish", "-", "--key", key]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

fn staged(env: &Environment) -> Vec<String> {
    let incoming = env.store().join("incoming");
    if incoming.exists() { names(&incoming) } else { Vec::new() }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_client_killed_at_any_step_of_staging_leaves_nothing() {
    in_each_environment(|env| {
        env.mount();
        let bytes = large_artifact(env, "large", 3);
        let small = env.file("small.wat", "(module (func (export \"small\")))");
        let worker = env.worker_pid();
        // Bytes that are in the pipe when it is killed, and whether the pipe is closed before, and
        // how long the client has then.
        let steps = [(0, None), (64, None), (200_000, None), (bytes.len(), None)];
        let after = [0, 1, 2, 3, 5, 8, 12, 20].map(|ms| (bytes.len(), Some(ms)));
        let mut committed = 0;
        for (number, (sent, closed)) in steps.into_iter().chain(after).enumerate() {
            let key = format!("key-{number}");
            let (mut child, mut stdin) = publish(env, &key);
            stdin.write_all(&bytes[..sent]).unwrap();
            if sent > 128 << 10 {
                wait_until("it stages a file, under a lease", || staged(env).len() >= 2);
            }
            match closed {
                None => assert_eq!(child.try_wait().unwrap(), None, "{sent} bytes"),
                Some(ms) => {
                    drop(stdin);
                    std::thread::sleep(Duration::from_millis(ms));
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // Whoever stages next sweeps what it left.
            env.run(&["publish", path(&small), "--key", "small"]);
            wait_until("it is swept", || staged(env).is_empty());
            // All of it went in, or nothing.
            if let Ok(served) = fs::read(env.mounted(&key)) {
                assert!(served == bytes, "{key}");
                committed += 1;
            }
        }
        eprintln!("{committed} of 12 were committed");
        assert_eq!(env.worker_pid(), worker);
        env.run(&["gc"]);
        assert_eq!(env.json(&["verify"])["sound"], true);
        env.unmount();
    });
}

#[test]
fn a_worker_that_starts_leaves_what_is_being_staged() {
    in_each_environment(|env| {
        env.mount();
        let bytes = large_artifact(env, "large", 5);
        let (mut child, mut stdin) = publish(env, "key");
        stdin.write_all(&bytes[..200_000]).unwrap();
        wait_until("it stages a file", || staged(env).len() == 2);
        // What an older program or a dead client left has no lease that is held.
        for name in ["0", "0123456789abcdef.lease", "0123456789abcdef.0"] {
            env.file(&format!(".local/share/wasmfs/incoming/{name}"), "left");
        }
        let worker = env.worker_pid();
        env.signal(worker, "-KILL");
        wait_until("the next worker serves", || {
            let status = env.json(&["status"]);
            status["worker"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(worker))
        });
        assert_eq!(staged(env).len(), 2, "{:?}", staged(env));
        stdin.write_all(&bytes[200_000..]).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(fs::read(env.mounted("key")).unwrap() == bytes);
        assert_eq!(staged(env), [""; 0]);
        env.unmount();
    });
}

#[test]
fn a_store_is_its_owners_alone() {
    let denied = |env: &Environment, mounted: bool| {
        let file = env.file("m.wat", "(module)");
        let store = env.store();
        for args in [
            &["publish", path(&file)][..],
            &["ls"],
            &["status"],
            &["reload"],
            &["export", "/dev/null/x"],
            &["mount", "/nowhere"],
            &["verify"],
        ] {
            // Root is as much another user as anybody.
            let mut command = std::process::Command::new(wasmfs_tests::binary("wasmfs"));
            let output = command.args(args).arg("--store").arg(&store).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{args:?} mounted: {mounted}: {stderr}");
            assert!(stderr.contains("belongs to uid"), "{args:?}: {stderr}");
            assert!(stderr.contains("run this as the store's owner"), "{args:?}: {stderr}");
        }
    };
    let env = Environment::new(User::Ordinary, Inline::Default);
    std::thread::scope(|scope| {
        let owner = |args: &'static [&'static str]| {
            let env = &env;
            let run = move || {
                wasmfs_tests::become_ordinary();
                env.run(args)
            };
            scope.spawn(run).join().unwrap()
        };
        owner(&["capture", "--", "true"]);
        denied(&env, false);
        owner(&["mount"]);
        env.watch(&env.mount_point());
        denied(&env, true);
        owner(&["unmount"]);
    });
}

#[test]
fn what_cannot_be_staged_is_refused_with_the_reason() {
    // Root writes wherever it wants, unless the disk is read-only.
    in_environment(User::Ordinary, Inline::Default, &|env: &Environment| {
        env.mount();
        let bytes = large_artifact(env, "large", 7);
        let file = env.file("large.cwasm", &bytes);
        let incoming = env.store().join("incoming");
        let allow = |mode| set_mode(&incoming, mode);
        allow(0o500);
        let stderr = env.fail(1, &["publish", path(&file)]);
        assert!(stderr.contains("can't be written from here"), "{stderr}");
        assert!(stderr.contains("hint: a command writes what it publishes into"), "{stderr}");
        // What is small goes in the request.
        let small = env.file("small.wat", "(module)");
        env.run(&["publish", path(&small)]);
        allow(0o700);
        env.run(&["publish", path(&file)]);
        env.unmount();
    });
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
