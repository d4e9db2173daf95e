//! Requests that a worker dies over.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wasmfs_tests::module::wat;
use wasmfs_tests::{Environment, identity, in_each_environment, names, succeed};

use crate::{log, replacements, replacements_of, wait_until};

/// Mounts with a fault: `KIND WHAT INODE [MARKER]`, see `fs/src/fault.rs`.
fn mount_with_fault(env: &Environment, fault: &str) {
    succeed(env.faulty(fault).arg("mount"));
    env.watch(&env.mount_point());
}

/// Publishes a module before anything is mounted; the inode number it will have, and its bytes.
fn published(env: &Environment) -> (u64, Vec<u8>) {
    let source = env.file("big.wat", wat(1));
    let published = env.publish(&source, "dir/key", &[]);
    env.publish(&env.file("small.wat", "(module)"), "small", &[]);
    env.mount();
    let bytes = fs::read(env.mounted("dir/key")).unwrap();
    env.unmount();
    (published["inode"].as_u64().unwrap(), bytes)
}

/// Everything that can be asked of a mount is answered.
fn works(env: &Environment, bytes: &[u8]) {
    assert_eq!(names(&env.mount_point()), ["dir", "small"]);
    assert_eq!(names(&env.mounted("dir")), ["key"]);
    assert_eq!(identity(&env.mounted("dir/key")).1, bytes.len() as u64);
    assert!(!env.mounted("dir/none").exists());
    assert_eq!(fs::read(env.mounted("dir/key")).unwrap(), bytes);
    let sha256 = succeed(
        env.command("getfattr")
            .args(["--only-values", "-n", "user.wasmfs.sha256"])
            .arg(env.mounted("dir/key")),
    );
    assert_eq!(sha256.len(), 64);
    let listed = succeed(env.command("getfattr").arg("-d").arg(env.mounted("dir/key")));
    assert!(listed.contains("user.wasmfs.version=\"1\""), "{listed}");
    assert!(rustix::fs::statvfs(env.mount_point()).unwrap().f_blocks > 0);
    assert_eq!(names(&env.mounted(".wasmfs/versions/dir/key")), ["1"]);
}

#[test]
fn every_operation_works_after_a_takeover() {
    in_each_environment(|env| {
        let (_, bytes) = published(env);
        env.mount();
        let held = fs::File::open(env.mounted("dir/key")).unwrap();
        // A listing that was begun before goes on after.
        let mut listing = fs::read_dir(env.mount_point()).unwrap();
        assert_eq!(listing.next().unwrap().unwrap().file_name(), "dir");
        for round in 1..=3 {
            env.signal(env.worker_pid(), "-KILL");
            works(env, &bytes);
            assert_eq!(replacements(env), round);
        }
        assert_eq!(listing.next().unwrap().unwrap().file_name(), "small");
        assert!(listing.next().is_none());
        let mut byte = [0];
        held.read_exact_at(&mut byte, bytes.len() as u64 - 1).unwrap();
        assert_eq!(byte[0], bytes[bytes.len() - 1]);
        drop((held, listing));
        env.unmount();
    });
}

#[test]
fn a_read_that_a_dead_worker_had_accepted_is_answered_by_the_next() {
    in_each_environment(|env| {
        let (inode, bytes) = published(env);
        let marker = env.file("marker", "");
        mount_with_fault(env, &format!("stall read {inode} {}", marker.display()));
        let file = env.mounted("dir/key");
        let reading = std::thread::spawn(move || fs::read(file).unwrap());
        // It is in the worker's hands now.
        wait_until(|| !marker.exists());
        env.signal(env.worker_pid(), "-KILL");
        assert!(reading.join().unwrap() == bytes);
        assert!(log(env).contains("with 1 requests in flight"), "{}", log(env));
        works(env, &bytes);
        env.unmount();
    });
}

#[test]
fn a_kill_between_init_and_its_reply_leaves_a_mount_that_works() {
    in_each_environment(|env| {
        let (_, bytes) = published(env);
        let marker = env.file("marker", "");
        let fault = format!("stall init 0 {}", marker.display());
        let mut mounting = env.faulty(&fault).arg("mount").spawn().unwrap();
        wait_until(|| !marker.exists());
        env.watch(&env.mount_point());
        let worker = wasmfs_tests::guard::servers(env.home())[1];
        env.signal(worker, "-KILL");
        assert!(mounting.wait().unwrap().success());
        works(env, &bytes);
        assert_eq!(replacements(env), 1);
        env.unmount();
    });
}

#[test]
fn a_request_that_kills_three_workers_is_answered_with_an_error() {
    in_each_environment(|env| {
        let (inode, bytes) = published(env);
        mount_with_fault(env, &format!("abort read {inode}"));
        let error = fs::read(env.mounted("dir/key")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        // The kernel reads ahead: there may be more than one such request.
        let deaths = replacements(env);
        assert!((3..=24).contains(&deaths), "{deaths}");
        let log = log(env);
        assert!(log.contains(&format!("read of inode {inode} has killed 3 workers")), "{log}");
        assert!(log.contains("died (signal 6)"), "{log}");
        // Nobody else notices.
        assert!(fs::read(env.mounted("small")).is_ok());
        assert_eq!(identity(&env.mounted("dir/key")).1, bytes.len() as u64);
        env.unmount();
    });
}

#[test]
fn a_worker_that_dies_while_it_tells_the_kernel_is_replaced() {
    in_each_environment(|env| {
        published(env);
        let small = env.file("small.wat", "(module)");
        let winch = env.publish(&small, "dir/key", &["--compiler", "winch"]);
        let engine = |of: &serde_json::Value| of["engine"].as_str().unwrap().to_owned();
        let (old, new) = (engine(&env.json(&["show", "dir/key"])), engine(&winch));
        env.run(&["engines", "alias", "dev", &old]);
        let marker = env.path("marker");
        mount_with_fault(env, &format!("stall lookup 1 {}", marker.display()));
        // The kernel remembers where these lead.
        let aliased = env.mounted(".wasmfs/engines/dev/dir/key");
        assert_eq!(identity(&aliased), identity(&env.mounted("dir/key")));
        // The kernel remembers that this is not there, and that somebody works in this.
        assert!(!env.mounted("new").exists());
        let mut inside = env.command("sleep");
        let mut inside = inside.arg("60").current_dir(env.mounted("dir")).spawn().unwrap();
        env.file("marker", "");
        // The kernel holds the directory's lock until this lookup is answered, …
        let mut looking = env.command("stat").arg(env.mounted("absent")).spawn().unwrap();
        wait_until(|| !marker.exists());
        // … so that a thread of the worker waits for it inside the kernel, where no kill reaches it.
        let source = env.file("more.wat", "(module (func))");
        let late = env.publish(&source, "more", &[]);
        assert_eq!(late["visible"], false);
        // What comes after waits behind it, in directories that are there and in new ones.
        let mut more = env.wasmfs();
        more.arg("publish").args([&source, &env.file("other.wat", "(module)")]);
        let mut more = more.args(["--prefix", "new/dir"]).spawn().unwrap();
        let keys = || env.json(&["ls", "new/"]).as_array().unwrap().len();
        wait_until(|| keys() == 2);
        let mut alias = env.wasmfs();
        let mut alias = alias.args(["engines", "alias", "dev", &new]).spawn().unwrap();
        wait_until(|| {
            let engines = env.json(&["engines"]);
            let moved = |e: &serde_json::Value| e["label"] == new && e["aliases"][0] == "dev";
            engines.as_array().unwrap().iter().any(moved)
        });
        let mut default = env.wasmfs();
        let mut default = default.args(["default", "--all", &new]).spawn().unwrap();
        wait_until(|| env.json(&["show", "dir/key"])["engine"] == new);
        env.signal(env.worker_pid(), "-KILL");
        assert_eq!(looking.wait().unwrap().code(), Some(1));
        assert_eq!(replacements(env), 1);
        assert!(more.wait().unwrap().success() && alias.wait().unwrap().success());
        assert!(default.wait().unwrap().success());
        assert_eq!(names(&env.mount_point()), ["dir", "more", "new", "small"]);
        wait_until(|| env.mounted("new/dir/other.cwasm").exists());
        wait_until(|| identity(&env.mounted("more")).0 == late["inode"].as_u64().unwrap());
        for path in [&aliased, &env.mounted("dir/key")] {
            wait_until(|| identity(path).0 == winch["inode"].as_u64().unwrap());
        }
        // Who worked in a directory still does.
        let here = fs::read_link(format!("/proc/{}/cwd", inside.id())).unwrap();
        assert_eq!(here, env.mounted("dir"));
        inside.kill().unwrap();
        inside.wait().unwrap();
        // And nothing is left of the dead one.
        wait_until(|| wasmfs_tests::guard::servers(env.home()).len() == 2);
        env.unmount();
    });
}

#[test]
fn a_panic_ends_the_worker_and_is_in_the_log() {
    in_each_environment(|env| {
        let (inode, bytes) = published(env);
        let marker = env.file("marker", "");
        mount_with_fault(env, &format!("panic read {inode} {}", marker.display()));
        works(env, &bytes);
        assert_eq!(replacements(env), 1);
        let log = log(env);
        assert!(log.contains("a fault in read of inode"), "{log}");
        assert!(log.contains("strike"), "no backtrace: {log}");
        assert!(log.contains("died (signal 6)"), "{log}");
        // The catalogue had nothing to do with it, and is not rebuilt.
        assert!(!log.contains("rebuil"), "{log}");
        env.unmount();
    });
}

#[test]
fn commands_wait_while_the_worker_is_replaced() {
    in_each_environment(|env| {
        published(env);
        env.mount();
        let source = env.file("more.wat", "(module)");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let going = || !stop.load(std::sync::atomic::Ordering::Relaxed);
        let commands = std::thread::scope(|scope| {
            let ask = scope.spawn(|| {
                let mut count = 0;
                while going() {
                    assert_eq!(env.json(&["ls"]).as_array().unwrap().len(), 2);
                    assert_eq!(env.json(&["show", "small"])["version"], 1);
                    assert_eq!(env.json(&["status"])["mounted"], true);
                    assert!(env.fail(1, &["mount"]).contains("is a mount of wasmfs already"));
                    count += 4;
                }
                count
            });
            let change = scope.spawn(|| {
                let mut count = 0;
                while going() {
                    env.publish(&source, "small", &[]);
                    count += 1;
                }
                count
            });
            for _ in 0..10 {
                let before = replacements(env);
                env.signal(env.worker_pid(), "-KILL");
                replacements_of(env, before + 1);
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (ask.join().unwrap(), change.join().unwrap())
        });
        assert!(commands.0 > 4 && commands.1 > 2, "{commands:?}");
        assert_eq!(env.json(&["log", "small"]).as_array().unwrap().len(), 1);
        env.unmount();
    });
}

#[test]
fn a_kill_during_a_publish_leaves_all_of_it_or_nothing() {
    in_each_environment(|env| {
        env.mount();
        let sources: Vec<PathBuf> = (0..8)
            .map(|i| env.file(&format!("m{i}.wat"), format!("(module (func (export \"f{i}\")))")))
            .collect();
        let compiled = env.dir("compiled");
        for source in &sources {
            env.run(&["publish", source.to_str().unwrap()]);
        }
        let names: Vec<String> = (0..8).map(|i| format!("m{i}.cwasm")).collect();
        for name in &names {
            fs::copy(env.mounted(name), compiled.join(name)).unwrap();
        }
        let files: Vec<&Path> = names.iter().map(Path::new).collect();
        for round in 0..12u32 {
            let mut publish = env.wasmfs();
            publish.arg("publish").args(["--prefix", &format!("round{round}"), "--json"]);
            publish.args(files.iter().map(|file| compiled.join(file)));
            let (before, worker) = (replacements(env), env.worker_pid());
            let publishing = publish.stdout(std::process::Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(u64::from(round) * 1500));
            env.signal(worker, "-KILL");
            let done = publishing.wait_with_output().unwrap();
            assert!(done.status.success(), "{done:?}");
            let listed = env.json(&["ls", &format!("round{round}/")]);
            assert_eq!(listed.as_array().unwrap().len(), 8);
            for name in &names {
                let mut bytes = Vec::new();
                let path = env.mounted(format!("round{round}/{name}"));
                fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, fs::read(compiled.join(name)).unwrap());
            }
            replacements_of(env, before + 1);
        }
        // Where the truth is not known, it is said.
        let worker = env.worker_pid();
        env.signal(worker, "-STOP");
        let mut remove = env.wasmfs();
        remove.args(["rm", "m0.cwasm"]).stderr(std::process::Stdio::piped());
        let removing = remove.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        env.signal(worker, "-KILL");
        let removed = removing.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&removed.stderr).into_owned();
        let gone = !env.mounted("m0.cwasm").exists();
        assert!(gone == removed.status.success() || stderr.contains("went away"), "{stderr}");
        env.unmount();
    });
}

#[test]
fn what_is_installed_has_no_faults() {
    in_each_environment(|env| {
        let (inode, bytes) = published(env);
        let mut mounting = env.wasmfs();
        succeed(mounting.arg("mount").env("WASMFS_FAULT", format!("abort read {inode}")));
        env.watch(&env.mount_point());
        assert!(fs::read(env.mounted("dir/key")).unwrap() == bytes);
        assert_eq!(replacements(env), 0);
        env.unmount();
    });
}
