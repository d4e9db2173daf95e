//! Hosts at work while the server is killed and replaced over and over.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use wasmfs_tests::host::{Answer, Host};
use wasmfs_tests::module::{FUNCTIONS, wat};
use wasmfs_tests::{Environment, Inline, User, identity, in_environment};

use crate::{log, wait_until};

/// Replacements in each environment, unless `WASMFS_TEST_REPLACEMENTS` says otherwise.
const REPLACEMENTS: u64 = 50;
const READERS: u32 = 3;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn hosts_do_not_notice_that_the_server_dies_and_is_replaced() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // As root: what is in memory of mounts and disks is dropped now and then.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
                std::thread::sleep(Duration::from_millis(700));
            }
        });
        let result = std::panic::catch_unwind(|| {
            in_environment(User::Root, Inline::Default, &stress);
            in_environment(User::Ordinary, Inline::Unlimited, &stress);
        });
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn stress(env: &Environment) {
    let target = std::env::var("WASMFS_TEST_REPLACEMENTS").ok();
    let target = target.map_or(REPLACEMENTS, |n| n.parse().unwrap());
    env.mount();
    let answers = publish_module(env);
    let readers: Vec<Child> = (0..READERS).map(|i| start_reader(env, i)).collect();
    let stop = AtomicBool::new(false);
    let (calls, publishes) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut pauses = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while_going(&stop, || {
                run_host(env, &answers);
                calls.fetch_add(u64::from(FUNCTIONS), Ordering::Relaxed);
            });
        });
        scope.spawn(|| {
            while_going(&stop, || {
                publish_anew(env, publishes.fetch_add(1, Ordering::Relaxed));
            });
        });
        let mut dice = Dice(0x5eed);
        let _end = StopOnPanic(&stop);
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(30 + dice.roll(150)));
            let replaced = replace(env, &mut dice);
            pauses.push(replaced["last_pause_ms"].as_f64().unwrap());
            if replaced["replacements"].as_u64().unwrap() >= target {
                break;
            }
        }
    });
    let mut waits = Vec::new();
    let mut reads = 0;
    for reader in readers {
        let done = end_reader(reader);
        assert_eq!(done["errors"], Value::Array(Vec::new()));
        assert_eq!(done["wrong"], 0);
        reads += done["reads"].as_u64().unwrap();
        waits.extend(done["waits"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap() * 1e3));
    }
    let log = log(env);
    let with_requests = log.matches("requests in flight").count()
        - log.matches("with 0 requests in flight").count();
    assert!(with_requests > 0, "no worker died over a request");
    println!(
        "{reads} reads, {} calls of functions for the first time, {} publishes, {} replacements ({with_requests} with requests in flight); \
         pauses: {}; waits of hosts: {}",
        calls.into_inner(),
        publishes.into_inner(),
        env.json(&["status"])["worker"]["replacements"],
        spread(&mut pauses),
        spread(&mut waits),
    );
    env.unmount();
}

fn spread(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    format!("median {median:.2} ms, longest {longest:.1} ms")
}

struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn while_going(stop: &AtomicBool, mut work: impl FnMut()) {
    // Whoever fails ends the others.
    let _end = StopOnPanic(stop);
    while !stop.load(Ordering::Relaxed) {
        work();
    }
}

/// Publishes a module, and says what its functions answer from a plain file.
fn publish_module(env: &Environment) -> Vec<String> {
    env.publish(&env.file("module.wat", wat(1)), "hosts/module", &[]);
    let copy = env.path("copy");
    fs::copy(env.mounted("hosts/module"), &copy).unwrap();
    let mut host = Host::load(env, &copy, "cranelift");
    (0..FUNCTIONS).map(|i| host.said(&format!("call f{i} 7"))).collect()
}

/// A host that has just started calls each function for the first time.
fn run_host(env: &Environment, answers: &[String]) {
    let mut host = Host::load(env, &env.mounted("hosts/module"), "cranelift");
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(host.ask(&format!("call f{i} 7")), Answer::Said(answer.clone()));
    }
}

/// A publish that succeeded is what the name leads to, whoever answered it.
fn publish_anew(env: &Environment, round: u64) {
    let source = env.file("anew.wat", format!("(module (func (export \"r{round}\")))"));
    let published = env.publish(&source, "churn/deep/key", &[]);
    let inode = published["inode"].as_u64().unwrap();
    assert_eq!(identity(&env.mounted("churn/deep/key")).0, inode, "round {round}");
    let version = env.mounted(format!(".wasmfs/versions/churn/deep/key/{}", published["version"]));
    assert_eq!(identity(&version).0, inode, "round {round}");
}

/// Ends the worker in one of the ways there are, and waits for the next.
fn replace(env: &Environment, dice: &mut Dice) -> Value {
    let before = env.json(&["status"])["worker"].clone();
    let pid = before["pid"].as_u64().unwrap() as u32;
    match dice.roll(4) {
        0 => env.signal(pid, "-KILL"),
        1 => {
            // Rust's handler leaves the first to the instruction that caused it, which is none here.
            while signalled(pid, "-SEGV") {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        2 => {
            env.signal(pid, "-STOP");
            std::thread::sleep(Duration::from_millis(dice.roll(40)));
            env.signal(pid, "-KILL");
        }
        _ => drop(env.run(&["reload"])),
    }
    let count = |worker: &Value| worker["replacements"].as_u64().unwrap();
    let now = || env.json(&["status"])["worker"].clone();
    wait_until(|| count(&now()) > count(&before));
    now()
}

/// Sends a signal, unless the process is gone.
fn signalled(pid: u32, signal: &str) -> bool {
    let mut kill = std::process::Command::new("kill");
    kill.args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

/// A reader of a module of its own: pages that another process maps too are not dropped.
fn start_reader(env: &Environment, number: u32) -> Child {
    let (key, copy) = (format!("hosts/reader{number}"), env.path(format!("copy{number}")));
    env.publish(&env.file("reader.wat", wat(100 + number)), &key, &[]);
    fs::copy(env.mounted(&key), &copy).unwrap();
    let mut command = env.command("python3");
    command.args(["-c", include_str!("../../src/reader.py")]);
    command.arg(env.mounted(&key)).arg(copy).arg(env.mounted("hosts"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Unbuffered: what follows is read by another reader.
    let mut byte = [0];
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0].into());
    }
    assert_eq!(line, "ready");
    child
}

fn end_reader(mut reader: Child) -> Value {
    drop(reader.stdin.take());
    let mut line = String::new();
    BufReader::new(reader.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let status = reader.wait().unwrap();
    assert!(status.success(), "a reader ended with {status}");
    serde_json::from_str(&line).unwrap()
}
