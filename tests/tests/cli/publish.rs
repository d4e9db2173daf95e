//! `wasmfs publish`.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::{Value, json};
use wasmfs_tests::module::wat;
use wasmfs_tests::{
    Environment, Inline, User, as_root, identity, in_each_environment, names, output, succeed,
};

use crate::{COMPONENT, MODULE, path};

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
            (
                path(&text),
                "this is neither a wasmtime artifact nor WebAssembly",
                "the content counts",
            ),
            (path(&elf), "this is an ELF file of another kind", "that wasmtime compiled"),
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
fn a_file_that_cannot_be_read_to_its_end_leaves_the_rest_of_the_batch() {
    as_root(|env| {
        // A damaged artifact in another mount: its first block can be read, the fourth can't.
        let other = Environment::new(User::Root, Inline::Default);
        let big = other.file("big.wat", wat(1));
        let published = other.publish(&big, "big.cwasm", &[]);
        let sha256 = published["sha256"].as_str().unwrap();
        let object = other.object(sha256);
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
