//! What was measured, as tables and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::calls::Calls;
use crate::loads::{Case, Loads};
use crate::memory::{Server, Shared};
use crate::names::Names;
use crate::peers::{BASE, IN_MEMORY, PASSTHROUGH, PLAIN, WRITTEN};
use crate::plot;
use crate::publish::Publishing;
use crate::stats::{Times, size, time};

/// The columns of the loads.
const PEERS: [&str; 10] = [
    BASE,
    PLAIN,
    PASSTHROUGH,
    IN_MEMORY,
    WRITTEN,
    "tmpfs",
    "EROFS",
    "SquashFS",
    "read + deserialize",
    "wasmtime's cache",
];

/// A part's table.
pub trait Table {
    fn table(&self, out: &mut String);
    /// A picture beside it.
    fn plot(&self) -> Option<String> {
        None
    }
}

pub struct Report {
    machine: BTreeMap<&'static str, String>,
    parts: BTreeMap<&'static str, Value>,
    tables: String,
    plot: Option<String>,
}

impl Report {
    pub fn new(machine: BTreeMap<&'static str, String>) -> Report {
        Report { machine, parts: BTreeMap::new(), tables: String::new(), plot: None }
    }

    pub fn add(&mut self, name: &'static str, part: impl Table + Serialize) -> Result<()> {
        part.table(&mut self.tables);
        self.plot = self.plot.take().or(part.plot());
        self.parts.insert(name, serde_json::to_value(part)?);
        Ok(())
    }

    pub fn json(&self) -> Result<String> {
        let machine = serde_json::to_value(&self.machine)?;
        let parts = serde_json::to_value(&self.parts)?;
        let all = BTreeMap::from([("machine", machine), ("results", parts)]);
        Ok(serde_json::to_string_pretty(&all)?)
    }

    pub fn tables(&self) -> String {
        let mut text = String::from("\n## The machine\n\n");
        for (name, value) in &self.machine {
            let _ = writeln!(text, "- {name}: {value}");
        }
        text + &self.tables
    }

    /// Writes everything to files in `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        let picture = match &self.plot {
            Some(plot) => {
                write("loads.svg", plot)?;
                "\n![Loads in proportion to ext4's](loads.svg)\n"
            }
            None => "",
        };
        let head = "# What was measured\n\nWritten by `make bench`; [LIMITS.md](LIMITS.md) says what the figures mean, \
                    what was tried, and where the limits are.\nAll peers are measured in turn, in one run: medians, with \
                    quartiles in results.json. Factors are to ext4.\n";
        write("RESULTS.md", &format!("{head}{picture}{}", self.tables()))?;
        write("results.json", &self.json()?)
    }
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn head(out: &mut String, title: &str, columns: &[&str]) {
    let _ = writeln!(out, "\n### {title}\n");
    row(out, columns.iter().map(|c| c.to_string()));
    row(out, columns.iter().map(|_| "---".to_owned()));
}

impl Table for Vec<Loads> {
    fn table(&self, out: &mut String) {
        out.push_str("\n## Loads\n");
        for case in Case::ALL {
            let has = |peer: &&str| {
                let has = |l: &Loads| l.times.get(&case).is_some_and(|t| t.contains_key(*peer));
                self.iter().any(has)
            };
            let peers: Vec<&str> = PEERS.into_iter().filter(|peer| has(peer)).collect();
            head(out, case.title(), &[&["module", "size"][..], &peers].concat());
            for load in self {
                let Some(times) = load.times.get(&case) else { continue };
                let base = times.get(BASE).map(|t| t.median);
                let cell = |peer: &&str| match (times.get(*peer), base) {
                    (Some(t), _) if *peer == BASE => {
                        format!(
                            "{} ({} to {})",
                            time(t.median),
                            time(t.lower_quartile),
                            time(t.upper_quartile)
                        )
                    }
                    (Some(t), Some(base)) => {
                        let ratio = t.median / base;
                        let digits = if ratio < 10.0 { 2 } else { 0 };
                        format!("{ratio:.digits$}x")
                    }
                    _ => String::new(),
                };
                let start = [load.module.clone(), size(load.bytes)];
                row(out, start.into_iter().chain(peers.iter().map(cell)));
            }
        }
    }

    fn plot(&self) -> Option<String> {
        Some(plot::loads(self))
    }
}

impl Table for Vec<Shared> {
    fn table(&self, out: &mut String) {
        let Some(first) = self.first() else { return };
        let title = format!(
            "Memory: hosts with {} ({}), every page touched",
            first.name,
            size(first.bytes)
        );
        out.push_str("\n## Memory\n");
        head(
            out,
            &title,
            &["hosts", "peer", "all of them", "of the module", "the store's own pages", "copies"],
        );
        for shared in self {
            row(
                out,
                [
                    shared.hosts.to_string(),
                    shared.peer.to_owned(),
                    size(u64::try_from(shared.pss).unwrap_or(0)),
                    size(u64::try_from(shared.module).unwrap_or(0)),
                    size(shared.besides),
                    format!("{:.2}", shared.copies),
                ],
            );
        }
    }
}

impl Table for Server {
    fn table(&self, out: &mut String) {
        let title = format!("The server of a store of {}", size(self.payload_bytes));
        let columns =
            ["payloads", "at start", "after reading all", "keeper", "the store's own pages left"];
        head(out, &title, &columns);
        row(
            out,
            [
                self.payloads.to_string(),
                size(self.resident_at_start),
                size(self.resident_after_reading),
                size(self.keeper),
                size(self.besides),
            ],
        );
    }
}

impl Table for Publishing {
    fn table(&self, out: &mut String) {
        out.push_str("\n## Publishing\n");
        const BASE: &str = "write + fsync + rename";
        let columns =
            ["module", "size", BASE, "cp", "dd conv=fsync", "wasmfs publish", "as fast", "as dd"];
        head(out, "One by one", &columns);
        for alone in &self.alone {
            let of = |peer| alone.times.get(peer).map_or(f64::NAN, |t: &Times| t.median);
            row(
                out,
                [
                    alone.module.clone(),
                    size(alone.bytes),
                    time(of(BASE)),
                    time(of("cp")),
                    time(of("dd conv=fsync")),
                    time(of("wasmfs publish")),
                    format!("{:.2}x", of(BASE) / of("wasmfs publish")),
                    format!("{:.2}x", of("dd conv=fsync") / of("wasmfs publish")),
                ],
            );
        }
        let title = format!("{} modules of {}", self.batch.modules, size(self.batch.bytes_each));
        head(out, &title, &["peer", "a second"]);
        for (peer, rate) in &self.batch.rates {
            row(out, [peer.to_string(), format!("{rate:.0}")]);
        }
    }
}

impl Table for Vec<Names> {
    fn table(&self, out: &mut String) {
        out.push_str("\n## Names\n");
        let columns = [
            "keys",
            "keys a second, of one payload",
            "first answer",
            "lookup, there: median / p99",
            "lookup, absent: median / p99",
            "ls of",
            "first",
            "again",
            "find of all",
            "server",
        ];
        head(out, "Stores of many names", &columns);
        for names in self {
            let both = |times: &Times| format!("{} / {}", time(times.median), time(times.p99));
            row(
                out,
                [
                    names.keys.to_string(),
                    format!("{:.0}", names.publish_rate),
                    time(names.first_answer_ms * 1e3),
                    both(&names.hit),
                    both(&names.miss),
                    names.listed.to_string(),
                    time(names.first_ls_ms * 1e3),
                    time(names.ls_ms * 1e3),
                    time(names.find_ms * 1e3),
                    size(names.resident),
                ],
            );
        }
    }
}

impl Table for Vec<Calls> {
    fn table(&self, out: &mut String) {
        out.push_str("\n## Requests and system calls\n");
        let columns = [
            "module",
            "peer",
            "requests of a warm load",
            "requests of a cold load",
            "system calls of a warm load",
        ];
        head(out, "For each load", &columns);
        for calls in self {
            let list = |counts: &BTreeMap<String, i64>| {
                let total: i64 = counts.values().sum();
                let each: Vec<String> = counts.iter().map(|(n, c)| format!("{c} {n}")).collect();
                if each.is_empty() { "0".into() } else { format!("{total}: {}", each.join(", ")) }
            };
            row(
                out,
                [
                    calls.module.clone(),
                    calls.peer.to_owned(),
                    list(&calls.warm_requests),
                    list(&calls.cold_requests),
                    list(&calls.system_calls),
                ],
            );
        }
    }
}
