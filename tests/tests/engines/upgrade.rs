//! The day a host moves from wasmtime 36 to 48.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use wasmfs_tests::{Environment, Inline, User, output, real_host};

use crate::{Stop, answering, cli};

fn modules() -> Vec<PathBuf> {
    let entries = fs::read_dir(real_host("modules")).unwrap();
    let mut modules: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    assert_eq!(modules.len(), 20);
    modules
}

/// What a real program answers, by the wasmtime command of a major version.
fn boolector(env: &Environment, major: &str, path: &Path) -> Result<String, String> {
    let mut command = env.command(cli(major));
    command.args(["run", "--allow-precompiled", "--dir", "."]).arg(path).arg("problem.smt2");
    let output = output(command.arg("-m"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // It ends with 10 for sat.
    if output.status.code() == Some(10) {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn twenty_modules_move_from_36_to_48_under_their_hosts() {
    let env = &Environment::new(User::Root, Inline::Default);
    env.mount();
    env.file("problem.smt2", crate::capture::PROBLEM);
    let modules = modules();
    let files: Vec<&str> = modules.iter().map(|path| path.to_str().unwrap()).collect();
    let (old, new) = (cli("36"), cli("48"));
    let start = Instant::now();
    let args = [&["publish", "--with", old.to_str().unwrap()][..], &files].concat();
    let published = env.json(&args);
    println!("20 modules compiled with 36 and published in {:?}", start.elapsed());
    let keys: BTreeMap<String, Value> = published
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["key"].as_str().unwrap().to_owned(), p.clone()))
        .collect();
    assert_eq!(keys.len(), 20);
    let old_engine = keys["boolector.cwasm"]["engine"].as_str().unwrap().to_owned();
    let wanted = boolector(env, "36", &env.mounted("boolector.cwasm")).unwrap();
    assert!(wanted.starts_with("sat"), "{wanted}");

    let (stop, runs, moved) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        // A host of 36 goes on through it on its engine's view; one on the plain name
        // gets the one or the other, and never anything else.
        scope.spawn(|| {
            let own = env.mounted(format!(".wasmfs/engines/{old_engine}/boolector.cwasm"));
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(boolector(env, "36", &own).unwrap(), wanted);
                let had_moved = moved.load(Ordering::Acquire);
                match boolector(env, "48", &env.mounted("boolector.cwasm")) {
                    Ok(answer) => assert_eq!(answer, wanted),
                    Err(refused) => {
                        assert!(refused.contains("incompatible version"), "{refused}");
                        assert!(!had_moved, "refused after the plain names had moved");
                    }
                }
                runs.fetch_add(1, Ordering::Relaxed);
            }
        });
        let start = Instant::now();
        let report = env.json(&["recompile", "--all", "--with", new.to_str().unwrap()]);
        println!("recompiled with 48 in {:?}", start.elapsed());
        for (report, key) in report.as_array().unwrap().iter().zip(keys.keys()) {
            assert_eq!(report["key"], **key);
            let version = &report["published"];
            assert_eq!((&version["version"], &version["wasmtime"]), (&2.into(), &"48".into()));
            assert_eq!(version["source"], keys[key]["source"]);
            // Plain names are where they were.
            assert_eq!(env.json(&["show", key])["version"], 1);
        }
        let label = report[0]["published"]["engine"].as_str().unwrap();
        env.run(&["engines", "alias", "new", label]);
        let start = Instant::now();
        let answer = env.json(&["default", "--all", "new"]);
        moved.store(true, Ordering::Release);
        println!("20 plain names moved in {:?}", start.elapsed());
        assert_eq!(
            (answer["moved"].as_array().unwrap().len(), &answer["visible"]),
            (20, &true.into())
        );
        for key in keys.keys() {
            // 48 takes what is there now; what it can't give a module here is its imports.
            let run = output(
                env.command(cli("48")).args(["run", "--allow-precompiled"]).arg(env.mounted(key)),
            );
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            assert!(
                !said.contains("deserialization") && !said.contains("incompatible"),
                "{key}: {said}"
            );
        }
        std::thread::sleep(Duration::from_secs(1));
    });
    println!("{} rounds of both hosts meanwhile", runs.load(Ordering::Relaxed));
    assert_eq!(boolector(env, "48", &env.mounted("boolector.cwasm")).unwrap(), wanted);
    assert!(boolector(env, "36", &env.mounted("boolector.cwasm")).is_err());
    env.unmount();
}

#[test]
fn if_one_key_cannot_be_compiled_no_plain_name_moves() {
    let env = &Environment::new(User::Root, Inline::Default);
    env.mount();
    // What 36 refuses unless it is asked to take it: 48 has garbage collection by itself.
    let gc = "(module (type $s (struct (field i32))) (func (export \"answer\") (result i32)
        (struct.get $s 0 (struct.new $s (i32.const 5)))))";
    env.publish(&env.file("plain.wat", answering(4)), "plain.cwasm", &[]);
    env.publish(&env.file("gc.wat", gc), "gc.cwasm", &[]);
    let bare = env.file("bare.wat", answering(6));
    env.publish(&bare, "bare.cwasm", &["--no-keep-source"]);
    let (old, new) = (cli("36"), cli("49"));
    let with = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let args = ["recompile", "plain.cwasm", "gc.cwasm", "--default", "--with"];
    let said = env.fail(2, &[&args[..], &[&with(&old)]].concat());
    assert!(said.contains("gc.cwasm: ") && said.contains("no plain name was moved"), "{said}");
    assert!(!said.contains("plain.cwasm: "), "{said}");
    for key in ["plain.cwasm", "gc.cwasm"] {
        assert_eq!(env.json(&["show", key])["version"], 1, "{key}");
    }
    // What could be compiled is there for who asks for it.
    assert_eq!(env.json(&["show", "plain.cwasm@2"])["wasmtime"], "36.0.9");

    // Another that can compile both moves both, with one line.
    let lines = || {
        let history = fs::read_to_string(env.store().join("history")).unwrap();
        history.lines().filter(|line| line.contains(r#""op":"default""#)).count()
    };
    env.run(&[&args[..], &[&with(&new)]].concat());
    assert_eq!(lines(), 1);
    for (key, answer) in [("plain.cwasm", "4"), ("gc.cwasm", "5")] {
        assert_eq!(crate::ask(env, "49", &env.mounted(key)).unwrap(), answer);
    }
    // Without a source there is nothing to compile, and that is said.
    let said = env.fail(2, &["recompile", "--all", "--default", "--with", &with(&new)]);
    assert!(said.contains("bare.cwasm: the store has no source of it"), "{said}");
    assert!(env.fail(1, &["recompile", "absent"]).contains("there is no key absent"));
    assert!(env.fail(2, &["recompile"]).contains("required"));
    let said = env.fail(1, &["recompile", "plain.cwasm", "--engine", "nobody"]);
    assert!(said.contains("there is no engine called nobody"), "{said}");
    // Of another engine than it should be: nothing goes in.
    env.run(&[
        "engines",
        "alias",
        "new",
        env.json(&["show", "gc.cwasm"])["engine"].as_str().unwrap(),
    ]);
    let said = env.fail(1, &["recompile", "plain.cwasm", "--engine", "new", "--with", &with(&old)]);
    assert!(said.contains("compiled by wasmtime 36.0.9, new is 49"), "{said}");
    // The linked wasmtime does it as well.
    let report = env.json(&["recompile", "plain.cwasm"]);
    assert_eq!(report[0]["published"]["wasmtime"], "48");
    env.unmount();
}
