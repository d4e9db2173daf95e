//! Where everything happens, and what is taken away afterwards.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use wasmfs_tests::guard::Guard;

/// How long a run may take before its connections are aborted.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// A directory that is gone at the end.
pub struct Workplace {
    // In this order: nothing may look for files in a mount that nobody serves.
    guard: Guard,
    dir: TempDir,
    readahead: Option<Readahead>,
}

/// How far the kernel reads ahead of who reads the disk: while this lives, as far as is usual.
struct Readahead {
    setting: PathBuf,
    before: String,
}

impl Readahead {
    /// What Linux does if nobody says otherwise (VM_READAHEAD_PAGES).
    const USUAL: &str = "128";

    fn of(dir: &Path) -> Result<Option<Readahead>> {
        let device = fs::metadata(dir)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        // A partition has the setting of its disk.
        for queue in ["queue", "../queue"] {
            let setting = format!("/sys/dev/block/{major}:{minor}/{queue}/read_ahead_kb");
            if let Ok(before) = fs::read_to_string(&setting) {
                fs::write(&setting, Readahead::USUAL)?;
                return Ok(Some(Readahead { setting: setting.into(), before }));
            }
        }
        Ok(None)
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        let _ = fs::write(&self.setting, &self.before);
    }
}

impl Workplace {
    pub fn new(work: &Path) -> Result<Workplace> {
        fs::create_dir_all(work).with_context(|| format!("making {}", work.display()))?;
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(work)?;
        let readahead = Readahead::of(dir.path())?;
        Ok(Workplace { guard: Guard::with_limit(dir.path(), LIMIT), dir, readahead })
    }

    /// How far the kernel read ahead on this disk before, in KiB.
    pub fn usual_readahead(&self) -> Option<&str> {
        self.readahead.as_ref().map(|readahead| readahead.before.trim())
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new directory in it.
    pub fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// A store and its mount; not mounted yet.
    pub fn wasmfs(&self, name: &str) -> Result<Wasmfs<'_>> {
        Ok(Wasmfs { place: self, dir: self.make(name)?, options: RefCell::default() })
    }
}

/// A store and its mount. Unmounted when dropped.
pub struct Wasmfs<'a> {
    place: &'a Workplace,
    dir: PathBuf,
    /// How it was mounted.
    options: RefCell<Vec<String>>,
}

impl Wasmfs<'_> {
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("mount")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(wasmfs_tests::binary("wasmfs"));
        command.env("WASMFS_STORE", self.store()).env("WASMFS_MOUNT", self.mount_point());
        command
    }

    pub fn mount(&self, options: &[&str]) -> Result<()> {
        succeed(self.command().arg("mount").args(options))?;
        self.place.guard.watch(&self.mount_point());
        self.options.replace(options.iter().map(|option| option.to_string()).collect());
        Ok(())
    }

    /// Unmounts, and mounts in the same way.
    pub fn mount_again(&self) -> Result<()> {
        self.unmount()?;
        let options = self.options.borrow().clone();
        self.mount(&options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn unmount(&self) -> Result<()> {
        succeed(self.command().args(["unmount"])).map(drop)
    }

    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&succeed(self.command().args(["status", "--json"]))?)?)
    }

    /// Kills the worker and waits for the next.
    pub fn replace_worker(&self) -> Result<()> {
        let worker = self.status()?["worker"]["pid"].as_i64().context("a worker")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(worker)?).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        let start = Instant::now();
        while self.status()?["worker"]["pid"].as_i64() == Some(worker) {
            ensure!(start.elapsed() < Duration::from_secs(10), "the worker is not replaced");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Wasmfs<'_> {
    fn drop(&mut self) {
        // When it returns the server is gone, and with it whoever needs the store.
        let unmounted = self.command().arg("unmount").stderr(Stdio::null()).output();
        if unmounted.is_ok_and(|output| output.status.success())
            || !self.store().join("lock").exists()
        {
            let _ = fs::remove_dir_all(&self.dir);
        } else {
            let _ = self.command().args(["unmount", "--lazy"]).stderr(Stdio::null()).output();
        }
    }
}

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Has SIGINT, SIGTERM and SIGHUP end what is being done, so that all is taken away.
pub fn heed_signals() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, INTERRUPTED.clone())?;
    }
    Ok(())
}

/// Fails once a signal has come.
pub fn go_on() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Runs a command, which must succeed, and returns its standard output.
pub fn succeed(command: &mut Command) -> Result<String> {
    go_on()?;
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Has the kernel forget every page, name and inode that nobody uses.
pub fn drop_caches() -> Result<()> {
    go_on()?;
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache")?;
    // What was freed is given back by other threads.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// Bytes of files that are in the page cache.
pub fn in_page_cache(files: &[PathBuf]) -> Result<u64> {
    if files.is_empty() {
        return Ok(0);
    }
    let mut fincore = Command::new("fincore");
    let text =
        succeed(fincore.args(["--bytes", "--raw", "--noheadings", "--output", "RES"]).args(files))?;
    text.lines().map(|line| Ok(line.trim().parse::<u64>()?)).sum()
}

/// The object files of a store.
pub fn objects(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in fs::read_dir(store.join("objects"))? {
        for file in fs::read_dir(directory?.path())? {
            found.push(file?.path());
        }
    }
    Ok(found)
}
