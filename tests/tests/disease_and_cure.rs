//! What changes to a file do to the hosts that run it: on an ordinary file
//! system they crash or compute wrong results, on the mount nothing happens.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use wasmfs_tests::host::{Answer, Host};
use wasmfs_tests::module::{DATA_END, FUNCTIONS, wat};
use wasmfs_tests::{Environment, Inline, User, identity, in_all_environments};

const SEGV: i32 = 11;
const BUS: i32 = 7;
const KEY: &str = "app.cwasm";
const ROUNDS: usize = 6;

/// The builds that a running host's file is replaced with.
struct Builds(BTreeMap<&'static str, PathBuf>);

impl Builds {
    /// Compiles every build by publishing it, and copies it out of the mount.
    fn make(env: &Environment) -> Builds {
        let original = env.file("original.wat", wat(1));
        let other = env.file("other.wat", wat(2));
        let builds = [
            ("original", &original, vec![]),
            ("other constants", &other, vec![]),
            ("winch", &original, vec!["--compiler", "winch"]),
            ("other winch", &other, vec!["--compiler", "winch"]),
            ("unoptimized", &original, vec!["--opt-level", "none"]),
            ("other unoptimized", &other, vec!["--opt-level", "none"]),
        ];
        let mut files = BTreeMap::new();
        for (name, source, options) in builds {
            let key = format!("builds/{}", name.replace(' ', "-"));
            let published = env.publish(source, &key, &options);
            let copy = env.path(format!("{name}.cwasm"));
            fs::copy(env.mounted(published["path"].as_str().expect("a path")), &copy)
                .expect("a copy");
            files.insert(name, copy);
        }
        let size = |name| fs::metadata(&files[name]).expect("a build").len();
        assert_eq!(size("original"), size("other constants"), "the same layout");
        Builds(files)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(&self.0[name]).expect("a build")
    }
}

/// Right results, from a host whose file nobody touches.
struct Truth(Vec<(String, String)>);

/// Every question whose answer doesn't depend on earlier ones.
fn questions() -> Vec<String> {
    let called = (0..FUNCTIONS).map(|i| format!("call f{i} 7"));
    let fresh = (0..FUNCTIONS).step_by(8).map(|i| format!("fresh f{i} 9"));
    let data = [format!("call sum {DATA_END}"), format!("fresh sum {DATA_END}")];
    called.chain(fresh).chain(data).collect()
}

impl Truth {
    fn of(env: &Environment, file: &Path, compiler: &str) -> Truth {
        let mut host = Host::load(env, file, compiler);
        Truth(questions().into_iter().map(|q| (q.clone(), host.said(&q))).collect())
    }

    /// Asks everything, and counts answers that are right and wrong until the host dies.
    fn ask(&self, host: &mut Host) -> Outcome {
        let mut outcome = Outcome::default();
        for (question, right) in &self.0 {
            match host.ask(question) {
                Answer::Said(answer) if answer == *right => outcome.right += 1,
                Answer::Said(_) => outcome.wrong += 1,
                Answer::Killed(signal) => {
                    outcome.killed = Some(signal);
                    break;
                }
            }
        }
        outcome
    }

    fn all_right(&self) -> Outcome {
        Outcome { right: self.0.len(), ..Outcome::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    right: usize,
    wrong: usize,
    killed: Option<i32>,
}

/// Overwrites in place, as `wasmtime compile -o` does.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).expect("the file");
    file.write_all(bytes).expect("written");
}

#[test]
fn on_an_ordinary_file_system_in_place_changes_harm_running_hosts() {
    let env = Environment::new(User::Root, Inline::Default);
    env.mount();
    let builds = Builds::make(&env);
    let truth = Truth::of(&env, &builds.0["original"], "cranelift");
    let victim = env.path("victim.cwasm");
    let start = || {
        let _ = fs::remove_file(&victim);
        fs::write(&victim, builds.bytes("original")).expect("written");
        let mut host = Host::load(&env, &victim, "cranelift");
        assert_eq!(host.said("call f0 7"), truth.0[0].1);
        host
    };
    println!("| change to the file of a running host | right | wrong | killed by |");
    println!("| --- | --- | --- | --- |");
    let report = |change: &str, outcome: &Outcome| {
        let killed = outcome.killed.map_or("-".to_owned(), |s| s.to_string());
        println!("| {change} | {} | {} | {killed} |", outcome.right, outcome.wrong);
    };
    for _ in 0..3 {
        for build in ["winch", "unoptimized"] {
            let mut host = start();
            overwrite(&victim, &builds.bytes(build));
            let outcome = truth.ask(&mut host);
            report(&format!("overwritten with the {build} build"), &outcome);
            let crashed = matches!(outcome.killed, Some(SEGV | BUS | 4 | 5));
            assert!(crashed || outcome.wrong > 0, "{build}: {outcome:?}");
        }

        let mut host = start();
        overwrite(&victim, &builds.bytes("winch"));
        let data = format!("fresh sum {DATA_END}");
        let right = &truth.0.iter().find(|(q, _)| *q == data).expect("asked").1;
        let answer = host.ask(&data);
        println!("| … and the data of a fresh instance | | {answer:?} instead of {right} | |");
        assert_ne!(answer, Answer::Said(right.clone()));

        let mut host = start();
        overwrite(&victim, &builds.bytes("other constants"));
        let outcome = truth.ask(&mut host);
        report("overwritten with other constants", &outcome);
        assert!(outcome.killed.is_none() && outcome.wrong > 0, "{outcome:?}");

        let mut host = start();
        host.said("call poke 64");
        assert_eq!(host.said("call peek 64"), 0x5eed.to_string());
        overwrite(&victim, &builds.bytes("original"));
        let peeked = host.said("call peek 64");
        println!(
            "| rewritten with identical bytes | | memory reads {peeked}, {} was written | |",
            0x5eed
        );
        assert_ne!(peeked, 0x5eed.to_string());

        let mut host = start();
        OpenOptions::new().write(true).open(&victim).expect("the file").set_len(4096).expect("cut");
        let outcome = truth.ask(&mut host);
        report("truncated", &outcome);
        assert_eq!(outcome.killed, Some(BUS));

        let mut host = start();
        let new = env.path("victim.new");
        fs::write(&new, builds.bytes("winch")).expect("written");
        fs::rename(&new, &victim).expect("renamed");
        let outcome = truth.ask(&mut host);
        report("written anew and renamed over", &outcome);
        assert_eq!(outcome, truth.all_right());
    }
}

#[test]
fn on_the_mount_publishing_over_a_key_harms_nobody() {
    in_all_environments(|env| {
        env.mount();
        let builds = Builds::make(env);
        let truth = Truth::of(env, &builds.0["original"], "cranelift");
        let other_truth = Truth::of(env, &builds.0["other constants"], "cranelift");
        let publish = |name: &str, options: &[&str]| env.publish(&builds.0[name], KEY, options);

        publish("original", &[]);
        let path = env.mounted(KEY);
        let (inode, size) = identity(&path);
        let mut current = inode;
        let mut host = Host::load(env, &path, "cranelift");
        assert_eq!(host.said("call f0 7"), truth.0[0].1);
        host.said(&format!("call poke {DATA_END}"));
        for round in 0..ROUNDS {
            // Identical bytes: nothing moves.
            assert_eq!(publish("original", &[])["status"], "unchanged");
            assert_eq!(identity(&path).0, current);
            // Other engines: their own names move, the plain name doesn't.
            let (winch, unoptimized) = match round % 2 {
                0 => (publish("winch", &[]), publish("unoptimized", &[])),
                _ => (publish("other winch", &[]), publish("other unoptimized", &[])),
            };
            for other in [&winch, &unoptimized] {
                assert_eq!(
                    (&other["status"], &other["served_by_plain_name"]),
                    (&"published".into(), &false.into())
                );
            }
            assert_eq!(identity(&path).0, current);
            // The same engine and layout, other constants.
            let new = publish("other constants", &[]);
            assert_eq!((&new["status"], &new["visible"]), (&"published".into(), &true.into()));

            // Who opens it now gets the new version, and the other engines' hosts theirs.
            assert_eq!(identity(&path).0, new["inode"].as_u64().expect("a number"));
            let mut newcomer = Host::load(env, &path, "cranelift");
            assert_eq!(other_truth.ask(&mut newcomer), other_truth.all_right());
            let their_truth = if round % 2 == 0 { &truth } else { &other_truth };
            for (version, compiler) in [(&winch, "winch"), (&unoptimized, "none")] {
                let path = env.mounted(version["path"].as_str().expect("a path"));
                let mut host = Host::load(env, &path, compiler);
                assert_eq!(their_truth.ask(&mut host), their_truth.all_right());
            }

            // Who has the first version goes on with it: functions called before, functions
            // never called before, instances never made before.
            assert_eq!(truth.ask(&mut host), truth.all_right());
            assert_eq!(host.said("stat"), format!("{inode} {size}"));
            assert_eq!(host.said(&format!("call peek {DATA_END}")), 0x5eed.to_string());
            current = publish("original", &[])["inode"].as_u64().expect("a number");
        }
        // Every function, called for the first time after its key was published over.
        for round in 0..FUNCTIONS {
            let mut fresh = Host::load(env, &path, "cranelift");
            publish("other constants", &[]);
            let question = format!("call f{round} 7");
            assert_eq!(
                Some(&(question.clone(), fresh.said(&question))),
                truth.0.get(round as usize)
            );
            publish("original", &[]);
        }

        // Not even when nothing has the name any more.
        env.run(&["rm", KEY]);
        assert!(!path.exists());
        assert_eq!(truth.ask(&mut host), truth.all_right());
        assert_eq!(host.said("stat"), format!("{inode} {size}"));
        assert!(Path::new(&format!("/proc/{}", host.pid())).exists());
        drop(host);
        env.unmount();
    });
}
