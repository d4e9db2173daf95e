//! Mount points that several want, and mounts of others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wasmfs_tests::guard::connection_at;
use wasmfs_tests::{Inline, User, in_environment, output};

use crate::{module, text, with_attacker};

/// How many mounts of wasmfs are at a path, one upon the other.
fn mounts_at(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == path.to_str() && line.contains("fuse.wasmfs");
    table.lines().filter(at).count()
}

#[test]
fn ten_stores_that_are_mounted_on_one_directory_are_one_mount() {
    for user in [User::Root, User::Ordinary] {
        in_environment(user, Inline::Default, &|env| {
            let place = env.path("place");
            for _ in 0..3 {
                let mount = |n: usize| {
                    let store = env.path(format!("store{n}"));
                    let args = ["--store", text(&store), "mount", text(&place)];
                    let output = output(env.wasmfs().args(args));
                    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                    (store, output.status.success(), stderr)
                };
                let results: Vec<(PathBuf, bool, String)> = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..10)
                        .map(|n| {
                            // It is who this thread is.
                            scope.spawn(move || mount(n))
                        })
                        .collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                env.watch(&place);
                let (won, lost): (Vec<_>, Vec<_>) =
                    results.into_iter().partition(|(_, won, _)| *won);
                assert_eq!((won.len(), mounts_at(&place)), (1, 1), "{lost:?}");
                for (_, _, stderr) in &lost {
                    assert!(stderr.contains("is a mount of wasmfs already"), "{stderr}");
                }
                env.run(&["--store", text(&won[0].0), "unmount"]);
                assert_eq!(mounts_at(&place), 0);
            }
        });
    }
}

#[test]
fn a_store_unmounts_no_other_stores_mount() {
    with_attacker(|env, _| {
        env.mount();
        let connection = connection_at(&env.mount_point());
        let other = env.path("other");
        env.run(&["--store", text(&other), "publish", text(&module(env, 0)), "--key", "k"]);
        for args in [
            &["--store", text(&other), "unmount"][..],
            &["--store", text(&other), "unmount", "--lazy"],
            &["--store", text(&other), "unmount", text(&env.mount_point())],
            &["--store", text(&env.path("absent")), "unmount"],
        ] {
            let stderr = env.fail(1, args);
            assert!(stderr.contains("is a mount of the store"), "{args:?}: {stderr}");
            assert_eq!(connection_at(&env.mount_point()), connection);
        }
        // The same by the environment.
        let mut unmount = env.wasmfs();
        unmount.env("WASMFS_MOUNT", env.mount_point()).args(["--store", text(&other), "unmount"]);
        assert!(!output(&mut unmount).status.success());
        assert_eq!(connection_at(&env.mount_point()), connection);
        // Where it is, and whose, is known when its server is dead.
        let place = env.path("place");
        env.run(&["--store", text(&other), "mount", text(&place)]);
        env.watch(&place);
        let status = env.json(&["--store", text(&other), "status"]);
        for process in ["keeper", "worker"] {
            let pid = status[process]["pid"].as_u64().unwrap() as u32;
            env.signal(pid, "-KILL");
        }
        env.run(&["--store", text(&other), "unmount", "--lazy"]);
        assert_eq!((connection_at(&place), connection_at(&env.mount_point())), (None, connection));
        env.unmount();
    });
}

#[test]
fn what_is_made_for_others_lets_them_through() {
    with_attacker(|env, _| {
        let place = env.path("made/above/place");
        let mut mount = env.command("sh");
        let wasmfs = env.binary("wasmfs");
        mount.args(["-c", "umask 077; exec \"$0\" \"$@\"", text(&wasmfs), "mount"]);
        assert!(output(mount.args([text(&place), "--allow-other"])).status.success());
        env.watch(&place);
        crate::as_attacker(|| assert!(fs::read_dir(&place).is_ok()));
        env.unmount();
        for dir in [&place, place.parent().unwrap()] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o755);
        }
        // For nobody else, nobody else gets in.
        let place = env.path("own/above/place");
        env.run(&["mount", text(&place)]);
        env.watch(&place);
        env.unmount();
        let mode = fs::metadata(place.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    });
}

#[test]
fn root_runs_no_fusermount_of_somebody_elses() {
    with_attacker(|env, arena| {
        let (fake, ran) = (arena.join("fusermount3"), env.path("ran"));
        crate::attackers_file(&fake, format!("#!/bin/sh\ntouch {}\nexit 1\n", text(&ran)));
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        // Root of a container, which may not mount by itself.
        let run = |args: &[&str]| {
            let mut command: Command = env.command("setpriv");
            let rights = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
            command.args(rights).arg(env.binary("wasmfs")).args(args);
            output(command.env("PATH", format!("{}:/usr/bin:/bin", text(arena))))
        };
        let mounted = run(&["mount"]);
        let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
        assert!(!ran.exists() && !mounted.status.success(), "{said}");
        assert!(said.contains("fusermount3"), "{said}");
    });
}
