//! A mounted store on a disk that is full.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use wasmfs_tests::{Inline, User, in_environment};

use crate::artifacts;

/// Takes a small disk away.
struct Unmount<'a>(&'a std::path::Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_publishes_under_hosts_and_recovers_by_itself() {
    in_environment(User::Root, Inline::Default, &|env| {
        let disk = env.dir("disk");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(&disk);
        assert!(mount.status().unwrap().success());
        let _unmount = Unmount(&disk);
        let store = disk.join("store");
        fs::create_dir(&store).unwrap();
        fs::create_dir_all(env.path(".local/share")).unwrap();
        std::os::unix::fs::symlink(&store, env.store()).unwrap();
        env.mount();
        let made = artifacts(env, 3);
        env.publish(&made[0].0, "key", &[]);
        let pid = env.worker_pid();
        let mut filler = File::create(disk.join("filler")).unwrap();
        while filler.write_all(&[1; 1 << 16]).is_ok() {}
        for _ in 0..3 {
            let file = made[1].0.to_str().unwrap();
            let stderr = env.fail(1, &["publish", file, "--key", "key"]);
            assert!(stderr.contains("hint: free some space"), "{stderr}");
            fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
            assert!(fs::read(env.mounted("key")).unwrap() == made[0].1);
        }
        // A worker that starts on a full disk serves as well.
        env.signal(pid, "-KILL");
        assert!(fs::read(env.mounted(".wasmfs/versions/key/1")).unwrap() == made[0].1);
        let pid = env.worker_pid();
        drop(filler);
        fs::remove_file(disk.join("filler")).unwrap();
        env.publish(&made[2].0, "key", &[]);
        assert!(fs::read(env.mounted("key")).unwrap() == made[2].1);
        assert_eq!(env.worker_pid(), pid);
        env.run(&["verify"]);
        env.unmount();
    });
}
