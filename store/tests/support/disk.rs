//! A disk to be cut off, or to fail.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An ext4 file system in a file, mounted; taken away when it is dropped.
pub struct Disk {
    image: PathBuf,
    pub at: PathBuf,
    _place: tempfile::TempDir,
}

/// Runs a command, which must succeed.
pub fn run(command: &str, args: &[&str]) {
    let status = Command::new(command).args(args).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command} {args:?}: {status}");
}

impl Disk {
    pub fn new() -> Disk {
        assert!(
            rustix::process::geteuid().is_root(),
            "only root can mount a disk and cut its power"
        );
        let place = tempfile::tempdir().unwrap();
        let (image, at) = (place.path().join("image"), place.path().join("at"));
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        let disk = Disk { image, at, _place: place };
        disk.mount();
        disk
    }

    pub fn mount(&self) {
        run(
            "mount",
            &[
                "-o",
                "loop,errors=remount-ro",
                self.image.to_str().unwrap(),
                self.at.to_str().unwrap(),
            ],
        );
    }

    pub fn unmount(&self) {
        run("umount", &[self.at.to_str().unwrap()]);
    }

    /// Ends the file system without writing what it holds: EXT4_IOC_SHUTDOWN with
    /// EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h).
    pub fn cut_power(&self) {
        const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        run("python3", &["-c", SHUTDOWN, self.at.to_str().unwrap()]);
    }
}

impl Disk {
    /// Has the file system find an error in itself, and become read-only whoever writes it.
    pub fn fail(&self) {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let at = self.at.to_str().unwrap();
        let device = table.lines().find(|line| line.split(' ').nth(1) == Some(at)).unwrap();
        let device = device.split(' ').next().unwrap().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}
