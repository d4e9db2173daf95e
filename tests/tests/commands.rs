//! The commands: what they print, how they fail, and that it makes no
//! difference whether a server has the store.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmfs_tests::guard::connection_at;
use wasmfs_tests::module::wat;
use wasmfs_tests::{Environment, Inline, User, identity, in_each_environment, in_environment};
use wasmfs_tests::{as_root, names, output, succeed};

const MODULE: &str = "(module (func (export \"answer\") (result i32) i32.const 42))";
const COMPONENT: &str = "(component (core module (func (export \"f\"))))";

fn path(file: &std::path::Path) -> &str {
    file.to_str().unwrap()
}

#[test]
fn files_are_published_under_their_names() {
    in_each_environment(|env| {
        let module = env.file("tool.wat", MODULE);
        let component = env.file("part.wat", COMPONENT);
        let published = env.json(&["publish", path(&module), path(&component), "--prefix", "a/b"]);
        let of = |n: usize, field: &str| published[n][field].clone();
        assert_eq!((of(0, "key"), of(0, "kind")), (json!("a/b/tool.cwasm"), json!("module")));
        assert_eq!((of(1, "key"), of(1, "kind")), (json!("a/b/part.cwasm"), json!("component")));
        assert_eq!((of(0, "status"), of(0, "version")), (json!("published"), json!(1)));
        assert_eq!((of(0, "wasmtime"), of(0, "compiler")), (json!("48"), json!("cranelift")));
        assert_eq!(of(0, "served_by_plain_name"), json!(true));
        assert!(of(0, "engine").as_str().unwrap().starts_with("wasmtime-48-x86_64-"));

        // For other machines.
        for (target, pulley) in [("aarch64-unknown-linux-gnu", false), ("pulley64", true)] {
            let other =
                env.json(&["publish", path(&module), "--target", target, "--prefix", target]);
            assert!(other[0]["target"].as_str().unwrap().starts_with(target), "{other}");
            assert_eq!(other[0]["pulley"], json!(pulley));
        }
        // The artifact itself, as it is, from standard input.
        env.mount();
        let artifact = fs::read(env.mounted("a/b/tool.cwasm")).unwrap();
        let mut stdin = env.wasmfs();
        stdin.args(["publish", "-", "--key", "in.cwasm", "--json"]).stdin(Stdio::piped());
        let mut child = stdin.stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&artifact).unwrap();
        let answer: Value =
            serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(answer[0]["sha256"], of(0, "sha256"));
        assert!(fs::read(env.mounted("in.cwasm")).unwrap() == artifact);
        // From a pipe that has a name.
        let pipe = format!(
            "cat a.bin | {} publish /dev/stdin --key pipe.cwasm",
            env.binary("wasmfs").display()
        );
        env.file("a.bin", &artifact);
        succeed(env.command("sh").args(["-c", &pipe]));
        assert!(fs::read(env.mounted("pipe.cwasm")).unwrap() == artifact);
        let text = env.run(&["publish", path(&module), "--prefix", "a/b"]);
        assert!(
            text.contains("a/b/tool.cwasm@1") && text.trim_end().ends_with("unchanged"),
            "{text}"
        );
        env.unmount();
    });
}

#[test]
fn what_cannot_be_published_is_said_and_the_rest_goes_in() {
    in_each_environment(|env| {
        let good = env.file("good.wat", MODULE);
        let broken = env.file("broken.wat", "(module (func (result i32) i64.const 1))");
        let text = env.file("notes.txt", "dear diary");
        let elf = env.file("elf", fs::read("/bin/true").unwrap());
        let missing = env.path("missing.wasm");
        let home = path(env.home()).to_owned();
        let each = [
            (path(&broken), "it can't be compiled", "type mismatch"),
            (path(&text), "this is not a wasmtime artifact", ".cwasm, .wasm or .wat"),
            (path(&elf), "this is an ELF file of another kind", "wasmtime compile"),
            (path(&missing), "No such file or directory", "hint: check the path"),
            (&home, "it is a directory", "hint: name the files in it"),
        ];
        for mounted in [false, true] {
            if mounted {
                env.mount();
            }
            for (file, what, more) in each {
                let stderr = env.fail(1, &["publish", file]);
                assert!(
                    stderr.contains(file) && stderr.contains(what) && stderr.contains(more),
                    "{stderr}"
                );
            }
            let key = format!("good-{mounted}");
            let stderr = env.fail(2, &["publish", path(&text), path(&good), "--prefix", &key]);
            assert!(stderr.contains("notes.txt"), "{stderr}");
            assert_eq!(env.json(&["ls", &key])[0]["key"], format!("{key}/good.cwasm"));
        }
        // A command line that makes no sense publishes nothing.
        let other = env.dir("other");
        let same_name = env.file("other/good.wasm", "");
        assert!(other.exists());
        let stderr = env.fail(2, &["publish", path(&good), path(&same_name)]);
        assert!(stderr.contains("would both get the key good.cwasm"), "{stderr}");
        assert!(
            env.fail(2, &["publish", path(&good), path(&text), "--key", "x"]).contains("--prefix")
        );
        assert!(env.fail(2, &["publish", "-"]).contains("--key"));
        assert!(env.fail(2, &["publish"]).contains("FILE"));
        for key in ["/abs", "a//b", "../up", "a/", ".wasmfs/x", ""] {
            let stderr = env.fail(2, &["publish", path(&good), "--key", key]);
            assert!(stderr.contains("can't be a key"), "{stderr}");
        }
        let artifact = env.mounted("good-true/good.cwasm");
        let stderr = env.fail(1, &["publish", path(&artifact), "--compiler", "winch"]);
        assert!(stderr.contains("compiled already"), "{stderr}");
        let stderr = env.fail(1, &["publish", path(&good), "--target", "nonsense"]);
        assert!(stderr.contains("nonsense") || stderr.contains("target"), "{stderr}");
        let stderr = env.fail(1, &["publish", path(&good), "--key", "good-true/good.cwasm/below"]);
        assert!(stderr.contains("a key can't also be a directory"), "{stderr}");
        assert_eq!(env.json(&["ls"]).as_array().unwrap().len(), 2);
        assert!(names(&env.store().join("incoming")).is_empty());
        env.unmount();
    });
}

#[test]
fn a_server_makes_no_difference_to_what_commands_say() {
    in_each_environment(|env| {
        let file = env.file("m.wat", MODULE);
        env.run(&["publish", path(&file), "--key", "dir/key@home"]);
        env.run(&["publish", path(&file), "--key", "dir/key@home", "--compiler", "winch"]);
        env.run(&["publish", path(&file), "--key", "other"]);
        env.run(&["rm", "other"]);
        let asked: &[&[&str]] = &[
            &["ls"],
            &["ls", "dir/"],
            &["ls", "none"],
            &["log"],
            &["log", "other"],
            &["show", "dir/key@home"],
            &["show", "dir/key@home@2"],
        ];
        let ask = || -> Vec<(String, Value)> {
            asked.iter().map(|args| (env.run(args), env.json(args))).collect()
        };
        let direct = ask();
        env.mount();
        assert_eq!(ask(), direct);
        for args in [
            &["show", "none"][..],
            &["show", "other"],
            &["show", "dir/key@home@9"],
            &["log", "none"],
            &["rm", "none"],
            &["rm", "other@1"],
            &["rollback", "none"],
        ] {
            let stderr = env.fail(1, args);
            assert!(stderr.contains("hint: "), "{stderr}");
        }
        // Changes made through the server are there without it.
        env.run(&["rollback", "other", "1"]);
        let through_server = ask();
        env.unmount();
        assert_eq!(ask(), through_server);
        assert_eq!(env.json(&["show", "other"])["rollback_of"], 1);
        assert_eq!(env.json(&["status"])["mounted"], false);
    });
}

#[test]
fn mounting_is_refused_where_it_would_hide_something() {
    in_each_environment(|env| {
        let full = env.dir("full");
        env.file("full/thesis.tex", "x");
        let stderr = env.fail(1, &["mount", path(&full)]);
        assert!(stderr.contains("thesis.tex") && stderr.contains("hint: "), "{stderr}");
        let file = env.file("file", "x");
        assert!(env.fail(1, &["mount", path(&file)]).contains("not a directory"));
        assert!(env.fail(1, &["unmount"]).contains("not a mount of wasmfs"));
        env.mount();
        // Made for the user alone.
        env.unmount();
        let mode = fs::metadata(env.mount_point()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        env.mount();
        let again = env.fail(1, &["mount"]);
        assert!(again.contains("is a mount of wasmfs already"), "{again}");
        let elsewhere = env.fail(1, &["mount", path(&env.path("elsewhere"))]);
        let own = path(&env.mount_point()).to_owned();
        assert!(elsewhere.contains(&format!("mounted at {own} already")), "{elsewhere}");
        assert!(elsewhere.contains(&format!("`wasmfs unmount {own}` first")), "{elsewhere}");
        let status = env.json(&["status"]);
        assert_eq!(
            (&status["mounted"], &status["mounts"][0]["attached"], &status["unguarded"]),
            (&json!(true), &json!(true), &json!(false))
        );
        let log = fs::read_to_string(status["log"].as_str().unwrap()).unwrap();
        assert!(log.contains("mounted at"), "{log}");
        assert!(status["worker"]["resident_bytes"].as_u64().unwrap() > 1 << 20);
        for process in ["keeper", "worker"] {
            let status = &status[process];
            assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
            assert!(status["since"].as_str().unwrap().ends_with('Z'));
            let command = fs::read(format!("/proc/{}/cmdline", status["pid"])).unwrap();
            assert!(command.starts_with(format!("wasmfs\0{process}\0").as_bytes()));
        }
        assert_eq!(status["worker"]["replacements"], 0);
        env.unmount();
    });
}

#[test]
fn a_dead_mount_is_cleared() {
    in_each_environment(|env| {
        env.mount();
        let file = env.file("m.wat", MODULE);
        let published = env.publish(&file, "key", &[]);
        let inode = published["inode"].as_u64().unwrap();
        assert_eq!(identity(&env.mounted("key")).0, inode);
        // The keeper first: it would start another worker.
        let pids = [env.keeper_pid(), env.worker_pid()];
        pids.iter().for_each(|pid| env.signal(*pid, "-KILL"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_dir(env.mount_point()).is_ok() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        let dead = fs::read_dir(env.mount_point()).map(drop).unwrap_err();
        assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
        // Commands go on without the server, and `mount` clears up, also with a slash at the end.
        assert_eq!(env.json(&["show", "key"])["inode"], inode);
        env.run(&["mount", &format!("{}/", env.mount_point().display())]);
        env.watch(&env.mount_point());
        assert_eq!(identity(&env.mounted("key")).0, inode);
        env.unmount();
    });
}

#[test]
fn a_command_waits_for_another_and_says_who_has_the_store() {
    in_each_environment(|env| {
        let file = env.file("m.wat", MODULE);
        env.run(&["publish", path(&file)]);
        let lock = env.store().join("lock");
        let hold = |seconds: &str| {
            let mut flock = env.command("flock");
            flock.arg(&lock).args(["sh", "-c", &format!("echo locked; exec sleep {seconds}")]);
            let mut child = flock.stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 7]).unwrap();
            child
        };
        let mut short = hold("1");
        env.run(&["ls"]);
        short.wait().unwrap();
        let mut long = hold("60");
        let start = Instant::now();
        let stderr = env.fail(1, &["ls"]);
        assert!(stderr.contains("is in use by process"), "{stderr}");
        assert!(start.elapsed() < Duration::from_secs(20));
        long.kill().unwrap();
        long.wait().unwrap();
    });
    // Ten commands at once: each gets its turn.
    in_environment(User::Ordinary, Inline::Default, &|env: &Environment| {
        let file = env.file("m.wat", MODULE);
        let start = |n: u32| {
            let mut command = env.wasmfs();
            command.args(["publish", path(&file), "--key", &format!("key-{n}")]);
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        let children: Vec<_> = (0..10).map(start).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(env.json(&["ls"]).as_array().unwrap().len(), 10);
    });
}

/// One HTTP request over the control socket, and the whole answer.
fn request(env: &Environment, text: &str) -> String {
    let mut socket = UnixStream::connect(env.store().join("control.sock")).unwrap();
    socket.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_control_socket_speaks_http_to_its_owner_only() {
    in_each_environment(|env| {
        env.mount();
        let file = env.file("m.wat", MODULE);
        env.publish(&file, "a key/ü&?", &[]);
        let socket = env.store().join("control.sock");
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let get = |path: &str| {
            request(env, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        };
        let answer = get("/v1/version?key=a+key%2F%C3%BC%26%3F");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("wasmfs-protocol: 4"),
            "{answer}"
        );
        assert!(get("/v1/version?key=none").starts_with("HTTP/1.1 400"));
        assert!(get("/v1/version?key=..").contains("has no component '.' or '..'"));
        assert!(get("/v1/version?key=x&version=y").contains("is not a number"));
        assert!(get("/nothing").contains("there is no GET /nothing"));
        let other =
            "GET /v1/status HTTP/1.1\r\nhost: x\r\nwasmfs-protocol: 9\r\nconnection: close\r\n\r\n";
        assert!(request(env, other).contains("speaks protocol 4"));
        let body = "{\"items\": [{\"key\": \"x\", \"upload\": 7}]}";
        let publish = format!(
            "POST /v1/publish HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(request(env, &publish).contains("there is no upload 7"));
        assert!(request(env, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));

        // An upload that stops in the middle leaves nothing.
        let mut broken = UnixStream::connect(&socket).unwrap();
        broken
            .write_all(b"POST /v1/uploads HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n")
            .unwrap();
        broken.write_all(&vec![7; 400_000]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while names(&env.store().join("incoming")).is_empty() {
            assert!(Instant::now() < deadline, "the upload doesn't arrive");
        }
        drop(broken);
        while !names(&env.store().join("incoming")).is_empty() {
            assert!(Instant::now() < deadline, "the upload stays");
        }
        env.unmount();
    });
}

#[test]
fn a_server_in_the_background_holds_nothing_of_who_started_it() {
    in_each_environment(|env| {
        let script = format!("exec 7>held; {} mount", env.binary("wasmfs").display());
        succeed(env.command("sh").args(["-c", &script]));
        env.watch(&env.mount_point());
        for pid in [env.keeper_pid(), env.worker_pid()] {
            let process = std::path::PathBuf::from(format!("/proc/{pid}"));
            assert_eq!(fs::read_link(process.join("cwd")).unwrap(), std::path::Path::new("/"));
            for entry in fs::read_dir(process.join("fd")).unwrap().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                assert!(!target.ends_with("held"));
                assert!(!target.to_string_lossy().contains("/dev/pts"));
            }
        }
        env.unmount();
    });
}

#[test]
fn a_mount_point_may_be_behind_links() {
    in_each_environment(|env| {
        env.dir("disk");
        env.dir("disk/real");
        std::os::unix::fs::symlink(env.path("disk/real"), env.path("link")).unwrap();
        std::os::unix::fs::symlink(env.path("disk"), env.path("above")).unwrap();
        for mount_point in
            [env.path("link"), env.path("above/new/deep"), env.path("disk/../disk/dots")]
        {
            env.run(&["mount", path(&mount_point)]);
            env.watch(&fs::canonicalize(&mount_point).unwrap());
            assert!(mount_point.join(".wasmfs").is_dir());
            assert!(env.fail(1, &["mount", path(&mount_point)]).contains("already"));
            env.run(&["unmount", path(&mount_point)]);
            assert!(!mount_point.join(".wasmfs").exists());
        }
    });
}

#[test]
fn a_key_may_look_like_a_version() {
    in_each_environment(|env| {
        let file = env.file("m.wat", MODULE);
        let other = env.file("n.wat", "(module)");
        for source in [&file, &other] {
            env.publish(source, "tool", &[]);
        }
        assert_eq!(env.json(&["show", "tool@1"])["key"], "tool");
        env.publish(&file, "tool@1", &[]);
        assert_eq!(env.json(&["show", "tool@1"])["key"], "tool@1");
        assert_eq!(env.json(&["show", "tool@1@1"])["key"], "tool@1");
        env.run(&["rm", "tool@1"]);
        assert_eq!(env.json(&["ls", "tool"])[0]["versions"], 2);
        assert!(env.fail(1, &["show", "tool@+2"]).contains("no key tool@+2"));
    });
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_leaves_the_rest_of_the_batch() {
    as_root(|env| {
        // A damaged artifact in another mount: its first block can be read, the fourth can't.
        let other = Environment::new(User::Root, Inline::Default);
        let big = other.file("big.wat", wat(1));
        let published = other.publish(&big, "big.cwasm", &[]);
        let sha256 = published["sha256"].as_str().unwrap();
        let object = other.store().join("objects").join(&sha256[..2]).join(sha256);
        let mut bytes = fs::read(&object).unwrap();
        bytes[400_000] ^= 1;
        fs::write(&object, bytes).unwrap();
        other.mount();
        let damaged = other.mounted("big.cwasm");
        let files = ["a.wat", "b.wat"].map(|name| env.file(name, MODULE));
        for mounted in [false, true] {
            if mounted {
                env.mount();
            }
            let key = format!("round-{mounted}");
            let args =
                ["publish", path(&files[0]), path(&damaged), path(&files[1]), "--prefix", &key];
            let stderr = env.fail(2, &args);
            assert!(
                stderr.contains("big.cwasm") && stderr.contains("Input/output error"),
                "{stderr}"
            );
            assert_eq!(env.json(&["ls", &key]).as_array().unwrap().len(), 2);
        }
        env.unmount();
        other.unmount();
    });
}

#[test]
fn a_batch_may_be_larger_than_a_process_may_open() {
    in_each_environment(|env| {
        env.dir("many");
        for n in 0..300 {
            env.file(
                &format!("many/{n}.wat"),
                format!("(module (func (result i32) i32.const {n}))"),
            );
        }
        for mounted in [false, true] {
            if mounted {
                env.mount();
            }
            let publish =
                format!("ulimit -n 64; {} publish many/*.wat", env.binary("wasmfs").display());
            let prefix = format!("{publish} --prefix round-{mounted} --json");
            let text = succeed(env.command("sh").args(["-c", &prefix]));
            let answers: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answers.as_array().unwrap().len(), 300);
            assert_eq!(
                env.json(&["ls", &format!("round-{mounted}/")]).as_array().unwrap().len(),
                300
            );
        }
        env.unmount();
    });
}

#[test]
fn links_follow_what_is_published() {
    in_each_environment(|env| {
        let files = ["m.wat", "n.wat"].map(|name| env.file(name, MODULE));
        env.publish(&files[0], "a/b", &[]);
        env.publish(&files[0], "c", &["--compiler", "winch"]);
        env.mount();
        let dir = env.path("links");
        let link = |more: &[&str]| env.json(&[&["link", path(&dir)], more].concat());
        assert_eq!(link(&[])["linked"], json!(["a/b", "c"]));
        assert_eq!(link(&[])["unchanged"], 2);
        assert!(fs::read(dir.join("a/b")).unwrap() == fs::read(env.mounted("a/b")).unwrap());
        // A new version needs no new link.
        env.publish(&env.file("o.wat", "(module)"), "a/b", &[]);
        assert!(fs::read(dir.join("a/b")).unwrap() == fs::read(env.mounted("a/b")).unwrap());
        // A directory that becomes a key, and a file of the host's own in the way of another.
        env.run(&["rm", "a/b"]);
        env.publish(&files[1], "a", &[]);
        fs::remove_file(dir.join("c")).unwrap();
        fs::write(dir.join("c"), "the host's own").unwrap();
        let report = link(&[]);
        assert_eq!((&report["linked"], &report["kept"]), (&json!(["a"]), &json!(["c"])));
        assert_eq!(fs::read_to_string(dir.join("c")).unwrap(), "the host's own");
        assert!(dir.join("a").is_file());
        // Only one engine's; an engine that nobody has is a mistake, and takes nothing away.
        let winch = env.json(&["show", "c"])["engine"].as_str().unwrap().to_owned();
        let stderr = env.fail(1, &["link", path(&dir), "--engine", "wasmtime-48"]);
        assert!(stderr.contains("`wasmfs engines` shows"), "{stderr}");
        assert_eq!(link(&["--engine", &winch])["removed"], json!(["a"]));
        env.unmount();
    });
}

#[test]
fn a_store_with_a_long_path_has_a_socket_too() {
    in_each_environment(|env| {
        let long = env.path("x".repeat(200));
        let (store, mount) = (long.join("store"), env.path("mount"));
        let run = |args: &[&str]| succeed(env.wasmfs().args(args).args(["--store", path(&store)]));
        run(&["mount", path(&mount)]);
        env.watch(&mount);
        let file = env.file("m.wat", MODULE);
        run(&["publish", path(&file)]);
        assert!(mount.join("m.cwasm").exists());
        run(&["unmount", path(&mount)]);
    });
}

#[test]
fn a_server_in_the_foreground_ends_with_its_mount() {
    in_each_environment(|env| {
        let mut server = env.wasmfs();
        server.args(["mount", "--foreground"]).stderr(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while connection_at(&env.mount_point()).is_none() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        env.watch(&env.mount_point());
        let file = env.file("m.wat", MODULE);
        assert_eq!(env.publish(&file, "key", &[])["visible"], true);
        assert_eq!(env.keeper_pid(), server.id());
        succeed(Command::new("kill").args(["-INT", &server.id().to_string()]));
        assert!(server.wait().unwrap().success());
        let mut log = String::new();
        server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains("serving on until the last user is gone"), "{log}");
        assert!(connection_at(&env.mount_point()).is_none());
    });
}

#[test]
fn a_publish_that_the_kernel_cannot_be_told_of_is_committed_and_said_to_be_late() {
    as_root(|env| {
        env.mount();
        let file = env.file("m.wat", MODULE);
        env.publish(&file, "dir/key", &[]);
        // Somebody lists the directory into memory that belongs to a file whose server is stopped:
        // the kernel holds the directory's lock meanwhile.
        let other = Environment::new(User::Root, Inline::Default);
        other.mount();
        let big = other.file("big.wat", wat(1));
        other.publish(&big, "buffer", &[]);
        let stopped = other.worker_pid().to_string();
        let script = "import ctypes, mmap, os, sys\n\
            f = open(sys.argv[1], 'rb')\n\
            m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)\n\
            buffer = (ctypes.c_char * 65536).from_buffer(m, 262144)\n\
            d = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)\n\
            print('ready', flush=True)\n\
            sys.stdin.readline()\n\
            print(ctypes.CDLL(None).syscall(217, d, buffer, 65536) > 0, flush=True)\n";
        let mut lister = env.command("python3");
        lister.args(["-c", script]).arg(other.mounted("buffer")).arg(env.mounted("dir"));
        let mut lister = lister.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        lister.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        succeed(Command::new("kill").args(["-STOP", &stopped]));
        lister.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        std::thread::sleep(Duration::from_millis(500));

        let changed = env.file("n.wat", "(module)");
        let start = Instant::now();
        let late =
            output(env.wasmfs().args(["publish", path(&changed), "--key", "dir/key", "--json"]));
        let elapsed = start.elapsed();
        succeed(Command::new("kill").args(["-CONT", &stopped]));
        let answer: Value = serde_json::from_slice(&late.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&late.stderr).into_owned();
        assert_eq!(
            (&answer[0]["visible"], late.status.code()),
            (&json!(false), Some(0)),
            "{stderr}"
        );
        assert!(stderr.contains("committed, but not visible in the mount yet"), "{stderr}");
        assert!(
            elapsed > Duration::from_millis(4900) && elapsed < Duration::from_secs(15),
            "{elapsed:?}"
        );
        // It is as soon as the lister was served.
        assert!(lister.wait_with_output().unwrap().status.success());
        let deadline = Instant::now() + Duration::from_secs(10);
        while identity(&env.mounted("dir/key")).0 != answer[0]["inode"].as_u64().unwrap() {
            assert!(Instant::now() < deadline);
        }
        other.unmount();
        env.unmount();
    });
}

#[test]
fn help_names_every_command() {
    let env = Environment::new(User::Root, Inline::Default);
    let help = env.run(&["--help"]);
    for command in [
        "mount", "unmount", "reload", "publish", "link", "ls", "log", "show", "rollback", "rm",
        "status",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        env.run(&[command, "--help"]);
    }
    assert!(!help.contains("\n  keeper ") && !help.contains("\n  worker "));
    assert!(env.run(&["--version"]).starts_with("wasmfs "));
    assert!(env.fail(1, &["ls"]).contains("there is no store at"));
}
