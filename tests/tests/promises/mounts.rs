//! Promises about mounts, and what is not promised.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use wasmfs_tests::module::wat;
use wasmfs_tests::{as_root, identity, in_each_environment};
use wasmfs_tests::{names, output};

use crate::publish;

/// A shell in a mount namespace of its own, as a container's process is.
struct Container(Child);

impl Container {
    fn start() -> Container {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "--", "sh"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Container(command.spawn().expect("unshare"))
    }

    /// Runs a line in it, and returns the one line it prints.
    fn run(&mut self, line: &str) -> String {
        let input = self.0.stdin.as_mut().expect("its input");
        writeln!(input, "{line}").expect("written");
        let mut printed = Vec::new();
        let mut byte = [0];
        while self.0.stdout.as_mut().expect("its output").read_exact(&mut byte).is_ok() {
            if byte[0] == b'\n' {
                break;
            }
            printed.push(byte[0]);
        }
        String::from_utf8(printed).expect("UTF-8")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn containers_see_publishes() {
    as_root(|env| {
        env.mount();
        publish(env, "dir/key", 1);
        let inside = env.dir("inside");
        let mut container = Container::start();
        let (whole, part) = (env.mount_point(), inside.display());
        container.run(&format!("mount --bind {}/dir {part} && echo ok", whole.display()));
        let mut look =
            |path: &str| container.run(&format!("stat -c %i {path} 2>/dev/null || echo absent"));
        let (in_whole, in_part) = (format!("{}/dir/key", whole.display()), format!("{part}/key"));
        for n in 2..6 {
            let inode = publish(env, "dir/key", n)["inode"].to_string();
            assert_eq!(look(&in_whole), inode);
            assert_eq!(look(&in_part), inode);
        }
        let inode = publish(env, "dir/new", 1)["inode"].to_string();
        assert_eq!(look(&format!("{part}/new")), inode);
        // The directory goes, and comes back.
        env.run(&["rm", "dir/new"]);
        env.run(&["rm", "dir/key"]);
        assert_eq!(look(&in_part), "absent");
        let inode = publish(env, "dir/key", 9)["inode"].to_string();
        assert_eq!(look(&in_whole), inode);
        assert_eq!(look(&in_part), inode);
        drop(container);
        env.unmount();
    });
}

#[test]
fn a_detached_mount_serves_on() {
    in_each_environment(|env| {
        for by_signal in [false, true] {
            env.mount();
            let source = env.file("big.wat", wat(1));
            let key = format!("key-{by_signal}");
            env.publish(&source, &key, &[]);
            let held = File::open(env.mounted(&key)).unwrap();
            let before = identity(&env.mounted(&key));
            let (keeper, worker) = (env.keeper_pid(), env.worker_pid());
            let mut holder = {
                let mut command = env.command("sleep");
                command.arg("60").stdin(held.try_clone().unwrap()).spawn().unwrap()
            };
            let busy = env.fail(1, &["unmount"]);
            let process = format!("process {} (sleep): open", holder.id());
            assert!(busy.contains("busy") && busy.contains("--lazy"), "{busy}");
            assert!(busy.contains(&process), "{busy}");
            holder.kill().unwrap();
            holder.wait().unwrap();
            if by_signal {
                env.signal(keeper, "-TERM");
                wait_until(|| !env.mounted(&key).exists());
            } else {
                env.run(&["unmount", "--lazy"]);
            }
            assert!(names(&env.mount_point()).is_empty());
            // Nothing of it was read before: every page comes from the server now.
            let mut bytes = Vec::new();
            (&held).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, before.1);
            assert_eq!((env.keeper_pid(), env.worker_pid()), (keeper, worker));
            // Mounted again meanwhile, by the same server; commands reach both.
            env.mount();
            assert_eq!((env.keeper_pid(), env.worker_pid()), (keeper, worker));
            assert_eq!(identity(&env.mounted(&key)), before);
            assert_eq!(env.json(&["status"])["mounts"].as_array().unwrap().len(), 2);
            publish(env, &key, 7);
            assert_ne!(identity(&env.mounted(&key)), before);
            assert_eq!(held.metadata().unwrap().ino(), before.0);
            drop(held);
            wait_until(|| env.json(&["status"])["mounts"].as_array().unwrap().len() == 1);
            env.unmount();
            assert_eq!(env.json(&["status"])["worker"], serde_json::Value::Null);
        }
    });
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "it doesn't happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn inotify_is_silent_on_publish() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "dir/key", 1);
        let watch =
            inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::CLOSE_WRITE;
        for path in ["dir", "dir/key"] {
            inotify::add_watch(&watch, env.mounted(path), events).unwrap();
        }
        publish(env, "dir/key", 2);
        publish(env, "dir/other", 3);
        assert_eq!(names(&env.mounted("dir")), ["key", "other"]);
        let mut buf = [0; 4096];
        assert_eq!(rustix::io::read(&watch, &mut buf[..]), Err(rustix::io::Errno::AGAIN));
        drop(watch);
        env.unmount();
    });
}

#[test]
fn a_bind_mount_of_a_file_keeps_its_version() {
    as_root(|env| {
        env.mount();
        publish(env, "key", 1);
        let before = identity(&env.mounted("key"));
        let file = env.file("bound", "");
        let mut container = Container::start();
        let bind =
            format!("mount --bind {} {} && echo ok", env.mounted("key").display(), file.display());
        assert_eq!(container.run(&bind), "ok");
        let look = format!("stat -c '%i %s' {} 2>&1", file.display());
        assert_eq!(container.run(&look), format!("{} {}", before.0, before.1));
        publish(env, "key", 2);
        assert_ne!(identity(&env.mounted("key")), before);
        // The kernel may drop the bind mount with the old name; it never shows another version.
        let now = container.run(&look);
        assert!(now == format!("{} {}", before.0, before.1) || now.ends_with(" 0"), "{now}");
        println!("after a publish the bind mount of a file shows: {now}");
        drop(container);
        env.unmount();
    });
}

#[test]
fn a_write_through_a_link_is_erofs() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "key", 1);
        let links = env.path("links");
        env.run(&["link", links.to_str().unwrap()]);
        let write =
            |path: &Path| fs::OpenOptions::new().write(true).truncate(true).open(path).map(drop);
        assert_eq!(write(&links.join("key")).unwrap_err().raw_os_error(), Some(libc::EROFS));
        // The link itself is the user's to replace.
        fs::remove_file(links.join("key")).unwrap();
        fs::write(links.join("key"), "own").unwrap();
        let report = env.json(&["link", links.to_str().unwrap()]);
        assert_eq!(report["kept"][0], "key");
        assert_eq!(fs::read_to_string(links.join("key")).unwrap(), "own");
        assert!(output(env.command("test").arg("-f").arg(links.join("key"))).status.success());
        env.unmount();
    });
}
