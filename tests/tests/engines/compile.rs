//! `publish --with`: the host's own wasmtime command compiles.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use wasmfs_tests::{Environment, in_each_environment, output, real_host};

use crate::{answering, ask, cli};

#[test]
fn each_command_gets_what_it_compiled_itself() {
    in_each_environment(|env| {
        env.mount();
        let source = env.file("m.wat", answering(7));
        for (major, version) in [("36", "36.0.9"), ("48", "48.0.2"), ("49", "49.0.")] {
            let path = cli(major);
            let with = ["--with", path.to_str().unwrap()];
            let published = env.publish(&source, "m.cwasm", &with);
            let producer = published["producer"].as_str().unwrap();
            assert!(producer.starts_with(&format!("wasmtime {version}")), "{producer}");
            let view = format!(".wasmfs/engines/{}/m.cwasm", published["engine"].as_str().unwrap());
            assert_eq!(ask(env, major, &env.mounted(view)).unwrap(), "7");
            // Its own flags make another engine.
            let flags = [&with[..], &["--", "-C", "compiler=winch"]].concat();
            let winch = {
                let file = source.to_str().unwrap();
                let args = [&["publish", file, "--key", "m.cwasm", "--json"][..], &flags].concat();
                serde_json::from_str::<serde_json::Value>(&env.run(&args)).unwrap()[0].clone()
            };
            assert_eq!(winch["compiler"], "winch");
        }
        // The source went in as well, once.
        let versions = env.json(&["log", "m.cwasm"]);
        let sources: Vec<_> =
            versions.as_array().unwrap().iter().map(|v| v["source"].as_str().unwrap()).collect();
        assert_eq!(sources.len(), 6);
        assert!(sources.iter().all(|source| *source == sources[0]));
        let bare = env.publish(&source, "bare.cwasm", &["--no-keep-source"]);
        assert!(bare["source"].is_null());
        env.unmount();
    });
}

#[test]
fn what_the_command_says_is_shown_and_its_failure_is_the_files() {
    in_each_environment(|env| {
        let good = env.file("good.wat", answering(1));
        let bad = env.file("bad.wasm", b"\0asm\x01\0\0\0\x01\x01\xff");
        let with = cli("48");
        let with = with.to_str().unwrap();
        let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
        let said = env.fail(2, &["publish", good, bad, "--with", with]);
        assert!(said.contains("failed to parse") || said.contains("Caused by"), "{said}");
        assert!(said.contains("bad.wasm: ") && said.contains("compile failed"), "{said}");
        assert_eq!(env.json(&["ls"]).as_array().unwrap().len(), 1);
        let said = env.fail(1, &["publish", good, "--with", with, "--", "--no-such-flag"]);
        assert!(said.contains("--no-such-flag"), "{said}");
        for (with, why) in [
            ("/no/such/program", "can't be run"),
            (good, "chmod +x"),
            ("/bin/false", "printed no version"),
        ] {
            let said = env.fail(1, &["publish", good, "--with", with]);
            assert!(said.contains(why) && said.contains("hint:"), "{with}: {said}");
        }
        // A command that is no wasmtime and says nothing is wrong.
        let liar = script(env, "liar", "[ \"$1\" = --version ] && echo liar 1.0; exit 0");
        let said = env.fail(1, &["publish", good, "--with", liar.to_str().unwrap()]);
        assert!(said.contains("wrote no artifact"), "{said}");
        env.fail(2, &["publish", good, "--with", with, "--compiler", "winch"]);
        env.fail(2, &["publish", good, "--", "-O", "opt-level=0"]);
    });
}

fn script(env: &Environment, name: &str, text: &str) -> PathBuf {
    let path = env.file(name, format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_interrupt_ends_the_compiler_and_leaves_nothing() {
    in_each_environment(|env| {
        let source = env.file("m.wat", answering(1));
        let tmp = env.dir("tmp");
        // Whatever it starts has to go as well, and it is slow to give up.
        let slow = script(
            env,
            "slow",
            "[ \"$1\" = --version ] && { echo slow 1.0; exit; }\n\
             trap '' TERM\nsleep 1000 & echo $! > \"$HOME/pid.new\"; mv \"$HOME/pid.new\" \"$HOME/pid\"\n\
             echo compiling; wait; sleep 1000",
        );
        for signal in ["-INT", "-TERM"] {
            let mut command = env.wasmfs();
            command.arg("publish").arg(&source).arg("--with").arg(&slow).env("TMPDIR", &tmp);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let start = Instant::now();
            let pid = loop {
                match fs::read_to_string(env.path("pid")) {
                    Ok(pid) if !pid.trim().is_empty() => break pid.trim().to_owned(),
                    _ => assert!(start.elapsed() < Duration::from_secs(60), "it never started"),
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            assert_eq!(fs::read_dir(&tmp).unwrap().count(), 1);
            env.signal(child.id(), signal);
            let status = child.wait().unwrap();
            let number = if signal == "-INT" { 2 } else { 15 };
            assert_eq!(status.signal(), Some(number), "{status}");
            let gone = || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
                stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
            };
            while !gone() {
                assert!(start.elapsed() < Duration::from_secs(60), "{pid} lives on");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "the private directory is gone");
            fs::remove_file(env.path("pid")).unwrap();
        }
        assert!(!output(env.wasmfs().arg("log")).status.success() || env.run(&["ls"]).is_empty());
    });
}

#[test]
fn a_compiler_that_can_end_by_itself_does_and_nohup_is_heeded() {
    in_each_environment(|env| {
        let source = env.file("m.wat", answering(1));
        // A program that, unlike a shell, keeps the signal mask it is given.
        let python = real_host("python/bin/python3");
        let text = "import os, signal, sys, time\n\
             if sys.argv[1] == '--version': print('polite 1.0'); sys.exit()\n\
             def end(*_): open('ended', 'w').close(); sys.exit(1)\n\
             signal.signal(signal.SIGTERM, end)\n\
             open('started', 'w').close()\n\
             time.sleep(1000)\n";
        let polite = env.file("polite.py", text);
        let polite = script(
            env,
            "polite",
            &format!("exec {} {} \"$@\"", python.display(), polite.display()),
        );
        let run = |ignoring: &str| {
            let line = format!("{ignoring} exec \"$@\"");
            let mut command = env.command("sh");
            command.args(["-c", &line, "sh"]).arg(env.binary("wasmfs"));
            command.arg("publish").arg(&source).arg("--with").arg(&polite);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let start = Instant::now();
            while !env.path("started").exists() {
                assert!(start.elapsed() < Duration::from_secs(60), "it never started");
                std::thread::sleep(Duration::from_millis(5));
            }
            fs::remove_file(env.path("started")).unwrap();
            child
        };
        let mut child = run("");
        let start = Instant::now();
        env.signal(child.id(), "-INT");
        assert_eq!(child.wait().unwrap().signal(), Some(2));
        assert!(
            env.path("ended").exists(),
            "it was told to end, and did, in {:?}",
            start.elapsed()
        );
        fs::remove_file(env.path("ended")).unwrap();
        let mut child = run("trap '' HUP;");
        env.signal(child.id(), "-HUP");
        std::thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none(), "a hangup that was to be ignored");
        env.signal(child.id(), "-TERM");
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    });
}
