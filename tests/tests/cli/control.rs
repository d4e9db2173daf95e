//! The control socket: it makes no difference whether a server has the store.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use wasmfs_tests::{Environment, Inline, User, in_each_environment, in_environment, succeed};

use crate::{MODULE, path};

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
            answer.starts_with("HTTP/1.1 200") && answer.contains("wasmfs-protocol: 5"),
            "{answer}"
        );
        let none = get("/v1/version?key=none");
        assert!(none.starts_with("HTTP/1.1 400") && none.contains("\"code\":\"no-key\""), "{none}");
        assert!(get("/v1/version?key=..").contains("component of a key may be '.'"));
        assert!(get("/v1/version?key=x&version=y").contains("\"code\":\"malformed\""));
        assert!(get("/v1/keys?after=..").contains("\"code\":\"malformed\""));
        assert!(get("/nothing").contains("there is no request GET /nothing"));
        assert!(get("/v1/publish").contains("\"code\":\"unknown-request\""));
        let header = |path: &str, protocol: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close");
            request(env, &format!("{head}\r\nwasmfs-protocol: {protocol}\r\n\r\n"))
        };
        let other = header("/v1/keys", "4");
        assert!(other.contains("speaks protocol 5, this command 4"), "{other}");
        assert!(other.contains("wasmfs reload"), "{other}");
        assert!(request(env, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        let publish = |body: &str| {
            let head = "POST /v1/publish HTTP/1.1\r\nhost: x\r\nconnection: close";
            let length = body.len();
            request(env, &format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}"))
        };
        assert!(publish("{\"items\": [{\"key\": \"x\"}]}").contains("\"code\":\"malformed\""));
        assert!(publish("").contains("\"code\":\"malformed\""));
        assert!(publish("{\"items\": []}").starts_with("HTTP/1.1 200"));
        env.unmount();
    });
}

/// The list of requests that a server gives, as docs/control-api.md shows it.
fn table(list: &Value) -> String {
    let mut text = "| request | fields | answer |\n| --- | --- | --- |\n".to_owned();
    for request in list.as_array().unwrap() {
        let field = |name: &str| request[name].as_str().unwrap().to_owned();
        text += &format!(
            "| `{} {}`: {} | {} | {} |\n",
            field("method"),
            field("path"),
            field("about"),
            field("request"),
            field("answer")
        );
    }
    text
}

/// `make snapshots` writes it anew.
#[test]
fn the_reference_has_every_request() {
    let env = Environment::new(User::Root, Inline::Default);
    env.mount();
    let answer = request(&env, "GET /v1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let list = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    env.unmount();
    wasmfs_tests::check_generated("docs/control-api.md", &table(&list));
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
