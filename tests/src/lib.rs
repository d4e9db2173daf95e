//! Support for the whole-system tests: a hermetic user with a store and a
//! mount of its own, and a guard that leaves nothing behind.

pub mod guard;
pub mod host;
pub mod module;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::SystemTime;

use serde_json::Value;
use tempfile::TempDir;
use walkdir::WalkDir;

use guard::Guard;

/// The build of wasmfs that has faults; `make build` makes it.
pub const FAULTY: &str = "wasmfs-faulty";

/// Who runs wasmfs and the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// root, by mount(2).
    Root,
    /// An ordinary user, by fusermount3.
    Ordinary,
}

/// Where payloads are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline {
    /// As a new store has it.
    Default,
    /// Everything inside sled.
    Unlimited,
}

/// A home directory with nothing in it, and what is mounted there. Dropping it
/// unmounts, ends the server, and fails if that took the guard's force.
pub struct Environment {
    pub user: User,
    // Dropped in this order: nothing may look for files in a mount that nobody serves.
    guard: Guard,
    home: TempDir,
}

/// Runs `test` as root and as an ordinary user, with payloads as object files
/// and inside sled: each user and each way of storing at least once.
pub fn in_each_environment(test: impl Fn(&Environment) + Sync) {
    in_environment(User::Root, Inline::Default, &test);
    in_environment(User::Ordinary, Inline::Unlimited, &test);
}

/// As [`in_each_environment`], with every combination.
pub fn in_all_environments(test: impl Fn(&Environment) + Sync) {
    in_each_environment(&test);
    in_environment(User::Root, Inline::Unlimited, &test);
    in_environment(User::Ordinary, Inline::Default, &test);
}

/// Runs `test` as root, with payloads as object files and inside sled.
pub fn as_root(test: impl Fn(&Environment) + Sync) {
    in_environment(User::Root, Inline::Default, &test);
    in_environment(User::Root, Inline::Unlimited, &test);
}

/// Runs `test` in a thread that is, to the kernel, a process of `user`; what
/// it leaves is cleaned up as root.
pub fn in_environment(user: User, inline: Inline, test: &(impl Fn(&Environment) + Sync)) {
    eprintln!("--- as {user:?}, inline limit {inline:?}");
    let env = Environment::new(user, inline);
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if user == User::Ordinary {
                become_ordinary();
            }
            test(&env);
        });
        thread.join()
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Has the calling thread be, to the kernel, a process of the ordinary user.
pub fn become_ordinary() {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = ordinary_user();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[]).expect("groups");
    set_thread_res_gid(gid, gid, gid).expect("gid");
    set_thread_res_uid(uid, uid, uid).expect("uid");
}

impl Environment {
    pub fn new(user: User, inline: Inline) -> Environment {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests run as root; they drop privileges themselves"
        );
        let home = tempfile::Builder::new().prefix("wasmfs-test-").tempdir().expect("a directory");
        let env = Environment { user, guard: Guard::new(home.path()), home };
        env.give(env.home());
        // Its programs are copied while the home directory is root's to write to.
        if user == User::Ordinary {
            env.binary("wasmfs");
            env.binary(FAULTY);
            env.binary("host");
        }
        if inline == Inline::Unlimited {
            let store = env.store();
            for dir in [".local", ".local/share", ".local/share/wasmfs"] {
                fs::create_dir(env.path(dir)).expect("a directory");
                env.give(&env.path(dir));
            }
            let settings = store.join("settings.json");
            fs::write(&settings, "{\"format\": 1, \"inline_limit\": \"unlimited\"}")
                .expect("settings");
            env.give(&settings);
        }
        env
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A path under the home directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home().join(name)
    }

    /// The store, where wasmfs puts it by itself.
    pub fn store(&self) -> PathBuf {
        self.path(".local/share/wasmfs")
    }

    /// Where the store has the object file of a payload.
    pub fn object(&self, sha256: &str) -> PathBuf {
        self.store().join("objects").join(&sha256[..2]).join(sha256)
    }

    /// The mount point, where wasmfs puts it by itself.
    pub fn mount_point(&self) -> PathBuf {
        self.path(".cache/wasm-modules")
    }

    /// A path in the mount.
    pub fn mounted(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount_point().join(name)
    }

    /// Makes a file that the user owns.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file");
        self.give(&path);
        path
    }

    /// Makes a directory that the user owns.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a directory");
        self.give(&path);
        path
    }

    fn give(&self, path: &Path) {
        if self.user == User::Ordinary {
            let (uid, gid) = ordinary_user();
            chown(path, Some(uid), Some(gid)).expect("chown");
        }
    }

    /// A command as the calling thread's user, with nothing of the caller's
    /// environment but `PATH`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.home()).stdin(Stdio::null()).current_dir(self.home());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// A program that cargo built, where the user can reach it.
    pub fn binary(&self, name: &str) -> PathBuf {
        let built = binary(name);
        if self.user == User::Root {
            return built;
        }
        let copy = self.path(format!(".{name}"));
        if !copy.exists() {
            fs::copy(built, &copy).expect("a copy");
        }
        copy
    }

    /// A `wasmfs` command.
    pub fn wasmfs(&self) -> Command {
        self.command(self.binary("wasmfs"))
    }

    /// A `wasmfs` command of a build with faults, of which `fault` is to happen: see
    /// `fs/src/fault.rs`.
    pub fn faulty(&self, fault: &str) -> Command {
        let mut command = self.command(self.binary(FAULTY));
        command.env("WASMFS_FAULT", fault);
        command
    }

    /// Runs `wasmfs ARGS`, which must succeed, and returns what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        succeed(self.wasmfs().args(args))
    }

    /// Runs `wasmfs ARGS --json`, which must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = succeed(self.wasmfs().args(args).arg("--json"));
        serde_json::from_str(&text).expect("JSON")
    }

    /// Runs `wasmfs ARGS`, which must fail with `status`, and returns its standard error.
    pub fn fail(&self, status: i32, args: &[&str]) -> String {
        let output = output(self.wasmfs().args(args));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "wasmfs {args:?}: {stderr}");
        stderr
    }

    /// Mounts, in the background.
    pub fn mount(&self) {
        self.run(&["mount"]);
        self.guard.watch(&self.mount_point());
    }

    /// Unmounts; the server is gone when the command returns.
    pub fn unmount(&self) {
        // A process that another test's thread has forked, and that has not executed its program
        // yet, has this test's files open for a moment.
        let busy = |output: &Output| {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            stderr.contains("is busy") && stderr.contains("none that you may look into")
        };
        let mut attempts = 0..10;
        while attempts.next().is_some() && {
            let unmounted = output(self.wasmfs().arg("unmount"));
            let stderr = String::from_utf8_lossy(&unmounted.stderr);
            assert!(unmounted.status.success() || busy(&unmounted), "unmount: {stderr}");
            !unmounted.status.success()
        } {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let state = fs::read_to_string(self.store().join("state.json")).expect("the state");
        assert!(state.contains("\"closed\": true"), "the worker left {state}");
    }

    /// Publishes a file under a key, and returns what wasmfs said of it.
    pub fn publish(&self, file: &Path, key: &str, more: &[&str]) -> Value {
        let file = file.to_str().expect("UTF-8");
        let args = [&["publish", file, "--key", key][..], more].concat();
        self.json(&args)[0].clone()
    }

    /// The process that serves the mount.
    pub fn worker_pid(&self) -> u32 {
        self.json(&["status"])["worker"]["pid"].as_u64().expect("a worker") as u32
    }

    /// The process that owns the mount.
    pub fn keeper_pid(&self) -> u32 {
        self.json(&["status"])["keeper"]["pid"].as_u64().expect("a keeper") as u32
    }

    /// Sends a signal to a process of this environment.
    pub fn signal(&self, pid: u32, signal: &str) {
        succeed(std::process::Command::new("kill").args([signal, &pid.to_string()]));
    }

    /// Has the guard look after a mount that a test made itself.
    pub fn watch(&self, mount_point: &Path) {
        self.guard.watch(mount_point);
    }
}

/// A program that cargo built, beside this program or test: for cargo doesn't know that a test
/// runs it, none that is older than what it is built from.
pub fn binary(name: &str) -> PathBuf {
    static NEWEST_SOURCE: LazyLock<SystemTime> = LazyLock::new(newest_source);
    if name == "wasmfs"
        && let Some(other) = std::env::var_os("WASMFS_TEST_PROGRAM")
    {
        return other.into();
    }
    let path = built(name);
    let modified = fs::metadata(&path).and_then(|found| found.modified());
    let Ok(modified) = modified else {
        panic!("{} is missing: `make build` builds it", path.display());
    };
    let is_fresh = !name.starts_with("wasmfs") || modified >= *NEWEST_SOURCE;
    assert!(is_fresh, "{} is older than its sources: `make build` builds it", path.display());
    path
}

/// When a source of `wasmfs` was last changed.
fn newest_source() -> SystemTime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = ["store/src", "fs/src", "cli/src"].map(|directory| root.join(directory));
    let files = sources.iter().flat_map(WalkDir::new).map(|entry| entry.expect("a source"));
    let files = files.filter(|entry| entry.file_type().is_file());
    let modified = files.map(|file| file.metadata().expect("a source").modified().ok());
    modified.flatten().max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the program's path");
    let dir = own.parent().expect("target/PROFILE, or deps in it");
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    dir.join(name)
}

/// Checks that the part of a document between the lines `<!-- generated -->` and
/// `<!-- end of generated -->` is `text`; with WASMFS_UPDATE, which `make snapshots` sets, makes it so.
pub fn check_generated(document: &str, text: &str) {
    const START: &str = "<!-- generated: `make snapshots` writes it anew -->\n";
    const END: &str = "<!-- end of what is generated -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let whole = fs::read_to_string(&path).expect("the document");
    let (before, rest) = whole.split_once(START).expect("the start of what is generated");
    let (written, after) = rest.split_once(END).expect("the end of what is generated");
    if std::env::var_os("WASMFS_UPDATE").is_some() {
        fs::write(&path, [before, START, text, END, after].concat()).expect("the document");
    } else {
        assert!(written == text, "{document} is not as it was generated: `make snapshots` does it");
    }
}

/// The program of the release before, which `tests/previous.sh` built; `None`, and said, only
/// where that found no history to build it from.
pub fn previous() -> Option<PathBuf> {
    if let Ok(reason) = fs::read_to_string(built("../previous/absent")) {
        eprintln!("NOT TESTED against the release before: {reason}");
        return None;
    }
    let path = built("../previous/wasmfs");
    assert!(path.exists(), "{} is missing: tests/previous.sh builds it", path.display());
    Some(path)
}

/// Copies a program that is to be run. `cp` does it: were it written here, a process that another
/// thread starts meanwhile would have it open for writing, and nobody could run it (ETXTBSY).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    succeed(Command::new("cp").arg(from.as_ref()).arg(to.as_ref()));
}

/// A real host, which `tests/setup.sh` installed.
pub fn real_host(name: &str) -> PathBuf {
    let dir = std::env::var_os("WASMFS_TEST_HOSTS").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| "/var/tmp/wasmfs-hosts-0".into());
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: tests/setup.sh installs it", path.display());
    path
}

pub fn ordinary_user() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = passwd.lines().find(|line| line.starts_with("wasmfs-test:"));
    let mut fields =
        line.expect("the user wasmfs-test: tests/setup.sh makes it").split(':').skip(2);
    let mut number = || fields.next().and_then(|n| n.parse().ok()).expect("a number");
    (number(), number())
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs a command, which must succeed, and returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Inode number and size.
pub fn identity(path: &Path) -> (u64, u64) {
    let metadata = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (metadata.ino(), metadata.len())
}

/// The names in a directory, in the order it gives them.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}
