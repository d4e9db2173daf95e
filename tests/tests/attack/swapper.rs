//! Paths that change under a command.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use wasmfs_tests::guard::connection_at;
use wasmfs_tests::{become_ordinary, output, succeed};

use crate::{attackers_file, give, module, private, snapshot, text, with_attacker};

/// Has two names change places as fast as it can, as the attacker.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(one: &Path, other: &Path) -> Swapper {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, one, other) = (stop.clone(), one.to_owned(), other.to_owned());
        let thread = std::thread::spawn(move || {
            become_ordinary();
            let mut even = true;
            while !stopped.load(Ordering::Relaxed) || !even {
                let exchanged = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                even ^= exchanged.is_ok();
                std::thread::yield_now();
            }
        });
        Swapper { stop, thread: Some(thread) }
    }

    /// Stops, with both names where they were.
    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Swapper {
    /// A test that fails leaves no thread that goes on.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Is set when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn attempts(usual: u32) -> u32 {
    let given = std::env::var("WASMFS_TEST_ATTACKS").ok();
    given.map_or(usual, |given| given.parse().expect("WASMFS_TEST_ATTACKS is a number"))
}

#[test]
fn a_store_that_changes_places_with_another_is_the_one_or_the_other() {
    with_attacker(|env, arena| {
        let (store, decoy) = (arena.join("store"), arena.join("decoy"));
        env.run(&["--store", text(&store), "publish", text(&module(env, 0)), "--key", "k0"]);
        succeed(std::process::Command::new("cp").arg("-a").arg(&store).arg(&decoy));
        for file in walkdir::WalkDir::new(&decoy) {
            give(file.unwrap().path());
        }
        let before = snapshot(&decoy);
        let swapper = Swapper::start(&store, &decoy);
        let mut published = 0;
        for n in 1..=attempts(30) {
            let key = format!("k{n}");
            let file = module(env, n);
            let args = ["--store", text(&store), "publish", text(&file), "--key", &key];
            published += u32::from(output(env.wasmfs().args(args)).status.success());
        }
        swapper.stop();
        assert_eq!(snapshot(&decoy), before);
        let keys = env.run(&["--store", text(&store), "ls"]);
        assert_eq!(keys.lines().count() as u32, published + 1, "{keys}");
        env.run(&["--store", text(&store), "verify"]);
        // Nobody was there to leave anything.
        let incoming: Vec<_> = fs::read_dir(store.join("incoming")).unwrap().collect();
        assert!(incoming.is_empty(), "{incoming:?}");
    });
}

#[test]
fn files_of_a_store_are_no_links() {
    with_attacker(|env, arena| {
        let victim = private(env, "victim");
        for name in ["lock", "history", "state.json", "settings.json", "wasmfs.log", "reserve"] {
            fs::write(victim.join(name), "{\"format\": 2} root's, and to stay so").unwrap();
        }
        for name in ["db", "objects", "incoming"] {
            fs::create_dir(victim.join(name)).unwrap();
            fs::write(victim.join(name).join("letter"), "root's").unwrap();
        }
        let before = snapshot(&victim);
        // The attacker could write into the store until now, or made it for root to find.
        for name in [
            "lock",
            "history",
            "state.json",
            "settings.json",
            "wasmfs.log",
            "reserve",
            "db",
            "objects",
            "incoming",
        ] {
            for his in [false, true] {
                let store = arena.join(format!("{name}-{his}"));
                env.run(&["--store", text(&store), "publish", text(&module(env, 0))]);
                let place = store.join(name);
                let _ = fs::remove_file(&place);
                let _ = fs::remove_dir_all(&place);
                symlink(victim.join(name), &place).unwrap();
                if his {
                    [&place, &store].into_iter().for_each(|path| give(path));
                }
                let mount = arena.join("mount");
                for args in [
                    &["ls"][..],
                    &["publish", text(&module(env, 1)), "--key", "other"],
                    &["verify"],
                    &["verify", "--repair"],
                    &["gc"],
                    &["mount", text(&mount)],
                    &["unmount", text(&mount)],
                ] {
                    let args = [&["--store", text(&store)], args].concat();
                    let _ = output(env.wasmfs().args(args));
                }
                assert_eq!(snapshot(&victim), before, "{name} {his}");
                assert_eq!(connection_at(&mount), None);
            }
        }
    });
}

/// What was put into a store while others could, and what it is put in.
#[test]
fn the_database_is_files_of_its_own() {
    with_attacker(|env, arena| {
        let victim = private(env, "victim").join("precious");
        let fill = || fs::write(&victim, "root's").unwrap();
        let link = |place: &Path| symlink(&victim, place).unwrap();
        let pipe = |place: &Path| {
            succeed(std::process::Command::new("mkfifo").arg(place));
        };
        type Plant<'a> = &'a dyn Fn(&Path);
        let planted: [(&str, Plant<'_>); 5] = [
            ("db/db", &link),
            ("db/conf", &pipe),
            ("db/blobs/17", &link),
            ("wasmfs.log", &pipe),
            ("history", &pipe),
        ];
        for (number, (name, plant)) in planted.into_iter().enumerate() {
            fill();
            let store = arena.join(format!("store{number}"));
            env.run(&["--store", text(&store), "publish", text(&module(env, 0)), "--key", "k"]);
            let place = store.join(name);
            let _ = fs::remove_file(&place);
            plant(&place);
            for args in [&["ls"][..], &["publish", text(&module(env, 1))], &["mount"], &["verify"]]
            {
                let stderr = env.fail(1, &[&["--store", text(&store)], args].concat());
                assert!(!stderr.is_empty());
            }
            // It is put aside, and what was in its place is made anew as far as that can be.
            let _ = output(env.wasmfs().args(["--store", text(&store), "verify", "--repair"]));
            let found = place.symlink_metadata();
            assert!(!found.is_ok_and(|found| !found.is_file()), "{name}");
            assert_eq!(fs::read(&victim).unwrap(), b"root's", "{name}");
            if name != "history" {
                // All of it was looked at, and is used again.
                env.run(&["--store", text(&store), "verify"]);
                assert!(env.run(&["--store", text(&store), "ls"]).contains('k'));
            }
        }
        // A directory that was open to all is nobody else's once it is used.
        let store = arena.join("open");
        env.run(&["--store", text(&store), "publish", text(&module(env, 0)), "--key", "k"]);
        for dir in ["db", "objects", "incoming", "db/blobs"] {
            fs::set_permissions(store.join(dir), fs::Permissions::from_mode(0o777)).unwrap();
        }
        env.run(&["--store", text(&store), "ls"]);
        for dir in ["db", "objects", "incoming", "db/blobs"] {
            let mode = fs::metadata(store.join(dir)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{dir}");
        }
    });
}

#[test]
fn files_that_are_named_lead_through_nobody_elses_links() {
    with_attacker(|env, arena| {
        let victim = private(env, "victim");
        fs::copy(module(env, 0), victim.join("secret.wat")).unwrap();
        let (dir, file, pipe) = (arena.join("dir"), arena.join("x.wat"), arena.join("pipe.cwasm"));
        symlink(&victim, &dir).unwrap();
        symlink(victim.join("secret.wat"), &file).unwrap();
        [&dir, &file].into_iter().for_each(|path| give(path));
        succeed(std::process::Command::new("mkfifo").arg(&pipe));
        give(&pipe);
        let before = snapshot(&victim);
        for (args, says) in [
            (&["publish", text(&file)][..], "symbolic link of uid"),
            (&["publish", text(&dir.join("secret.wat"))], "symbolic link of uid"),
            (&["publish", text(&pipe)], "no regular file"),
            (&["export", text(&dir.join("a.tar"))], "symbolic link of uid"),
            (&["import", text(&dir)], "symbolic link of uid"),
            (&["link", text(&dir)], "symbolic link of uid"),
        ] {
            env.run(&["publish", text(&module(env, 1)), "--key", "k"]);
            let stderr = env.fail(1, args);
            assert!(stderr.contains(says), "{args:?}: {stderr}");
        }
        for at in [&dir, &dir.join("new")] {
            let args = ["capture", "--dir", text(at), "--", "true"];
            assert!(!output(env.wasmfs().args(args)).status.success());
        }
        assert_eq!(snapshot(&victim), before);
        // One's own are followed.
        let own = env.path("own.wat");
        symlink(module(env, 0), &own).unwrap();
        env.run(&["publish", text(&own)]);
    });
}

#[test]
fn what_a_host_writes_for_a_capture_is_private() {
    with_attacker(|env, arena| {
        let wasmfs = env.binary("wasmfs");
        let run = |umask: &str, temp: &Path| {
            let mut capture = env.command("sh");
            let line = format!("umask {umask}; exec \"$0\" \"$@\"");
            capture.args(["-c", &line, text(&wasmfs), "capture", "--", "sh", "-c"]);
            capture.arg("stat -c %a $XDG_CACHE_HOME").env("TMPDIR", temp);
            output(&mut capture)
        };
        for umask in ["000", "022", "077", "777"] {
            let captured = run(umask, Path::new("/tmp"));
            assert!(String::from_utf8_lossy(&captured.stdout).starts_with("700\n"), "{captured:?}");
        }
        // Where the attacker could put another directory in its place.
        let captured = run("022", arena);
        assert!(String::from_utf8_lossy(&captured.stderr).contains("another user can change"));
        assert!(fs::read_dir(arena).unwrap().next().is_none());
    });
}

#[test]
fn a_mount_point_that_becomes_a_link_is_not_followed() {
    with_attacker(|env, arena| {
        let victim = private(env, "victim");
        let (place, link) = (arena.join("place"), arena.join("link"));
        for dir in [&place, &arena.join("above"), &arena.join("above/place")] {
            fs::create_dir(dir).unwrap();
            give(dir);
        }
        fs::create_dir(victim.join("place")).unwrap();
        for link in [&link, &arena.join("other")] {
            symlink(&victim, link).unwrap();
            give(link);
        }
        // Placed beforehand, in the last component and above.
        for path in [&link, &arena.join("other/place"), &arena.join("other/new")] {
            let stderr = env.fail(1, &["mount", text(path)]);
            assert!(stderr.contains("symbolic link of uid"), "{stderr}");
        }
        for (one, other, mount_point) in [
            (&place, &link, place.clone()),
            (&arena.join("above"), &arena.join("other"), arena.join("above/place")),
        ] {
            let swapper = Swapper::start(one, other);
            for _ in 0..attempts(12) {
                let mounted = output(env.wasmfs().args(["mount", text(&mount_point)]));
                for path in [victim.clone(), victim.join("place")] {
                    assert_eq!(connection_at(&path), None, "it is mounted over");
                }
                if mounted.status.success() {
                    let status = env.json(&["status"]);
                    let Some(at) = status["mounts"][0]["mount_point"].as_str() else {
                        let log = fs::read_to_string(env.store().join("wasmfs.log")).unwrap();
                        panic!("{mounted:?}\n{status}\n{log}");
                    };
                    let at = PathBuf::from(at);
                    // It may meet the link as well.
                    let unmounted = || output(env.wasmfs().arg("unmount")).status.success();
                    assert!((0..500).any(|_| unmounted()));
                    assert!(at.starts_with(arena), "{}", at.display());
                }
            }
            swapper.stop();
        }
        assert!(fs::read_dir(victim.join("place")).unwrap().next().is_none());
    });
}

#[test]
fn what_is_made_on_the_way_is_what_gets_its_mode() {
    with_attacker(|env, arena| {
        let victim = private(env, "victim");
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        let place = arena.join("place");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                become_ordinary();
                while !stop.load(Ordering::Relaxed) {
                    if fs::remove_dir(&place).is_ok() && symlink(&victim, &place).is_ok() {
                        let _ = fs::remove_file(&place);
                    }
                }
            });
            let _stop = Stop(&stop);
            for _ in 0..attempts(30) {
                let args = ["mount", text(&place), "--allow-other"];
                let mounted = output(env.wasmfs().args(args)).status.success();
                let mode = fs::metadata(&victim).unwrap().permissions().mode();
                assert_eq!((mode & 0o777, connection_at(&victim)), (0o600, None));
                if mounted {
                    env.run(&["unmount"]);
                }
            }
        });
    });
}

#[test]
fn links_are_made_and_removed_in_their_directory_alone() {
    with_attacker(|env, arena| {
        for n in 0..20 {
            env.publish(&module(env, n), &format!("sub/key{n}"), &[]);
        }
        env.mount();
        let victim = private(env, "victim");
        let mine = env.mounted("sub/gone");
        for n in 0..20 {
            symlink(&mine, victim.join(format!("mine{n}"))).unwrap();
        }
        let before = snapshot(&victim);
        // A link where a directory should be.
        let links = arena.join("links");
        fs::create_dir(&links).unwrap();
        symlink(&victim, links.join("sub")).unwrap();
        [&links, &links.join("sub")].into_iter().for_each(|path| give(path));
        env.run(&["link", text(&links)]);
        assert_eq!(snapshot(&victim), before);
        // One that comes and goes.
        let (real, aside) = (arena.join("real"), arena.join("aside"));
        for dir in [&real, &real.join("sub")] {
            fs::create_dir(dir).unwrap();
            give(dir);
        }
        symlink(&victim, &aside).unwrap();
        give(&aside);
        let swapper = Swapper::start(&real.join("sub"), &aside);
        for _ in 0..attempts(20) {
            let _ = output(env.wasmfs().args(["link", text(&real)]));
            assert_eq!(snapshot(&victim), before);
        }
        swapper.stop();
        // And the directory itself.
        let stderr = env.fail(1, &["link", text(&aside)]);
        assert!(stderr.contains("symbolic link of uid"), "{stderr}");
        assert_eq!(snapshot(&victim), before);
        env.unmount();
    });
}

#[test]
fn an_import_replaces_no_file_but_those_in_its_directory() {
    with_attacker(|env, arena| {
        env.publish(&module(env, 0), "x", &[]);
        env.mount();
        let artifact = fs::read(env.mounted("x")).unwrap();
        let victim = private(env, "victim");
        fs::write(victim.join("x"), &artifact).unwrap();
        let before = snapshot(&victim);
        let (cache, link) = (arena.join("cache"), arena.join("link"));
        fs::create_dir(&cache).unwrap();
        give(&cache);
        attackers_file(&cache.join("x"), &artifact);
        symlink(&victim, &link).unwrap();
        give(&link);
        let stderr = env.fail(1, &["import", text(&link), "--link"]);
        assert!(stderr.contains("symbolic link of uid"), "{stderr}");
        let swapper = Swapper::start(&cache, &link);
        for _ in 0..attempts(20) {
            let _ = output(env.wasmfs().args(["import", text(&cache), "--link"]));
            assert_eq!(snapshot(&victim), before);
        }
        swapper.stop();
        env.unmount();
    });
}
