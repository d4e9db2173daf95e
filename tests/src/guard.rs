//! What keeps a failing test from leaving mounts, servers, or processes that
//! nothing can kill: a request lost in a dead server is waited for without
//! end, until the connection is aborted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a test with mounts may take before its connections are aborted, in
/// seconds, unless `WASMFS_TEST_LIMIT` says otherwise.
const LIMIT: u64 = 300;

fn limit() -> Duration {
    let given = std::env::var("WASMFS_TEST_LIMIT").ok().and_then(|limit| limit.parse().ok());
    Duration::from_secs(given.unwrap_or(LIMIT))
}

/// Looks after the mounts of a test.
pub struct Guard {
    home: PathBuf,
    connections: Arc<Mutex<Vec<u32>>>,
    done: Option<Sender<()>>,
    watchdog: Option<JoinHandle<bool>>,
}

impl Guard {
    /// Looks after what is mounted, and who serves, under `home`.
    pub fn new(home: &Path) -> Guard {
        Guard::with_limit(home, limit())
    }

    /// The same for something that may take so long.
    pub fn with_limit(home: &Path, limit: Duration) -> Guard {
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (done, waiting) = channel();
        let watched = connections.clone();
        let watched_home = home.to_owned();
        let watchdog = std::thread::spawn(move || watch(&waiting, &watched, &watched_home, limit));
        Guard { home: home.to_owned(), connections, done: Some(done), watchdog: Some(watchdog) }
    }

    /// Looks after the connection of the mount at `mount_point`.
    pub fn watch(&self, mount_point: &Path) {
        let connection = connection_at(mount_point).expect("a FUSE mount");
        self.connections.lock().expect("the list").push(connection);
    }
}

/// Waits for the test's end; aborts its connections if it takes too long, and says whether it did.
fn watch(done: &Receiver<()>, connections: &Mutex<Vec<u32>>, home: &Path, limit: Duration) -> bool {
    if done.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
        return false;
    }
    eprintln!("the test takes over {limit:?}: aborting its FUSE connections, ending its servers");
    for connection in connections.lock().expect("the list").iter() {
        abort(*connection);
    }
    // Whoever waits for a command that waits for a server is answered as well.
    kill(home);
    true
}

fn kill(home: &Path) {
    for pid in servers(home) {
        let _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
    }
}

fn abort(connection: u32) {
    let _ = fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1");
}

/// The name of the connection behind a mount: the minor number of its device.
pub fn connection_at(mount_point: &Path) -> Option<u32> {
    mounts().into_iter().rev().find(|(path, ..)| path == mount_point).map(|(_, minor, _)| minor)
}

/// Every FUSE mount: its path, minor device number and type.
fn mounts() -> Vec<(PathBuf, u32, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let dash = fields.iter().position(|field| *field == "-")?;
        let fs_type = fields.get(dash + 1)?.to_string();
        let minor = fields[2].split_once(':')?.1.parse().ok()?;
        fs_type.starts_with("fuse.").then(|| (PathBuf::from(fields[4]), minor, fs_type))
    };
    table.lines().filter_map(parse).collect()
}

/// The servers whose command line names something under `home`: keepers first,
/// who would start other workers.
pub fn servers(home: &Path) -> Vec<u32> {
    let home = home.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let keeps = line.starts_with("wasmfs\0keeper");
            let serves = keeps || line.starts_with("wasmfs\0worker");
            (serves && line.contains(&home)).then_some((!keeps, pid))
        })
        .collect::<BTreeSet<(bool, u32)>>()
        .into_iter()
        .map(|(_, pid)| pid)
        .collect()
}

fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.done.take());
        let timed_out = self.watchdog.take().is_some_and(|w| w.join().unwrap_or(true));
        for (path, ..) in mounts().into_iter().rev() {
            if path.starts_with(&self.home) {
                let _ = Command::new("umount").arg("-l").arg(&path).status();
            }
        }
        let ended = within(Duration::from_secs(10), || servers(&self.home).is_empty());
        if !ended {
            for connection in self.connections.lock().expect("the list").iter() {
                abort(*connection);
            }
            kill(&self.home);
        }
        if !std::thread::panicking() {
            assert!(!timed_out, "the test took over {:?}", limit());
            assert!(ended, "the server didn't end when its mount was gone");
        }
    }
}
