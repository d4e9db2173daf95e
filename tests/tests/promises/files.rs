//! Promises about files.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use wasmfs_tests::module::wat;
use wasmfs_tests::{Environment, Inline, User, identity, in_all_environments, in_environment};
use wasmfs_tests::{in_each_environment, succeed};

use crate::publish;

#[test]
fn a_file_never_changes() {
    in_all_environments(|env| {
        env.mount();
        publish(env, "a/key.cwasm", 1);
        let version = env.mounted(".wasmfs/versions/a/key.cwasm/1");
        let look = || {
            let m = fs::metadata(&version).unwrap();
            (fs::read(&version).unwrap(), m.len(), m.ino(), m.mtime(), m.mtime_nsec(), m.ctime())
        };
        let first = look();
        let held = File::open(env.mounted("a/key.cwasm")).unwrap();
        publish(env, "a/key.cwasm", 2);
        assert_eq!(look(), first);
        env.run(&["rm", "a/key.cwasm@2"]);
        assert_eq!(look(), first);
        let mut bytes = Vec::new();
        (&held).read_to_end(&mut bytes).unwrap();
        let m = held.metadata().unwrap();
        assert_eq!((bytes, m.len(), m.ino(), m.mtime(), m.mtime_nsec(), m.ctime()), first);
        drop(held);
        env.unmount();
        env.mount();
        assert_eq!(look(), first);
        env.unmount();
    });
}

#[test]
fn publishing_is_atomic() {
    in_each_environment(|env| {
        env.mount();
        let files = [1, 2].map(|n| env.file(&format!("{n}.wat"), wat(n)));
        let artifacts = [0, 1].map(|i| {
            let published = env.publish(&files[i], &format!("copy/{i}"), &[]);
            fs::read(env.mounted(published["path"].as_str().unwrap())).unwrap()
        });
        let ready = [0, 1].map(|i| env.file(&format!("{i}.cwasm"), &artifacts[i]));
        env.publish(&ready[0], "key", &[]);
        let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let bytes = fs::read(env.mounted("key")).unwrap();
                        assert!(artifacts.contains(&bytes), "neither the old version nor the new");
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for i in 0..30 {
                env.publish(&ready[(i + 1) % 2], "key", &[]);
                assert_eq!(fs::read(env.mounted("key")).unwrap(), artifacts[(i + 1) % 2]);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(looks.load(Ordering::Relaxed) > 30);
        env.unmount();
    });
}

#[test]
fn an_open_after_publish_sees_the_new_version() {
    in_each_environment(|env| {
        env.mount();
        for n in 1..20 {
            let published = publish(env, "dir/key", n);
            assert_eq!(published["visible"], true);
            assert_eq!(identity(&env.mounted("dir/key")).0, published["inode"].as_u64().unwrap());
        }
        env.run(&["rm", "dir/key"]);
        assert!(File::open(env.mounted("dir/key")).is_err());
        assert!(!env.mounted("dir").exists());
        publish(env, "dir/key", 1);
        assert!(File::open(env.mounted("dir/key")).is_ok());
        env.unmount();
    });
}

#[test]
fn an_old_version_stays_readable() {
    in_all_environments(|env| {
        env.mount();
        let source = env.file("big.wat", wat(1));
        env.publish(&source, "key", &[]);
        let held = File::open(env.mounted("key")).unwrap();
        let first = fs::read(env.mounted("key")).unwrap();
        // A process that maps it, and looks again when it is told to.
        let script = "import mmap, sys, hashlib\n\
            f = open(sys.argv[1], 'rb')\n\
            m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)\n\
            f.close()\n\
            print('mapped', flush=True)\n\
            sys.stdin.read()\n\
            print(hashlib.sha256(m).hexdigest())\n";
        let mut mapper = env.command("python3");
        mapper.args(["-c", script]).arg(env.mounted("key")).stdin(Stdio::piped());
        let mut mapper = mapper.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 7];
        mapper.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        for n in 2..10 {
            publish(env, "key", n);
        }
        env.run(&["rm", "key"]);
        // What was in memory is dropped, so that it has to come from the store.
        rustix::fs::fadvise(&held, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut bytes = vec![0; first.len()];
        held.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == first);
        let output = mapper.wait_with_output().unwrap();
        let hash = succeed(env.command("sha256sum").stdin(held));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), &hash[..64]);
        env.unmount();
    });
}

#[test]
fn damaged_bytes_are_an_error_and_never_data() {
    in_environment(User::Root, Inline::Default, &|env: &Environment| {
        env.mount();
        let source = env.file("big.wat", wat(1));
        let published = env.publish(&source, "key", &[]);
        let sha256 = published["sha256"].as_str().unwrap();
        let object = env.object(sha256);
        let good = fs::read(&object).unwrap();
        const BLOCK: usize = 32 << 10;
        for damaged in [0, 3, good.len() / BLOCK] {
            let mut bad = good.clone();
            let at = (damaged * BLOCK + 17).min(bad.len() - 1);
            bad[at] ^= 0x10;
            fs::write(&object, &bad).unwrap();
            // A new server, which has nothing in memory.
            env.unmount();
            env.mount();
            let file = File::open(env.mounted("key")).unwrap();
            for (block, expected) in good.chunks(BLOCK).enumerate() {
                let mut bytes = vec![0; expected.len()];
                let read = file.read_exact_at(&mut bytes, (block * BLOCK) as u64);
                if block == damaged {
                    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
                } else {
                    read.unwrap();
                    assert!(bytes == expected);
                }
            }
            let log = fs::read_to_string(env.store().join("wasmfs.log")).unwrap();
            assert!(
                log.contains(&format!("the block at byte {} ", damaged * BLOCK))
                    && log.contains("key version 1"),
                "{log}"
            );
        }
        fs::write(&object, &good[..good.len() / 2]).unwrap();
        env.unmount();
        env.mount();
        assert_eq!(fs::read(env.mounted("key")).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(identity(&env.mounted("key")).1, good.len() as u64);
        fs::remove_file(&object).unwrap();
        env.unmount();
        env.mount();
        assert_eq!(fs::read(env.mounted("key")).unwrap_err().raw_os_error(), Some(libc::EIO));
        env.unmount();
    });
}

#[test]
fn pages_can_be_written_privately_and_executed() {
    in_all_environments(|env| {
        env.mount();
        publish(env, "key", 1);
        let options = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount_point = env.mount_point();
        let ours = options.lines().find(|l| l.contains(mount_point.to_str().unwrap())).unwrap();
        assert!(
            ours.contains("nosuid") && ours.contains("nodev") && ours.contains(" ro,"),
            "{ours}"
        );
        assert!(!ours.contains("noexec"), "{ours}");
        // What a host does: map private and writable, write, then make it executable.
        let script = "import ctypes, mmap, sys\n\
            f = open(sys.argv[1], 'rb')\n\
            m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)\n\
            before = m[:8]\n\
            m[0:4] = b'\\xb8\\x2a\\x00\\x00'\n\
            m[4:6] = b'\\x00\\xc3'\n\
            address = ctypes.addressof(ctypes.c_char.from_buffer(m))\n\
            libc = ctypes.CDLL(None, use_errno=True)\n\
            assert libc.mprotect(ctypes.c_void_p(address), 4096, 1 | 4) == 0, ctypes.get_errno()\n\
            print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())\n\
            assert open(sys.argv[1], 'rb').read(8) == before\n";
        let mut python = env.command("python3");
        let printed = succeed(python.args(["-c", script]).arg(env.mounted("key")));
        assert_eq!(printed.trim(), "42");
        env.unmount();
    });
}

#[test]
fn a_warm_load_needs_no_server() {
    in_each_environment(|env| {
        env.mount();
        let source = env.file("big.wat", wat(1));
        env.publish(&source, "dir/key", &[]);
        let path = env.mounted("dir/key");
        let bytes = fs::read(&path).unwrap();
        let label = env.json(&["show", "dir/key"])["engine"].as_str().unwrap().to_owned();
        env.run(&["engines", "alias", "prod", &label]);
        let aliased = env.mounted(".wasmfs/engines/prod/dir/key");
        assert!(fs::read(&aliased).unwrap() == bytes);
        assert!(!env.mounted("dir/absent").exists());
        let pid = env.worker_pid().to_string();
        succeed(Command::new("kill").args(["-STOP", &pid]));
        // Nobody answers now; whatever needs an answer would wait.
        let (done, warm) = std::sync::mpsc::channel();
        let (path, absent) = (path.clone(), env.mounted("dir/absent"));
        let load = move || {
            let same = fs::read(&path).unwrap() == bytes && fs::metadata(&path).is_ok();
            let same = same && fs::read(&aliased).unwrap() == bytes;
            done.send(same && !absent.exists())
        };
        let loading = std::thread::spawn(load);
        let answer = warm.recv_timeout(std::time::Duration::from_secs(20));
        succeed(Command::new("kill").args(["-CONT", &pid]));
        assert_eq!(answer, Ok(true));
        loading.join().unwrap().unwrap();
        env.unmount();
    });
}
