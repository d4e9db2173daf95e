//! Promises of a read-only disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use wasmfs_tests::{Environment, Inline, User, in_all_environments, in_each_environment};
use wasmfs_tests::{as_root, output, succeed};

use crate::publish;

/// Every change that can be asked for by a path, and what came of it.
fn changes(env: &Environment) -> Vec<(&'static str, rustix::io::Result<()>)> {
    let (file, dir) = (&env.mounted("dir/key"), &env.mounted("dir"));
    let (new, other) = (&env.mounted("dir/new"), &env.mounted("dir/other"));
    let mode = Mode::RUSR;
    let open = |path: &Path, flags| rustix::fs::open(path, flags, mode).map(drop);
    let now = Timespec { tv_sec: 1, tv_nsec: 1 };
    let times = Timestamps { last_access: now, last_modification: now };
    let (uid, gid) = (Some(rustix::process::getuid()), Some(rustix::process::getgid()));
    vec![
        ("creat", open(new, OFlags::WRONLY | OFlags::CREATE)),
        ("O_TRUNC", open(file, OFlags::WRONLY | OFlags::TRUNC)),
        ("O_TMPFILE", open(dir, OFlags::WRONLY | OFlags::TMPFILE)),
        ("truncate", rustix_truncate(file)),
        ("mkdir", rustix::fs::mkdir(new, mode)),
        ("mknod", rustix::fs::mknodat(CWD, new, FileType::Fifo, mode, 0)),
        ("symlink", rustix::fs::symlink("x", new)),
        ("link", rustix::fs::link(file, new)),
        ("rename", rustix::fs::rename(file, new)),
        (
            "rename exchange",
            rustix::fs::renameat_with(CWD, file, CWD, other, RenameFlags::EXCHANGE),
        ),
        ("unlink", rustix::fs::unlink(file)),
        ("rmdir", rustix::fs::rmdir(dir)),
        ("chmod", rustix::fs::chmod(file, Mode::RWXU)),
        ("chown", rustix::fs::chown(file, uid, gid)),
        ("utimensat", rustix::fs::utimensat(CWD, file, &times, AtFlags::empty())),
        ("setxattr", rustix::fs::setxattr(file, "user.x", b"y", XattrFlags::empty())),
        ("removexattr", rustix::fs::removexattr(file, "user.wasmfs.key")),
        ("access(W_OK)", rustix::fs::access(file, rustix::fs::Access::WRITE_OK)),
    ]
}

fn rustix_truncate(path: &Path) -> rustix::io::Result<()> {
    // rustix has ftruncate only; truncate(2) is what `truncate -s` would need a descriptor for.
    let file = rustix::fs::open(path, OFlags::WRONLY, Mode::empty())?;
    rustix::fs::ftruncate(file, 0)
}

#[test]
fn every_change_is_erofs() {
    let prepare = |env: &Environment| {
        env.mount();
        publish(env, "dir/key", 1);
        publish(env, "dir/other", 2);
        fs::read(env.mounted("dir/key")).unwrap()
    };
    in_all_environments(|env| {
        let before = prepare(env);
        for (change, result) in changes(env) {
            assert_eq!(result, Err(Errno::ROFS), "{change}");
        }
        for open in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR | OFlags::APPEND] {
            let file = rustix::fs::open(env.mounted("dir/key"), open, Mode::empty());
            assert_eq!(file.map(drop), Err(Errno::ROFS));
        }
        assert!(fs::read(env.mounted("dir/key")).unwrap() == before);
        env.unmount();
    });
    // Root can remount; then the server refuses.
    as_root(|env| {
        let before = prepare(env);
        rustix::mount::mount_remount(env.mount_point(), rustix::mount::MountFlags::empty(), c"")
            .unwrap();
        for (change, result) in changes(env) {
            match change {
                // FUSE without FUSE_TMPFILE refuses it by itself.
                "O_TMPFILE" => assert_eq!(result, Err(Errno::OPNOTSUPP)),
                // root may, and `default_permissions` asks nobody.
                "access(W_OK)" => {}
                // The kernel refuses what a directory with entries would not survive.
                _ => assert_eq!(result, Err(Errno::ROFS), "{change}"),
            }
        }
        let mut file = OpenOptions::new().write(true).open(env.mounted("dir/other")).unwrap();
        assert_eq!(file.write_all(b"x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        drop(file);
        assert!(fs::read(env.mounted("dir/key")).unwrap() == before);
        env.unmount();
        env.mount();
        assert!(fs::read(env.mounted("dir/key")).unwrap() == before);
        env.unmount();
    });
}

#[test]
fn attributes_are_those_of_a_read_only_disk() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "dir/key", 1);
        let own = fs::metadata(env.home()).unwrap();
        for path in ["", "dir", ".wasmfs", ".wasmfs/versions/dir/key", ".wasmfs/engines"] {
            let m = fs::metadata(env.mounted(path)).unwrap();
            assert_eq!((m.mode(), m.nlink()), (0o040_555, 1), "{path}");
            assert_eq!((m.uid(), m.gid()), (own.uid(), own.gid()), "{path}");
        }
        for path in ["dir/key", "CACHEDIR.TAG"] {
            let m = fs::metadata(env.mounted(path)).unwrap();
            assert_eq!((m.mode(), m.nlink()), (0o100_444, 1), "{path}");
            assert_eq!(m.blocks(), m.len().div_ceil(512));
        }
        env.unmount();
    });
}

#[test]
fn df_shows_the_disk_of_the_store() {
    in_each_environment(|env| {
        env.mount();
        let size = |path: &Path| {
            let stat = rustix::fs::statvfs(path).unwrap();
            (stat.f_blocks * stat.f_frsize) >> 20
        };
        assert_ne!(size(&env.mount_point()), 0);
        assert_eq!(size(&env.mount_point()), size(&env.store()));
        let df = succeed(env.command("df").arg(env.mount_point()));
        // What is mounted is the store.
        let store = env.store().display().to_string();
        assert!(df.lines().nth(1).unwrap().starts_with(&format!("{store} ")), "{df}");
        env.unmount();
    });
}

#[test]
fn extended_attributes_tell_what_a_file_is() {
    in_each_environment(|env| {
        env.mount();
        let published = publish(env, "dir/key", 1);
        let text = |value: &serde_json::Value| value.to_string().trim_matches('"').to_owned();
        let file = env.mounted("dir/key");
        for name in ["key", "version", "sha256", "engine", "wasmtime", "published"] {
            let mut buf = [0; 256];
            let n =
                rustix::fs::getxattr(&file, format!("user.wasmfs.{name}"), &mut buf[..]).unwrap();
            assert_eq!(String::from_utf8_lossy(&buf[..n]), text(&published[name]), "{name}");
        }
        let mut tiny = [0; 3];
        let short = rustix::fs::getxattr(&file, "user.wasmfs.sha256", &mut tiny[..]);
        assert_eq!(short, Err(Errno::RANGE));
        for (path, name) in [(&file, "user.other"), (&env.mounted("dir"), "user.wasmfs.key")] {
            let mut buf = [0; 256];
            assert_eq!(rustix::fs::getxattr(path, name, &mut buf[..]), Err(Errno::NODATA));
        }
        let listed = succeed(env.command("getfattr").arg("--absolute-names").arg("-d").arg(&file));
        assert_eq!(listed.matches("user.wasmfs.").count(), 6, "{listed}");
        env.unmount();
    });
}

#[test]
fn ordinary_tools_work() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "a/b/one", 1);
        publish(env, "a/two", 2);
        let bytes = fs::read(env.mounted("a/two")).unwrap();
        let mount = env.mount_point();
        let copy = env.path("copy");
        succeed(env.command("cp").arg("--reflink=auto").arg(env.mounted("a/two")).arg(&copy));
        assert!(fs::read(&copy).unwrap() == bytes);
        succeed(env.command("cp").arg("-a").arg(&mount).arg(env.path("tree")));
        assert!(fs::read(env.path("tree/a/two")).unwrap() == bytes);

        let found = succeed(env.command("find").arg(&mount).args(["-type", "f"]));
        let mut found: Vec<&str> = found.lines().collect();
        found.sort();
        let expected = ["a/b/one", "a/two"].map(|name| env.mounted(name).display().to_string());
        assert_eq!(found, expected);
        let dirs = succeed(env.command("find").arg(&mount).args(["-type", "d"]));
        assert_eq!(dirs.lines().count(), 3);

        let du = succeed(env.command("du").args(["-sb", "--apparent-size"]).arg(&mount));
        let total: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(
            total,
            ["a/b/one", "a/two"]
                .map(|n| env.mounted(n).metadata().unwrap().len())
                .iter()
                .sum::<u64>()
        );

        let archive = env.path("all.tar");
        succeed(env.command("tar").arg("-cf").arg(&archive).arg("-C").arg(&mount).arg("."));
        let list = succeed(env.command("tar").arg("-tf").arg(&archive));
        assert!(list.contains("./a/b/one") && list.contains("./a/two"), "{list}");
        succeed(env.command("tar").arg("-df").arg(&archive).arg("-C").arg(&mount));

        let rm = output(env.command("rm").arg("-rf").arg(env.mounted("a")));
        assert!(!rm.status.success());
        assert!(String::from_utf8_lossy(&rm.stderr).contains("Read-only file system"));
        assert!(fs::read(env.mounted("a/two")).unwrap() == bytes);
        assert!(File::open(env.mounted("a/b/one")).is_ok());
        env.unmount();
    });
}

#[test]
fn other_users_are_kept_out() {
    for user in [User::Root, User::Ordinary] {
        let env = Environment::new(user, Inline::Default);
        // The way to the mount is open to all; the mount itself isn't.
        rustix::fs::chmod(env.home(), Mode::from_raw_mode(0o755)).unwrap();
        let as_user = |args: &[&str]| {
            let mut command = env.wasmfs();
            if user == User::Ordinary {
                let uid = fs::metadata(env.home()).unwrap().uid();
                command = std::process::Command::new("setpriv");
                command.args([
                    &format!("--reuid={uid}"),
                    &format!("--regid={uid}"),
                    "--clear-groups",
                ]);
                command.arg("--").arg(env.binary("wasmfs")).env("HOME", env.home());
            }
            output(command.args(args).env("XDG_CACHE_HOME", env.path("open")))
        };
        let source = env.file("m.wat", "(module)");
        let published = as_user(&["publish", source.to_str().unwrap(), "--key", "key"]);
        assert!(published.status.success(), "{published:?}");
        let mount = env.path("mount");
        let mount = mount.to_str().unwrap();
        assert!(as_user(&["mount", mount]).status.success());
        env.watch(Path::new(mount));
        rustix::fs::chmod(env.home(), Mode::from_raw_mode(0o755)).unwrap();
        let inside = |name: &str| Path::new(mount).join(name);
        let look = || {
            let mut command = std::process::Command::new("cat");
            if user == User::Root {
                command = std::process::Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "cat"]);
            }
            output(command.arg(inside("key"))).status.success()
        };
        assert!(!look());
        assert!(as_user(&["unmount", mount]).status.success());
        let allowed = as_user(&["mount", mount, "--allow-other"]);
        let may = user == User::Root
            || fs::read_to_string("/etc/fuse.conf")
                .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"));
        if may {
            assert!(allowed.status.success(), "{allowed:?}");
            env.watch(Path::new(mount));
            assert!(look());
            assert!(as_user(&["unmount", mount]).status.success());
        } else {
            let stderr = String::from_utf8_lossy(&allowed.stderr);
            assert!(
                stderr.contains("/etc/fuse.conf") && stderr.contains("user_allow_other"),
                "{stderr}"
            );
        }
    }
}
