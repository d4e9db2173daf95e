//! Servers that are not the store's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use wasmfs_tests::guard::connection_at;

use crate::{as_attacker, give, module, private, snapshot, text, with_attacker};

/// A server that answers every `GET /v1/status` with the same, and counts what it hears.
struct Forged {
    heard: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    path: PathBuf,
}

impl Forged {
    /// Listens as whoever the calling thread is.
    fn listen(path: &Path, status: &str) -> Forged {
        let listener = UnixListener::bind(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        let (heard, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let forged = Forged { heard: heard.clone(), stop: stop.clone(), path: path.to_owned() };
        let status = status.to_owned();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (heard, status) = (heard.clone(), status.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                        heard.fetch_add(line.len(), Ordering::SeqCst);
                        if line == "\r\n" {
                            let _ = write!(
                                &stream,
                                "HTTP/1.1 200 OK\r\nwasmfs-protocol: 5\r\ncontent-length: \
                                 {}\r\n\r\n{status}",
                                status.len()
                            );
                        }
                        line.clear();
                    }
                });
            }
        });
        forged
    }

    fn heard(&self) -> usize {
        std::thread::sleep(Duration::from_millis(20));
        self.heard.load(Ordering::SeqCst)
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = std::os::unix::net::UnixStream::connect(&self.path);
    }
}

fn status(mount_point: &Path, connection: u32) -> String {
    serde_json::json!({
        "store": "/x",
        "mounts": [{
            "mount_point": mount_point, "attached": true, "allow_other": true,
            "connection": connection
        }],
        "keeper": null,
        "worker": {
            "pid": 1, "version": "0", "since": "", "replacements": 0, "last_pause_ms": null,
            "resident_bytes": 0
        },
        "log": null
    })
    .to_string()
}

#[test]
fn nothing_is_sent_to_another_users_server() {
    with_attacker(|env, arena| {
        let secret = module(env, 1);
        // In the attacker's own store, and in one of root's that he could write into before.
        let own = arena.join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("settings.json"), "{\"wasmfs\":\"store\",\"format\":2}").unwrap();
        let open = arena.join("open");
        env.run(&["--store", text(&open), "publish", text(&secret), "--key", "old"]);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        // The same, by a link to where he listens.
        let linked = arena.join("linked");
        env.run(&["--store", text(&linked), "publish", text(&secret), "--key", "old"]);
        symlink(arena.join("elsewhere.sock"), linked.join("control.sock")).unwrap();
        [&own, &own.join("settings.json")].into_iter().for_each(|path| give(path));

        let forged = as_attacker(|| {
            [own.join("control.sock"), open.join("control.sock"), arena.join("elsewhere.sock")]
                .map(|path| Forged::listen(&path, &status(&env.mount_point(), 1)))
        });
        let archive = env.path("archive.tar");
        for store in [&own, &open, &linked] {
            fs::set_permissions(store, fs::Permissions::from_mode(0o777)).unwrap();
            for args in [
                &["publish", text(&secret), "--key", "new"][..],
                &["ls"],
                &["status"],
                &["export", text(&archive)],
                &["rm", "old"],
                &["gc"],
                &["reload"],
                &["link", text(&env.path("links"))],
            ] {
                env.fail(1, &[&["--store", text(store)], args].concat());
            }
        }
        for forged in forged {
            assert_eq!(forged.heard(), 0);
        }
        assert!(!archive.exists() && !env.path("links").exists());
    });
}

#[test]
fn a_forged_status_unmounts_nothing() {
    with_attacker(|env, arena| {
        env.mount();
        let own = arena.join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("settings.json"), "{\"wasmfs\":\"store\",\"format\":2}").unwrap();
        [&own, &own.join("settings.json")].into_iter().for_each(|path| give(path));
        let connection = connection_at(&env.mount_point()).unwrap();
        let status = status(&env.mount_point(), connection);
        let _forged = as_attacker(|| Forged::listen(&own.join("control.sock"), &status));
        env.fail(1, &["--store", text(&own), "unmount"]);
        assert_eq!(connection_at(&env.mount_point()), Some(connection));
        env.unmount();
    });
}

/// What root's own process says of a path is no proof either.
#[test]
fn what_is_in_the_mount_the_kernel_says() {
    with_attacker(|env, arena| {
        let store = private(env, "store");
        fs::write(store.join("settings.json"), "{\"wasmfs\":\"store\",\"format\":2}").unwrap();
        let fake = arena.join("fake");
        fs::create_dir(&fake).unwrap();
        give(&fake);
        let forged = Forged::listen(&store.join("control.sock"), &status(&fake, 999));
        let cache = private(env, "cache");
        fs::write(cache.join("x.cwasm"), "root's").unwrap();
        let before = snapshot(&cache);
        env.fail(1, &["--store", text(&store), "import", text(&cache), "--link"]);
        assert_eq!(snapshot(&cache), before);
        // Another store's mount is not this one's, whatever its server says.
        env.mount();
        drop(forged);
        fs::remove_file(store.join("control.sock")).unwrap();
        let forged = Forged::listen(&store.join("control.sock"), &status(&env.mount_point(), 999));
        env.fail(1, &["--store", text(&store), "unmount"]);
        assert!(connection_at(&env.mount_point()).is_some());
        drop(forged);
        env.unmount();
    });
}

/// `settings.json` is a file of the store's, wherever a link of that name leads.
#[test]
fn an_export_has_no_file_but_the_stores_own() {
    with_attacker(|env, arena| {
        let secret = private(env, "secret").join("shadow");
        fs::write(&secret, "{\"wasmfs\":\"store\",\"format\":2,\"root\":\"$6$hash\"}").unwrap();
        let store = arena.join("store");
        env.run(&["--store", text(&store), "publish", text(&module(env, 1))]);
        for (own, name) in [(false, "root's"), (true, "the attacker's")] {
            let (settings, archive) = (store.join("settings.json"), env.path(name));
            fs::remove_file(&settings).unwrap();
            symlink(&secret, &settings).unwrap();
            if own {
                give(&store);
            }
            env.fail(1, &["--store", text(&store), "export", text(&archive)]);
            assert!(!archive.exists());
        }
    });
}

/// A command that is pointed at a socket which never answers is no place to hang at.
#[test]
fn the_socket_has_to_be_one() {
    with_attacker(|env, arena| {
        let store = arena.join("store");
        env.run(&["--store", text(&store), "publish", text(&module(env, 1)), "--key", "k"]);
        let socket = store.join("control.sock");
        fs::write(&socket, "").unwrap();
        let stderr = env.fail(1, &["--store", text(&store), "ls"]);
        assert!(stderr.contains("control.sock") && stderr.contains("hint:"), "{stderr}");
        fs::remove_file(&socket).unwrap();
        // One that a dead server left is none.
        drop(UnixListener::bind(&socket).unwrap());
        assert!(env.run(&["--store", text(&store), "ls"]).contains('k'));
    });
}
