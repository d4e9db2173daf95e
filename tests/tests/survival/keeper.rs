//! The keeper: what it takes to do without it, and to have another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use wasmfs_tests::guard::{connection_at, servers};
use wasmfs_tests::host::Host;
use wasmfs_tests::module::wat;
use wasmfs_tests::{
    Environment, FAULTY, Inline, User, copy_program, identity, in_each_environment, names, succeed,
};

use crate::{log, replacements, replacements_of, wait_until};

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}

fn unguarded(env: &Environment) -> bool {
    env.json(&["status"])["unguarded"] == true
}

#[test]
fn without_its_keeper_a_worker_serves_on_and_a_new_mount_guards_it_again() {
    in_each_environment(|env| {
        env.mount();
        env.publish(&env.file("big.wat", wat(1)), "key", &[]);
        let mut host = Host::load(env, &env.mounted("key"), "cranelift");
        let (keeper, worker) = (env.keeper_pid(), env.worker_pid());
        env.signal(keeper, "-KILL");
        wait_until(|| unguarded(env));
        let status = env.json(&["status"]);
        assert_eq!((&status["keeper"], &status["mounted"]), (&Value::Null, &json!(true)));
        assert!(env.run(&["status"]).contains("UNGUARDED"));
        assert!(log(env).contains("unguarded: the keeper is gone"), "{}", log(env));
        // Hosts, commands and publishes go on.
        host.said("call f1 1");
        let published = env.publish(&env.file("more.wat", "(module)"), "more", &[]);
        assert_eq!(identity(&env.mounted("more")).0, published["inode"].as_u64().unwrap());
        let stderr = env.fail(1, &["reload"]);
        assert!(stderr.contains("unguarded") && stderr.contains("`wasmfs mount`"), "{stderr}");
        // Another keeper: the same worker, the same mount.
        let mounted = identity(&env.mounted("key"));
        let connection = connection_at(&env.mount_point());
        env.run(&["mount"]);
        assert_eq!(env.worker_pid(), worker);
        assert_ne!(env.keeper_pid(), keeper);
        assert!(!unguarded(env));
        assert_eq!(connection_at(&env.mount_point()), connection);
        // Which replaces it when it dies.
        env.signal(worker, "-KILL");
        replacements_of(env, 1);
        host.said("call f2 1");
        assert_eq!(identity(&env.mounted("key")), mounted);
        drop(host);
        env.unmount();
    });
}

#[test]
fn an_unguarded_worker_ends_with_its_mount() {
    in_each_environment(|env| {
        env.mount();
        let worker = env.worker_pid();
        env.signal(env.keeper_pid(), "-KILL");
        wait_until(|| unguarded(env));
        env.unmount();
        wait_until(|| !alive(worker));
        assert_eq!(env.json(&["status"])["worker"], Value::Null);
        env.mount();
        env.unmount();
    });
}

#[test]
fn a_mount_in_the_foreground_takes_over_from_a_keeper_in_the_background() {
    in_each_environment(|env| {
        env.mount();
        env.publish(&env.file("m.wat", "(module)"), "key", &[]);
        let held = fs::File::open(env.mounted("key")).unwrap();
        let (keeper, worker) = (env.keeper_pid(), env.worker_pid());
        let foreground = |env: &Environment| {
            let mut command = env.wasmfs();
            command.args(["mount", "--foreground"]).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut first = foreground(env);
        wait_until(|| env.json(&["status"])["keeper"]["pid"] == first.id());
        assert_eq!(env.worker_pid(), worker);
        wait_until(|| !alive(keeper));
        // Stopped with a user, and started again: a new mount, by the same worker.
        env.signal(first.id(), "-TERM");
        wait_until(|| connection_at(&env.mount_point()).is_none());
        let mut second = foreground(env);
        wait_until(|| connection_at(&env.mount_point()).is_some());
        env.watch(&env.mount_point());
        assert!(first.wait().unwrap().success());
        wait_until(|| env.json(&["status"])["keeper"]["pid"] == second.id());
        assert_eq!(env.json(&["status"])["mounts"].as_array().unwrap().len(), 2);
        assert_eq!(env.worker_pid(), worker);
        drop(held);
        env.unmount();
        assert!(second.wait().unwrap().success());
    });
}

#[test]
fn the_service_is_stopped_and_its_hosts_go_on() {
    in_each_environment(|env| {
        env.mount();
        env.publish(&env.file("big.wat", wat(1)), "key", &[]);
        let mut host = Host::load(env, &env.mounted("key"), "cranelift");
        let (keeper, worker) = (env.keeper_pid(), env.worker_pid());
        env.signal(keeper, "-TERM");
        wait_until(|| connection_at(&env.mount_point()).is_none());
        host.said("call f1 1");
        // Even then a worker that dies has a successor.
        env.signal(worker, "-KILL");
        replacements_of(env, 1);
        host.said("call f2 1");
        let last = env.worker_pid();
        drop(host);
        wait_until(|| !alive(keeper) && !alive(last));
        assert!(!env.store().join("control.sock").exists());
        assert!(!env.store().join("keeper.sock").exists());
    });
}

#[test]
fn a_worker_that_cannot_start_is_tried_again_until_it_can() {
    in_each_environment(|env| {
        env.mount();
        env.publish(&env.file("m.wat", "(module)"), "key", &[]);
        let settings = env.store().join("settings.json");
        let text = fs::read(&settings).unwrap();
        fs::write(&settings, "nonsense").unwrap();
        env.signal(env.worker_pid(), "-KILL");
        wait_until(|| log(env).matches("trying again in 1s").count() >= 2);
        assert!(log(env).contains("settings.json is not valid"), "{}", log(env));
        // Whoever asks meanwhile waits.
        let mut asking = env.wasmfs().arg("ls").stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(asking.try_wait().unwrap().is_none());
        fs::write(&settings, text).unwrap();
        assert!(asking.wait().unwrap().success());
        assert_eq!(names(&env.mount_point()), ["key"]);
        // Nor does it take a worker to end.
        let (keeper, worker) = (env.keeper_pid(), env.worker_pid());
        fs::write(env.store().join("settings.json"), "nonsense").unwrap();
        env.signal(worker, "-KILL");
        wait_until(|| log(env).matches("trying again in 1s").count() >= 4);
        let mount_point = env.mount_point();
        env.run(&["unmount", "--lazy", mount_point.to_str().unwrap()]);
        wait_until(|| !alive(keeper));
    });
}

#[test]
fn a_reload_does_not_bring_back_what_was_unmounted() {
    in_each_environment(|env| {
        env.mount();
        env.publish(&env.file("m.wat", "(module)"), "key", &[]);
        let held = fs::File::open(env.mounted("key")).unwrap();
        env.run(&["unmount", "--lazy"]);
        for count in 1..=2 {
            env.run(&["reload"]);
            assert_eq!(replacements(env), count);
        }
        assert!(connection_at(&env.mount_point()).is_none());
        assert_eq!(held.metadata().unwrap().len(), held.metadata().unwrap().size());
        let keeper = env.keeper_pid();
        drop(held);
        wait_until(|| !alive(keeper));
    });
}

#[test]
fn a_mount_of_a_store_that_cannot_be_opened_fails_and_leaves_nothing() {
    in_each_environment(|env| {
        env.publish(&env.file("m.wat", "(module)"), "key", &[]);
        let settings = env.store().join("settings.json");
        fs::write(&settings, "{\"format\": 99}").unwrap();
        let stderr = env.fail(1, &["mount"]);
        assert!(
            stderr.contains("has format 99")
                && stderr.contains("the release of wasmfs that wrote it"),
            "{stderr}"
        );
        assert!(connection_at(&env.mount_point()).is_none());
        assert!(servers(env.home()).is_empty());
        assert!(!env.store().join("control.sock").exists());
    });
}

/// A program of the user's own, which can be replaced.
fn own_program(env: &Environment) -> std::path::PathBuf {
    copy_of(env, "wasmfs")
}

fn copy_of(env: &Environment, build: &str) -> std::path::PathBuf {
    let program = env.path("bin-wasmfs");
    copy_program(env.binary(build), &program);
    program
}

fn exe(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[test]
fn reload_runs_what_is_on_disk_now() {
    in_each_environment(|env| {
        let program = own_program(env);
        let wasmfs = |args: &[&str]| succeed(env.command(&program).args(args));
        wasmfs(&["mount"]);
        env.watch(&env.mount_point());
        env.publish(&env.file("big.wat", wat(1)), "key", &[]);
        let mut host = Host::load(env, &env.mounted("key"), "cranelift");
        let (keeper, worker, old) = (env.keeper_pid(), env.worker_pid(), exe(env.worker_pid()));
        copy_program(&program, env.path("new"));
        fs::rename(env.path("new"), &program).unwrap();
        let new = fs::metadata(&program).unwrap().ino();
        assert_ne!(old, new);
        // Until it is asked to, the old program stays, even for a new worker.
        env.signal(worker, "-KILL");
        replacements_of(env, 1);
        assert_eq!(exe(env.worker_pid()), old);
        let said = wasmfs(&["reload"]);
        let now = env.worker_pid();
        assert!(said.contains(&format!("process {now} serves now")), "{said}");
        assert!(said.contains("requests waited for") && !said.contains(" 0.0 ms"), "{said}");
        assert_eq!((exe(now), replacements(env)), (new, 2));
        // The keeper stays: it is what the mount lives by.
        assert_eq!((env.keeper_pid(), exe(keeper)), (keeper, old));
        host.said("call f1 1");
        env.signal(now, "-KILL");
        replacements_of(env, 3);
        assert_eq!(exe(env.worker_pid()), new);
        host.said("call f2 1");
        let log = log(env);
        assert!(!log.contains("unguarded"), "{log}");
        drop(host);
        env.unmount();
    });
}

#[test]
fn reload_keeps_the_old_worker_if_the_new_one_cannot_serve() {
    in_each_environment(|env| {
        let program = own_program(env);
        succeed(env.command(&program).arg("mount"));
        env.watch(&env.mount_point());
        env.publish(&env.file("m.wat", "(module)"), "key", &[]);
        let worker = env.worker_pid();
        let stays = |why: &str| {
            let stderr = env.fail(1, &["reload"]);
            assert!(stderr.contains(why), "{stderr}");
            assert_eq!((env.worker_pid(), replacements(env)), (worker, 0));
            env.publish(&env.file("m.wat", "(module)"), "key", &[]);
            assert_eq!(names(&env.mount_point()), ["key"]);
        };
        let kept = env.path("kept");
        fs::rename(&program, &kept).unwrap();
        stays("opening");
        // A program that starts and is no wasmfs.
        copy_program("/bin/false", &program);
        stays("the worker ended before it was ready (exit status 1)");
        fs::write(&program, "nothing to execute").unwrap();
        stays("starting a worker");
        fs::remove_file(&program).unwrap();
        fs::rename(&kept, &program).unwrap();
        // A store that the new worker doesn't know: here, from a future.
        let settings = env.store().join("settings.json");
        let text = fs::read(&settings).unwrap();
        fs::write(&settings, "{\"format\": 99}").unwrap();
        stays("has format 99");
        fs::write(&settings, text).unwrap();
        env.run(&["reload"]);
        assert_eq!(replacements(env), 1);
        assert_ne!(env.worker_pid(), worker);
        env.unmount();
        assert!(env.fail(1, &["reload"]).contains("has no running server"));
    });
}

#[test]
fn a_new_worker_that_fails_after_all_gives_way_to_the_old_program() {
    in_each_environment(|env| {
        let program = copy_of(env, FAULTY);
        let marker = env.path("marker");
        // It dies as it takes over, once the marker is there.
        let fault = format!("abort init 0 {}", marker.display());
        succeed(env.command(&program).arg("mount").env("WASMFS_FAULT", fault));
        env.watch(&env.mount_point());
        env.publish(&env.file("m.wat", "(module)"), "key", &[]);
        let old = exe(env.worker_pid());
        copy_program(&program, env.path("new"));
        fs::rename(env.path("new"), &program).unwrap();
        env.file("marker", "");
        let stderr = env.fail(1, &["reload"]);
        assert!(stderr.contains("the old one keeps serving"), "{stderr}");
        assert!(stderr.contains("the worker ended before it was ready (signal 6)"), "{stderr}");
        assert_eq!(exe(env.worker_pid()), old);
        assert_eq!(names(&env.mount_point()), ["key"]);
        assert!(env.run(&["reload"]).contains("serves now"));
        assert_ne!(exe(env.worker_pid()), old);
        env.unmount();
    });
}

#[test]
fn a_keeper_is_small() {
    in_each_environment(|env| {
        env.mount();
        for _ in 0..3 {
            let before = replacements(env);
            env.signal(env.worker_pid(), "-KILL");
            replacements_of(env, before + 1);
        }
        let keeper = env.keeper_pid();
        let resident = || -> u64 {
            let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
        };
        wait_until(|| resident() <= 4096);
        println!("the keeper has {} kB resident", resident());
        env.unmount();
    });
}

#[test]
fn a_guard_leaves_nothing_behind_when_a_test_fails() {
    let home = std::sync::Mutex::new(None);
    let left = std::sync::Mutex::new(None);
    let result = std::panic::catch_unwind(|| {
        wasmfs_tests::in_environment(User::Root, Inline::Default, &|env: &Environment| {
            *home.lock().unwrap() = Some(env.home().to_owned());
            env.publish(&env.file("big.wat", wat(1)), "key", &[]);
            env.mount();
            let file = env.mounted("key");
            // Nobody to replace the worker, which is stopped with a request to answer.
            env.signal(env.keeper_pid(), "-KILL");
            wait_until(|| unguarded(env));
            env.signal(env.worker_pid(), "-STOP");
            // In a process of its own: one that this process starts would inherit the descriptor,
            // and wait for the server as it closes it.
            let mut reader = env.command("cat").arg(file).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            assert!(reader.try_wait().unwrap().is_none(), "it is stuck");
            *left.lock().unwrap() = Some(reader);
            panic!("a test that fails");
        });
    });
    assert!(result.is_err());
    // What was stuck has ended, with an error.
    let mut left: std::process::Child = left.into_inner().unwrap().unwrap();
    assert!(!left.wait().unwrap().success());
    let home = home.into_inner().unwrap().unwrap();
    assert!(servers(&home).is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(home.to_str().unwrap()), "{mounts}");
}
