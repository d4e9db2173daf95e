//! A production host and a development host that share one cache key: what made
//! Zellij crash once or twice a day. On an ordinary directory, and on the mount.
//!
//! `WASMFS_TEST_SECONDS` says for how long; some seconds unless it does.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wasmfs_tests::host::{Answer, Host};
use wasmfs_tests::module::{DATA_END, wat};
use wasmfs_tests::{Environment, Inline, User, in_each_environment};

const KEY: &str = "zellij/0.43/5f3c";
const BUILDS: u32 = 4;

fn duration(default: u64) -> Duration {
    let given = std::env::var("WASMFS_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(default))
}

/// One of the two programs: its compiler, what it compiles from each source, and
/// the right answers.
struct Program {
    compiler: &'static str,
    builds: Vec<PathBuf>,
    answers: Vec<Vec<String>>,
}

fn questions() -> Vec<String> {
    let functions = (0..64).step_by(5).map(|n| format!("call f{n} 7"));
    functions.chain([format!("fresh sum {DATA_END}")]).collect()
}

impl Program {
    fn new(env: &Environment, compiler: &'static str) -> Program {
        let (mut builds, mut answers) = (Vec::new(), Vec::new());
        for seed in 1..=BUILDS {
            let source = env.file("source.wat", wat(seed));
            let key = format!("builds/{compiler}{seed}");
            let published =
                env.publish(&source, &key, &["--compiler", compiler, "--no-keep-source"]);
            let build = env.path(format!("{compiler}{seed}.cwasm"));
            fs::copy(env.mounted(published["path"].as_str().unwrap()), &build).unwrap();
            let mut host = Host::load(env, &build, compiler);
            answers.push(questions().iter().map(|q| host.said(q)).collect());
            builds.push(build);
            env.run(&["rm", &key]);
        }
        Program { compiler, builds, answers }
    }
}

#[derive(Debug, Default)]
struct Tally {
    published: usize,
    loaded: usize,
    refused: usize,
    crashed: usize,
    wrong: usize,
    right: usize,
}

impl Tally {
    /// Asks a host everything; false if it is gone.
    fn ask(&mut self, host: &mut Host, right: &[String]) -> bool {
        for (question, right) in questions().iter().zip(right) {
            match host.ask(question) {
                Answer::Said(answer) if answer == *right => self.right += 1,
                Answer::Said(_) => self.wrong += 1,
                Answer::Killed(_) => {
                    self.crashed += 1;
                    return false;
                }
            }
        }
        true
    }
}

/// What a program does for `time`: it makes a build current, starts a host on it, and asks
/// that one, and one that it started before, until the next round.
fn run(
    env: &Environment,
    program: &Program,
    path: &Path,
    time: Duration,
    make_current: impl Fn(&Path),
) -> Tally {
    let (start, mut tally) = (Instant::now(), Tally::default());
    let mut before: Option<(Host, usize)> = None;
    for round in (0..BUILDS as usize).cycle() {
        if start.elapsed() > time {
            break;
        }
        make_current(&program.builds[round]);
        tally.published += 1;
        // Time for the other to do the same.
        std::thread::sleep(Duration::from_millis(20));
        let mut next = None;
        match Host::try_load(env, path, program.compiler) {
            Ok(mut host) => {
                tally.loaded += 1;
                if tally.ask(&mut host, &program.answers[round]) {
                    next = Some((host, round));
                }
            }
            Err(Answer::Killed(signal)) if signal > 0 => tally.crashed += 1,
            Err(_) => tally.refused += 1,
        }
        if let Some((host, of)) = &mut before {
            tally.ask(host, &program.answers[*of]);
        }
        before = next;
    }
    tally
}

#[test]
fn a_production_and_a_development_host_share_a_key() {
    in_each_environment(|env| {
        env.mount();
        let programs = ["cranelift", "winch"].map(|compiler| Program::new(env, compiler));
        let engines = ["prod", "dev"];
        for (program, name) in programs.iter().zip(engines) {
            env.run(&["engines", "learn", name, program.builds[0].to_str().unwrap()]);
        }
        let time = duration(8);
        std::thread::scope(|scope| {
            let running: Vec<_> = programs
                .iter()
                .zip(engines)
                .map(|(program, name)| {
                    scope.spawn(move || {
                        let view = env.mounted(format!(".wasmfs/engines/{name}")).join(KEY);
                        run(env, program, &view, time, |build| {
                            let build = build.to_str().unwrap();
                            env.run(&["publish", build, "--key", KEY, "--engine", name]);
                        })
                    })
                })
                .collect();
            for (thread, name) in running.into_iter().zip(engines) {
                let tally = thread.join().unwrap();
                println!("on the mount, {name}: {tally:?}");
                assert!(tally.loaded > 2 && tally.loaded == tally.published, "{tally:?}");
                assert_eq!((tally.refused, tally.crashed, tally.wrong), (0, 0, 0));
            }
        });
        env.unmount();
    });
}

#[test]
fn on_an_ordinary_directory_they_harm_each_other() {
    let env = &Environment::new(User::Root, Inline::Default);
    env.mount();
    let programs = ["cranelift", "winch"].map(|compiler| Program::new(env, compiler));
    env.unmount();
    let shared = env.path("shared.cwasm");
    fs::write(&shared, "").unwrap();
    let time = duration(6);
    std::thread::scope(|scope| {
        let running: Vec<_> = programs
            .iter()
            .map(|program| {
                let shared = &shared;
                scope.spawn(move || {
                    run(env, program, shared, time, |build| {
                        // In place, as Zellij and `wasmtime compile -o` write it.
                        let bytes = fs::read(build).unwrap();
                        let open = OpenOptions::new().write(true).truncate(true).open(shared);
                        open.unwrap().write_all(&bytes).unwrap();
                    })
                })
            })
            .collect();
        let tallies: Vec<_> = running.into_iter().map(|thread| thread.join().unwrap()).collect();
        println!("on ext4, production: {:?}\non ext4, development: {:?}", tallies[0], tallies[1]);
        let harm: usize = tallies.iter().map(|t| t.refused + t.crashed + t.wrong).sum();
        assert!(tallies.iter().any(|t| t.crashed > 0), "nobody crashed");
        assert!(harm > 2);
    });
}
