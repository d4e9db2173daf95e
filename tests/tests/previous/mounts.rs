//! Mounts that the program of the release before made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Output;

use wasmfs_tests::host::Host;
use wasmfs_tests::module::wat;
use wasmfs_tests::{Environment, copy_program, in_each_environment, output, previous, succeed};

/// The program of the release before, where this user can reach and replace it.
fn install_previous(env: &Environment) -> Option<PathBuf> {
    let program = env.path("bin-wasmfs");
    copy_program(previous()?, &program);
    Some(program)
}

fn exe(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[test]
fn a_mount_of_the_release_before_is_reloaded_under_a_running_host() {
    in_each_environment(|env| {
        let Some(program) = install_previous(env) else { return };
        succeed(env.command(&program).arg("mount"));
        env.watch(&env.mount_point());
        let big = env.file("big.wat", wat(1));
        succeed(env.command(&program).arg("publish").arg(&big).args(["--key", "key"]));
        let mut host = Host::load(env, &env.mounted("key"), "cranelift");
        let expected = host.said("call f1 7");
        let (keeper, worker) = (env.keeper_pid(), exe(env.worker_pid()));
        copy_program(env.binary("wasmfs"), env.path("new"));
        fs::rename(env.path("new"), &program).unwrap();
        assert!(env.run(&["reload"]).contains("serves now"));
        assert_ne!(exe(env.worker_pid()), worker);
        assert_eq!(env.keeper_pid(), keeper);
        // A function that was never called before: its pages come from the new worker.
        assert_eq!(host.said("call f1 7"), expected);
        host.said("call f50 7");
        let again = env.publish(&env.file("big-2.wat", wat(2)), "key", &[]);
        assert_eq!(again["version"], 2);
        // The new worker dies, and the old keeper starts the next.
        env.signal(env.worker_pid(), "-KILL");
        assert!(fs::read(env.mounted("key")).unwrap().len() > 1000);
        host.said("call f51 7");
        drop(host);
        env.unmount();
    });
}

#[test]
fn commands_and_servers_of_other_releases_say_what_to_do() {
    in_each_environment(|env| {
        let Some(program) = install_previous(env) else { return };
        let previous = |args: &[&str]| output(env.command(&program).args(args));
        let file = env.file("m.wat", "(module)");
        let file = file.to_str().unwrap();
        let told = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{text}");
            assert!(text.contains("protocol") && text.contains("`wasmfs reload`"), "{text}");
        };
        // An old command, and a new server.
        env.mount();
        told(&previous(&["publish", file]));
        told(&previous(&["ls"]));
        assert!(previous(&["status"]).status.success());
        assert!(previous(&["reload"]).status.success());
        env.unmount();
        // A new command, and an old server.
        assert!(previous(&["mount"]).status.success());
        env.watch(&env.mount_point());
        assert!(previous(&["publish", file]).status.success());
        told(&output(env.wasmfs().arg("ls")));
        told(&output(env.wasmfs().args(["publish", file])));
        let failed = output(env.wasmfs().args(["ls", "--json"]));
        let failed: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
        assert_eq!(failed["error"]["code"], "other-protocol");
        assert_eq!(env.json(&["status"])["mounted"], true);
        copy_program(env.binary("wasmfs"), env.path("new"));
        fs::rename(env.path("new"), &program).unwrap();
        env.run(&["reload"]);
        assert_eq!(env.json(&["ls"]).as_array().unwrap().len(), 1);
        env.unmount();
    });
}
