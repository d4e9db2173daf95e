//! What another user can do to commands that are pointed at paths of his: nothing. SECURITY.md says
//! what is promised. With WASMFS_TEST_PROGRAM these run another build of `wasmfs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archives;
mod foreign_directory;
mod foreign_server;
mod keeper_socket;
mod mount_points;
mod names;
mod owners;
mod swapper;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;
use wasmfs_tests::module::wat;
use wasmfs_tests::{Environment, Inline, User, become_ordinary, ordinary_user};

/// Root's environment, and a directory in it that belongs to the attacker, an ordinary user.
fn with_attacker(test: impl Fn(&Environment, &Path)) {
    let env = Environment::new(User::Root, Inline::Default);
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o711)).unwrap();
    let arena = env.path("arena");
    fs::create_dir(&arena).unwrap();
    give(&arena);
    test(&env, &arena);
}

/// Makes something the attacker's.
fn give(path: &Path) {
    let (uid, gid) = ordinary_user();
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
}

/// Does something as the attacker.
fn as_attacker<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            become_ordinary();
            work()
        });
        worker.join().unwrap()
    })
}

/// A directory of root's that nobody else may look into.
fn private(env: &Environment, name: &str) -> PathBuf {
    let dir = env.path(name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// A module of root's, as text, of its own for each number.
fn module(env: &Environment, number: u32) -> PathBuf {
    env.file(&format!("m{number}.wat"), wat(number))
}

/// Everything in a directory: names, types, owners, modes, sizes, contents and where links lead.
fn snapshot(dir: &Path) -> Vec<String> {
    let look = |entry: walkdir::DirEntry| {
        let m = entry.path().symlink_metadata().unwrap();
        let content = match (m.is_file(), m.is_symlink()) {
            (true, _) => format!("{:?}", fs::read(entry.path()).unwrap()),
            (_, true) => format!("{:?}", fs::read_link(entry.path()).unwrap()),
            _ => String::new(),
        };
        let name = entry.path().strip_prefix(dir).unwrap().display().to_string();
        format!("{name} {:o} {} {content}", m.mode(), m.uid())
    };
    let entries = WalkDir::new(dir).sort_by_file_name().into_iter();
    entries.map(|entry| look(entry.unwrap())).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Makes a file that the attacker owns.
fn attackers_file(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
    let (uid, gid) = ordinary_user();
    chown(path, Some(uid), Some(gid)).unwrap();
}
