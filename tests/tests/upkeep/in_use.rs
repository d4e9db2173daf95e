//! The kernel says what is in use.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use wasmfs_tests::host::Host;
use wasmfs_tests::{Environment, Inline, User, in_each_environment, in_environment};

use crate::{artifacts, gc, number, objects};

/// How many collections a mapping is held through.
fn collections() -> u32 {
    let given = std::env::var("WASMFS_TEST_COLLECTIONS").ok();
    given.map_or(25, |n| n.parse().unwrap())
}

/// A shared mapping of a whole file, whose descriptor is closed.
struct Mapping {
    start: *mut core::ffi::c_void,
    len: usize,
}

impl Mapping {
    fn of(path: &std::path::Path) -> Mapping {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len() as usize;
        // SAFETY: a new mapping, that nothing else refers to.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0).unwrap()
        };
        Mapping { start, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading as long as this lives; the mount never changes a file.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: its own, and nobody has its bytes any more.
        unsafe { munmap(self.start, self.len).unwrap() };
    }
}

#[test]
fn a_mapped_version_outlives_every_collection() {
    in_each_environment(|env| {
        env.mount();
        let made = artifacts(env, 2);
        env.publish(&made[0].0, "key", &[]);
        let mapping = Mapping::of(&env.mounted("key"));
        env.publish(&made[1].0, "key", &[]);
        gc(env, &[]);
        let before = objects(env);
        for round in 0..collections() {
            let done = gc(env, &[]);
            assert_eq!(number(&done["collected"]["versions"]), 0, "round {round}: {done}");
            assert_eq!(done["in_use"][0]["key"], "key", "round {round}");
            if round % 5 == 0 {
                // Pages that are not in memory are read from the store.
                let file = File::open(env.mounted(".wasmfs/versions/key/1")).unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                if env.user == User::Root {
                    fs::write("/proc/sys/vm/drop_caches", "1").ok();
                }
            }
            assert!(mapping.bytes() == made[0].1, "round {round}");
        }
        assert_eq!(objects(env), before);
        drop(mapping);
        let done = gc(env, &[]);
        assert_eq!(number(&done["collected"]["versions"]), 1, "{done}");
        assert!(!env.mounted(".wasmfs/versions/key/1").exists());
        assert_eq!(fs::read(env.mounted("key")).unwrap(), made[1].1);
        env.unmount();
    });
}

#[test]
fn an_executing_host_keeps_its_module() {
    in_environment(User::Ordinary, Inline::Default, &|env| {
        env.mount();
        let made = artifacts(env, 2);
        env.publish(&made[0].0, "key", &[]);
        let mut host = Host::load(env, &env.mounted("key"), "cranelift");
        let answer = host.said("call f63 7");
        env.publish(&made[1].0, "key", &[]);
        env.run(&["rm", "key"]);
        for _ in 0..5 {
            gc(env, &[]);
            assert_eq!(host.said("fresh f63 7"), answer);
        }
        let why = env.run(&["gc", "--why", "key@1"]);
        assert!(why.contains(&format!("process {} (", host.pid())), "{why}");
        drop(host);
        assert_eq!(number(&gc(env, &[])["collected"]["versions"]), 1);
        env.unmount();
    });
}

/// Publishes, collects, looks up and opens at the same time: whatever was opened can be read to its end.
#[test]
fn collections_race_with_publishes_and_opens() {
    in_each_environment(|env| {
        env.mount();
        let made = artifacts(env, 4);
        env.publish(&made[0].0, "key", &[]);
        let (stop, opened, collected) =
            (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (stop, opened, made) = (&stop, &opened, &made);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let mut turn = reader;
                    while !stop.load(Ordering::Relaxed) {
                        turn += 1;
                        let names = fs::read_dir(env.mounted(".wasmfs/versions/key")).unwrap();
                        let names: Vec<_> = names.map(|n| n.unwrap().path()).collect();
                        let path = match turn % 4 {
                            0 => env.mounted("key"),
                            n => names[(n * 7 + turn) % names.len()].clone(),
                        };
                        // It may be gone by now; but once open it stays.
                        let Ok(mut file) = File::open(&path) else { continue };
                        let mut bytes = Vec::new();
                        file.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                        assert!(made.iter().any(|(_, made)| *made == bytes), "{path:?}");
                        held.push((file, bytes));
                        if held.len() > 3 {
                            let (file, bytes) = held.remove(0);
                            let mut again = vec![0; bytes.len()];
                            file.read_exact_at(&mut again, 0).unwrap();
                            assert!(again == bytes);
                        }
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    collected.fetch_add(
                        number(&gc(env, &[])["collected"]["versions"]),
                        Ordering::Relaxed,
                    );
                }
            });
            for round in 0..60 {
                env.publish(&made[round % 4].0, "key", &[]);
            }
            stop.store(true, Ordering::Relaxed);
        });
        let (opened, collected) = (opened.into_inner(), collected.into_inner());
        println!("{opened} opened, {collected} collected");
        assert!(opened > 100 && collected > 20);
        gc(env, &[]);
        assert_eq!(gc(env, &[])["in_use"].as_array().unwrap().len(), 0);
        assert_eq!(fs::read_dir(env.mounted(".wasmfs/versions/key")).unwrap().count(), 1);
        env.unmount();
    });
}

#[test]
fn a_worker_killed_while_it_collects_leaves_nothing_wrong() {
    in_each_environment(|env| {
        env.mount();
        let made = artifacts(env, 3);
        env.publish(&made[0].0, "key", &[]);
        let held = Mapping::of(&env.mounted("key"));
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                for round in 0..6u64 {
                    std::thread::sleep(Duration::from_millis(60 + 37 * round));
                    env.signal(env.worker_pid(), "-KILL");
                }
            });
            let mut round = 0;
            while !killer.is_finished() {
                round += 1;
                env.publish(&made[1 + round % 2].0, "key", &[]);
                gc(env, &[]);
            }
            println!("{round} collections under 6 kills");
            let current = &made[1 + round % 2].1;
            assert!(fs::read(env.mounted("key")).unwrap() == *current);
        });
        assert!(held.bytes() == made[0].1);
        // A name that was hidden when its worker died is found again.
        assert!(fs::read(env.mounted(".wasmfs/versions/key/1")).unwrap() == made[0].1);
        drop(held);
        gc(env, &[]);
        assert_eq!(fs::read_dir(env.mounted(".wasmfs/versions/key")).unwrap().count(), 1);
        let mine = if env.path("x").exists() { 0 } else { 2 };
        // The key's payload, and the one of the key they were compiled under.
        assert!(objects(env) <= mine);
        env.unmount();
    });
}

/// A store on a mount that somebody detached is still in use.
#[test]
fn a_detached_mount_keeps_what_it_shows() {
    in_environment(User::Root, Inline::Default, &|env: &Environment| {
        env.mount();
        let made = artifacts(env, 2);
        env.publish(&made[0].0, "key", &[]);
        let held = File::open(env.mounted("key")).unwrap();
        env.run(&["unmount", "--lazy"]);
        env.mount();
        env.publish(&made[1].0, "key", &[]);
        let done = gc(env, &[]);
        assert_eq!(done["in_use"][0]["version"], 1, "{done}");
        let mut bytes = vec![0; made[0].1.len()];
        held.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == made[0].1);
        drop(held);
        assert_eq!(number(&gc(env, &[])["collected"]["versions"]), 1);
        env.unmount();
    });
}
