//! System calls and requests to the server, for each load.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::module::Subject;
use crate::peers::publish;
use crate::workplace::{Wasmfs, Workplace, drop_caches, succeed};

/// What a host's loads take.
#[derive(Clone, Debug, Serialize)]
pub struct Calls {
    pub module: String,
    pub peer: &'static str,
    /// System calls of one more load, by name, everything in memory.
    pub system_calls: BTreeMap<String, i64>,
    /// Requests to the server of one more load, by kind: warm, and with nothing in memory.
    pub warm_requests: BTreeMap<String, i64>,
    pub cold_requests: BTreeMap<String, i64>,
}

pub fn measure(place: &Workplace, subjects: &[Subject]) -> Result<Vec<Calls>> {
    let mut all = Vec::new();
    let ways: [(&str, &[&str]); 2] =
        [("wasmfs", &[]), ("wasmfs --passthrough", &["--passthrough"])];
    for (peer, options) in ways {
        let wasmfs = place.wasmfs(&format!("calls-{}", options.len()))?;
        if let Err(e) = wasmfs.mount(options) {
            eprintln!("{peer}: left out: {e}");
            continue;
        }
        publish(&wasmfs, subjects)?;
        for subject in subjects {
            let file = wasmfs.mount_point().join(format!("{}.cwasm", subject.name));
            let host = |times: usize| -> Result<Command> {
                let mut host = Command::new(std::env::current_exe()?);
                host.args(["host", "map"]).arg(&file).args(["--times", &times.to_string()]);
                Ok(host)
            };
            succeed(host(1)?.arg("--touch"))?;
            let of = |times| requests(&wasmfs, || succeed(&mut host(times)?).map(drop));
            // What a process asks for once is not its loads'.
            let warm_requests = difference(&of(3)?, &of(2)?);
            drop_caches()?;
            let cold_requests = of(1)?;
            succeed(host(1)?.arg("--touch"))?;
            let system_calls = difference(&traced(host(3)?)?, &traced(host(2)?)?);
            let module = subject.name.clone();
            all.push(Calls { module, peer, system_calls, warm_requests, cold_requests });
        }
    }
    Ok(all)
}

/// What the server counted while something happened.
fn requests(wasmfs: &Wasmfs<'_>, action: impl Fn() -> Result<()>) -> Result<BTreeMap<String, i64>> {
    let counted = || -> Result<BTreeMap<String, i64>> {
        let status = wasmfs.status()?;
        let requests = status["worker"]["requests"].as_object().context("its requests")?.clone();
        Ok(requests.into_iter().map(|(k, v)| (k, Value::as_i64(&v).unwrap_or(0))).collect())
    };
    let before = counted()?;
    action()?;
    Ok(difference(&counted()?, &before))
}

fn difference(more: &BTreeMap<String, i64>, less: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let names = more.keys().chain(less.keys());
    let of = |map: &BTreeMap<String, i64>, name: &String| map.get(name).copied().unwrap_or(0);
    let all = names.map(|name| (name.clone(), of(more, name) - of(less, name)));
    all.filter(|(_, count)| *count != 0).collect()
}

/// The system calls of a process, counted by strace.
fn traced(command: Command) -> Result<BTreeMap<String, i64>> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "name,calls", "-o", "/dev/stdout"]);
    let text = succeed(strace.arg(command.get_program()).args(command.get_args()))?;
    let count = |line: &str| {
        let (name, count) = line.trim().split_once(' ')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    let mut counts: BTreeMap<String, i64> = text.lines().filter_map(count).collect();
    counts.remove("total");
    Ok(counts)
}
