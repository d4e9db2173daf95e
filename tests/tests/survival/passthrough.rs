//! Files that the kernel reads by itself.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};
use wasmfs_tests::guard::servers;
use wasmfs_tests::host::Host;
use wasmfs_tests::module::wat;
use wasmfs_tests::{Environment, Inline, User, as_root, in_environment, succeed};

use crate::{log, replacements_of, wait_until};

fn mount(env: &Environment, options: &[&str]) {
    env.run(&[&["mount"][..], options].concat());
    env.watch(&env.mount_point());
}

/// Publishes a module that is larger than a payload kept inside the catalogue.
fn publish(env: &Environment, key: &str, seed: u32) -> Value {
    env.publish(&env.file("source.wat", wat(seed)), key, &[])
}

/// The object file of what was published, which is not the only one: its source has one too.
fn object_of(env: &Environment, published: &Value) -> PathBuf {
    env.object(published["sha256"].as_str().unwrap())
}

/// Takes every page of a file, and of what is behind it, out of memory, as far as it is not mapped.
fn drop_pages(paths: &[&Path]) {
    rustix::fs::sync();
    for path in paths {
        fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    }
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// How many reads the worker has answered.
fn reads(env: &Environment) -> u64 {
    env.json(&["status"])["worker"]["requests"]["read"].as_u64().unwrap_or(0)
}

fn kill_server(env: &Environment) {
    for pid in servers(env.home()) {
        env.signal(pid, "-KILL");
    }
    wait_until(|| servers(env.home()).is_empty());
}

#[test]
fn what_is_passed_through_outlives_keeper_worker_and_mount() {
    as_root(|env| {
        publish(env, "key", 1);
        for options in [&["--passthrough"][..], &["--passthrough", "--in-memory"]] {
            mount(env, options);
            let expected = {
                let mut other = Host::load(env, &env.mounted("key"), "cranelift");
                (0..64).map(|f| other.said(&format!("call f{f} 7"))).collect::<Vec<_>>()
            };
            let mut host = Host::load(env, &env.mounted("key"), "cranelift");
            let held = File::open(env.mounted("key")).unwrap();
            let bytes = fs::read(env.mounted("key")).unwrap();
            assert_eq!(host.said("call f0 7"), expected[0]);
            assert_eq!(reads(env), 0, "the kernel asked for bytes");
            kill_server(env);
            succeed(env.command("umount").arg("-l").arg(env.mount_point()));
            fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
            // Code that was never run, an instance of its own, and a descriptor.
            for (function, expected) in expected.iter().enumerate() {
                assert_eq!(&host.said(&format!("call f{function} 7")), expected);
                assert_eq!(&host.said(&format!("fresh f{function} 7")), expected);
            }
            let mut read = vec![0; bytes.len()];
            held.read_exact_at(&mut read, 0).unwrap();
            assert!(read == bytes);
            drop((host, held));
        }
        mount(env, &[]);
        env.unmount();
    });
}

#[test]
fn one_registration_serves_every_worker_and_keeper() {
    as_root(|env| {
        publish(env, "key", 1);
        mount(env, &["--passthrough"]);
        let bytes = fs::read(env.mounted("key")).unwrap();
        let mut held = vec![File::open(env.mounted("key")).unwrap()];
        let same = |held: &mut Vec<File>| {
            // The kernel takes no other registration while the first one is in use.
            held.push(File::open(env.mounted("key")).unwrap());
            let mut read = vec![0; bytes.len()];
            held.last().unwrap().read_exact_at(&mut read, 0).unwrap();
            assert!(read == bytes);
        };
        for count in 1..=3 {
            env.signal(env.worker_pid(), "-KILL");
            same(&mut held);
            replacements_of(env, count);
        }
        env.run(&["reload"]);
        same(&mut held);
        // Without a keeper the worker registers by itself, and the next keeper knows of it.
        env.signal(env.keeper_pid(), "-KILL");
        wait_until(|| env.json(&["status"])["unguarded"] == true);
        publish(env, "more", 2);
        let more = fs::read(env.mounted("more")).unwrap();
        held.push(File::open(env.mounted("more")).unwrap());
        same(&mut held);
        env.run(&["mount"]);
        env.signal(env.worker_pid(), "-KILL");
        same(&mut held);
        held.push(File::open(env.mounted("more")).unwrap());
        assert!(fs::read(env.mounted("more")).unwrap() == more);
        assert_eq!(reads(env), 0);
        let status = env.json(&["status"]);
        assert_eq!(status["mounts"][0]["passthrough"], true);
        drop(held);
        env.unmount();
    });
}

#[test]
fn an_open_that_waits_for_its_check_survives_the_worker() {
    as_root(|env| {
        publish(env, "key", 1);
        mount(env, &["--passthrough"]);
        let mut readers = Vec::new();
        for _ in 0..8 {
            let file = env.mounted("key");
            readers.push(std::thread::spawn(move || fs::read(file).unwrap()));
        }
        env.signal(env.worker_pid(), "-KILL");
        let read: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert!(read.iter().all(|bytes| *bytes == read[0]));
        env.unmount();
    });
}

#[test]
fn what_is_damaged_is_not_passed_through() {
    in_environment(User::Root, Inline::Default, &|env| {
        publish(env, "key", 1);
        publish(env, "good", 2);
        let damaged = env.json(&["show", "key"])["sha256"].as_str().unwrap().to_owned();
        let object = env.object(&damaged);
        let middle = fs::metadata(&object).unwrap().len() / 2;
        succeed(env.command("chmod").arg("0600").arg(&object));
        OpenOptions::new().write(true).open(&object).unwrap().write_all_at(b"!", middle).unwrap();
        drop_pages(&[&object]);
        mount(env, &["--passthrough"]);
        let error = File::open(env.mounted("key")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(log(env).contains(&damaged), "{}", log(env));
        assert!(fs::read(env.mounted("good")).is_ok());
        env.unmount();
    });
}

#[test]
fn collection_frees_what_was_passed_through() {
    as_root(|env| {
        mount(env, &["--passthrough"]);
        publish(env, "key", 1);
        let host = Host::load(env, &env.mounted("key"), "cranelift");
        publish(env, "key", 2);
        let gc = || env.json(&["gc"]);
        assert_eq!(gc()["collected"]["versions"], 0);
        drop(host);
        wait_until(|| gc()["collected"]["versions"] == 1);
        // Another version with the bytes of the first is registered anew.
        publish(env, "key", 1);
        let mut host = Host::load(env, &env.mounted("key"), "cranelift");
        host.said("call f0 1");
        drop(host);
        env.unmount();
        // The next mount may have the number of the last: nothing is known of that.
        mount(env, &["--passthrough"]);
        assert!(fs::read(env.mounted("key")).is_ok());
        env.unmount();
    });
}

#[test]
fn without_the_right_to_it_nothing_is_mounted_and_the_reason_is_said() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        let stderr = env.fail(1, &["mount", "--passthrough"]);
        assert!(stderr.contains("only root") && stderr.contains("--passthrough"), "{stderr}");
        assert_eq!(env.json(&["status"])["mounted"], false);
        env.mount();
        env.unmount();
    });
}

/// Bytes of a file that are not the payload's, in its place on the disk.
fn ruin(object: &Path) {
    succeed(std::process::Command::new("chmod").arg("0600").arg(object));
    let file = OpenOptions::new().write(true).open(object).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    file.write_all_at(&vec![0xff; len], 0).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn what_is_in_memory_needs_no_disk() {
    in_environment(User::Root, Inline::Default, &in_memory_needs_no_disk);
    in_environment(User::Ordinary, Inline::Default, &in_memory_needs_no_disk);
}

fn in_memory_needs_no_disk(env: &Environment) {
    let root = env.user == User::Root;
    let object = object_of(env, &publish(env, "key", 1));
    let bytes = fs::read(&object).unwrap();
    mount(env, &["--in-memory"]);
    let held = File::open(env.mounted("key")).unwrap();
    let mut first = [0];
    held.read_exact_at(&mut first, 0).unwrap();
    ruin(&object);
    let right = || {
        fadvise(&held, 0, None, Advice::DontNeed).unwrap();
        if root {
            drop_pages(&[]);
        }
        let mut read = vec![0; bytes.len()];
        held.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
    };
    right();
    // Nor does the next worker, nor the one after another keeper has come.
    env.signal(env.worker_pid(), "-KILL");
    right();
    env.signal(env.keeper_pid(), "-KILL");
    wait_until(|| env.json(&["status"])["unguarded"] == true);
    env.run(&["mount"]);
    env.signal(env.worker_pid(), "-KILL");
    right();
    env.run(&["reload"]);
    right();
    let memory = env.json(&["status"])["in_memory"].clone();
    assert_eq!((&memory["payloads"], &memory["without_room"]), (&json!(1), &json!(0)));
    assert_eq!(memory["bytes"].as_u64().unwrap(), bytes.len() as u64);
    drop(held);
    env.unmount();
}

#[test]
fn what_has_no_room_in_memory_is_said_and_served_from_the_disk() {
    in_environment(User::Ordinary, Inline::Unlimited, &no_room);
    in_environment(User::Root, Inline::Default, &no_room);
}

fn no_room(env: &Environment) {
    for number in 1..=3 {
        publish(env, &format!("key-{number}"), number);
    }
    let size = env.json(&["show", "key-1"])["size"].as_u64().unwrap();
    let passthrough: &[&str] = if env.user == User::Root { &["--passthrough"] } else { &[] };
    let in_memory = format!("--in-memory={}", 2 * size + size / 2);
    mount(env, &[&[in_memory.as_str()][..], passthrough].concat());
    for number in 1..=3 {
        let bytes = fs::read(env.mounted(format!("key-{number}"))).unwrap();
        assert_eq!(bytes.len() as u64, size);
    }
    let memory = |what: &str| env.json(&["status"])["in_memory"][what].as_u64().unwrap();
    assert_eq!(
        ["payloads", "bytes", "without_room"].map(memory),
        [2, 2 * size, 1],
        "{}",
        env.run(&["status"])
    );
    assert!(log(env).contains("no room in memory for key-3 version 1"), "{}", log(env));
    assert!(env.run(&["status"]).contains("NO ROOM for 1"), "{}", env.run(&["status"]));
    // What is collected makes room.
    env.run(&["rm", "key-1"]);
    wait_until(|| {
        env.json(&["gc"]);
        memory("payloads") == 1
    });
    assert!(fs::read(env.mounted("key-2")).is_ok());
    env.unmount();
    let stderr = env.fail(2, &["mount", "--in-memory=much"]);
    assert!(stderr.contains("--in-memory"), "{stderr}");
}

/// Publishes so many small modules as `PREFIX/N.cwasm`.
fn many(env: &Environment, prefix: &str, count: usize) {
    let sources = (0..count).map(|n| {
        env.file(&format!("{n}.wat"), format!("(module (func (export \"{prefix}-{n}\")))"))
    });
    succeed(env.wasmfs().arg("publish").args(sources).args(["--prefix", prefix]));
}

/// Opens each of the files of [`many`] in a thread of its own.
fn open_all(env: &Environment, prefix: &str, count: usize) -> Vec<std::thread::JoinHandle<File>> {
    let paths = (0..count).map(|n| env.mounted(format!("{prefix}/{n}.cwasm")));
    paths.map(|path| std::thread::spawn(move || File::open(path).unwrap())).collect()
}

#[test]
fn opens_that_wait_for_a_keeper_are_answered() {
    in_environment(User::Root, Inline::Default, &|env| {
        // More than its socket takes.
        many(env, "slow", 400);
        many(env, "lost", 16);
        mount(env, &["--passthrough"]);
        let stop = |prefix, count| {
            // The names are known, so that nothing but the opens waits.
            for n in 0..count {
                assert!(env.mounted(format!("{prefix}/{n}.cwasm")).exists());
            }
            env.signal(env.keeper_pid(), "-STOP");
            let opening = open_all(env, prefix, count);
            std::thread::sleep(std::time::Duration::from_millis(500));
            assert!(opening.iter().all(|thread| !thread.is_finished()), "nothing waits");
            opening
        };
        let keeper = env.keeper_pid();
        let opening = stop("slow", 400);
        env.signal(keeper, "-CONT");
        opening.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        // And what waits for one that dies.
        let opening = stop("lost", 16);
        env.signal(keeper, "-KILL");
        let held: Vec<File> = opening.into_iter().map(|t| t.join().unwrap()).collect();
        env.run(&["mount"]);
        env.signal(env.worker_pid(), "-KILL");
        for thread in open_all(env, "lost", 16) {
            thread.join().unwrap();
        }
        drop(held);
        env.unmount();
    });
}

#[test]
fn what_is_passed_through_can_not_be_written_after_a_remount() {
    in_environment(User::Root, Inline::Default, &|env| {
        let object = object_of(env, &publish(env, "key", 1));
        let bytes = fs::read(&object).unwrap();
        mount(env, &["--passthrough"]);
        succeed(env.command("mount").args(["-i", "-o", "remount,rw"]).arg(env.mount_point()));
        for options in [OpenOptions::new().write(true), OpenOptions::new().read(true).write(true)] {
            let error = options.open(env.mounted("key")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        }
        // Truncating an open file asks the server as well.
        let file = File::open(env.mounted("key")).unwrap();
        assert!(file.set_len(0).is_err());
        assert!(
            fs::read(&object).unwrap() == bytes && fs::read(env.mounted("key")).unwrap() == bytes
        );
        drop(file);
        env.unmount();
    });
}

#[test]
fn an_open_whose_check_kills_three_workers_is_answered_with_an_error() {
    in_environment(User::Root, Inline::Default, &|env| {
        let inode = publish(env, "key", 1)["inode"].as_u64().unwrap();
        publish(env, "good", 2);
        let fault = format!("abort check {inode}");
        succeed(env.faulty(&fault).args(["mount", "--passthrough"]));
        env.watch(&env.mount_point());
        let error = File::open(env.mounted("key")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(log(env).contains("has killed 3 workers"), "{}", log(env));
        assert!(fs::read(env.mounted("good")).is_ok());
        env.unmount();
    });
}

#[test]
fn what_a_dying_worker_put_into_memory_is_held() {
    in_environment(User::Root, Inline::Default, &|env| {
        let published: Vec<_> = (1..=3).map(|n| publish(env, &format!("key-{n}"), n)).collect();
        let objects = published.iter().map(|p| object_of(env, p));
        let objects: Vec<PathBuf> = objects.collect();
        let bytes: Vec<_> = objects.iter().map(|object| fs::read(object).unwrap()).collect();
        mount(env, &["--in-memory"]);
        let (keeper, worker) = (env.keeper_pid(), env.worker_pid());
        let files: Vec<_> =
            (1..=3).map(|n| File::open(env.mounted(format!("key-{n}"))).unwrap()).collect();
        env.signal(keeper, "-STOP");
        for file in &files {
            file.read_exact_at(&mut [0], 0).unwrap();
        }
        env.signal(worker, "-KILL");
        objects.iter().for_each(|object| ruin(object));
        env.signal(keeper, "-CONT");
        drop_pages(&[]);
        for (file, bytes) in files.iter().zip(&bytes) {
            fadvise(file, 0, None, Advice::DontNeed).unwrap();
            let mut read = vec![0; bytes.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == *bytes);
        }
        drop(files);
        env.unmount();
    });
}

#[test]
fn a_mount_stays_what_it_was_made() {
    in_environment(User::Root, Inline::Default, &|env| {
        env.mount();
        env.signal(env.keeper_pid(), "-KILL");
        wait_until(|| env.json(&["status"])["unguarded"] == true);
        let stderr = env.fail(1, &["mount", "--passthrough"]);
        assert!(stderr.contains("is mounted with other options than these"), "{stderr}");
        // It is guarded all the same.
        assert_eq!(env.json(&["status"])["unguarded"], false);
        env.unmount();
    });
}
