//! `wasmfs mount`, and what it leaves behind.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use wasmfs_tests::guard::connection_at;
use wasmfs_tests::{identity, in_each_environment, succeed};

use crate::{MODULE, path};

#[test]
fn mounting_is_refused_where_it_would_hide_something() {
    in_each_environment(|env| {
        let full = env.dir("full");
        env.file("full/thesis.tex", "x");
        let stderr = env.fail(1, &["mount", path(&full)]);
        assert!(stderr.contains("thesis.tex") && stderr.contains("hint: "), "{stderr}");
        let file = env.file("file", "x");
        assert!(env.fail(1, &["mount", path(&file)]).contains("not a directory"));
        assert!(env.fail(1, &["unmount"]).contains("not a mount of wasmfs"));
        env.mount();
        // Made for the user alone.
        env.unmount();
        let mode = fs::metadata(env.mount_point()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        env.mount();
        let again = env.fail(1, &["mount"]);
        assert!(again.contains("is a mount of wasmfs already"), "{again}");
        let elsewhere = env.fail(1, &["mount", path(&env.path("elsewhere"))]);
        let own = path(&env.mount_point()).to_owned();
        assert!(elsewhere.contains(&format!("mounted at {own} already")), "{elsewhere}");
        assert!(elsewhere.contains(&format!("`wasmfs unmount {own}` first")), "{elsewhere}");
        let status = env.json(&["status"]);
        assert_eq!(
            (&status["mounted"], &status["mounts"][0]["attached"], &status["unguarded"]),
            (&json!(true), &json!(true), &json!(false))
        );
        let log = fs::read_to_string(status["log"].as_str().unwrap()).unwrap();
        assert!(log.contains("mounted at"), "{log}");
        assert!(status["worker"]["resident_bytes"].as_u64().unwrap() > 1 << 20);
        for process in ["keeper", "worker"] {
            let status = &status[process];
            assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
            assert!(status["since"].as_str().unwrap().ends_with('Z'));
            let command = fs::read(format!("/proc/{}/cmdline", status["pid"])).unwrap();
            assert!(command.starts_with(format!("wasmfs\0{process}\0").as_bytes()));
        }
        assert_eq!(status["worker"]["replacements"], 0);
        env.unmount();
    });
}

#[test]
fn a_dead_mount_is_cleared() {
    in_each_environment(|env| {
        env.mount();
        let file = env.file("m.wat", MODULE);
        let published = env.publish(&file, "key", &[]);
        let inode = published["inode"].as_u64().unwrap();
        assert_eq!(identity(&env.mounted("key")).0, inode);
        // The keeper first: it would start another worker.
        let pids = [env.keeper_pid(), env.worker_pid()];
        pids.iter().for_each(|pid| env.signal(*pid, "-KILL"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_dir(env.mount_point()).is_ok() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        let dead = fs::read_dir(env.mount_point()).map(drop).unwrap_err();
        assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
        // Commands go on without the server, and `mount` clears up, also with a slash at the end.
        assert_eq!(env.json(&["show", "key"])["inode"], inode);
        env.run(&["mount", &format!("{}/", env.mount_point().display())]);
        env.watch(&env.mount_point());
        assert_eq!(identity(&env.mounted("key")).0, inode);
        env.unmount();
    });
}

#[test]
fn a_server_in_the_background_holds_nothing_of_who_started_it() {
    in_each_environment(|env| {
        let script = format!("exec 7>held; {} mount", env.binary("wasmfs").display());
        succeed(env.command("sh").args(["-c", &script]));
        env.watch(&env.mount_point());
        for pid in [env.keeper_pid(), env.worker_pid()] {
            let process = std::path::PathBuf::from(format!("/proc/{pid}"));
            assert_eq!(fs::read_link(process.join("cwd")).unwrap(), std::path::Path::new("/"));
            for entry in fs::read_dir(process.join("fd")).unwrap().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                assert!(!target.ends_with("held"));
                assert!(!target.to_string_lossy().contains("/dev/pts"));
            }
        }
        env.unmount();
    });
}

#[test]
fn a_mount_point_may_be_behind_links() {
    in_each_environment(|env| {
        env.dir("disk");
        env.dir("disk/real");
        std::os::unix::fs::symlink(env.path("disk/real"), env.path("link")).unwrap();
        std::os::unix::fs::symlink(env.path("disk"), env.path("above")).unwrap();
        for mount_point in
            [env.path("link"), env.path("above/new/deep"), env.path("disk/../disk/dots")]
        {
            env.run(&["mount", path(&mount_point)]);
            env.watch(&fs::canonicalize(&mount_point).unwrap());
            assert!(mount_point.join(".wasmfs").is_dir());
            assert!(env.fail(1, &["mount", path(&mount_point)]).contains("already"));
            env.run(&["unmount", path(&mount_point)]);
            assert!(!mount_point.join(".wasmfs").exists());
        }
    });
}

#[test]
fn a_server_in_the_foreground_ends_with_its_mount() {
    in_each_environment(|env| {
        let mut server = env.wasmfs();
        server.args(["mount", "--foreground"]).stderr(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while connection_at(&env.mount_point()).is_none() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        env.watch(&env.mount_point());
        let file = env.file("m.wat", MODULE);
        assert_eq!(env.publish(&file, "key", &[])["visible"], true);
        assert_eq!(env.keeper_pid(), server.id());
        succeed(Command::new("kill").args(["-INT", &server.id().to_string()]));
        assert!(server.wait().unwrap().success());
        let mut log = String::new();
        server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains("serving on until the last user is gone"), "{log}");
        assert!(connection_at(&env.mount_point()).is_none());
    });
}
