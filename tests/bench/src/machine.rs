//! What it was measured on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::workplace::{Workplace, succeed};

/// The machine in words, by what is said of it.
pub fn describe(place: &Workplace) -> Result<BTreeMap<&'static str, String>> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal").unwrap_or_default();
    let mut findmnt = Command::new("findmnt");
    let disk =
        succeed(findmnt.args(["-no", "FSTYPE,SOURCE,OPTIONS", "--target"]).arg(place.dir()))?;
    let mut wasmfs = Command::new(wasmfs_tests::binary("wasmfs"));
    let version = succeed(wasmfs.arg("--version"))?.trim().to_owned();
    let readahead = match place.usual_readahead() {
        Some(before) => format!("128 kB for this run, as is usual ({before} kB otherwise)"),
        None => "unknown".to_owned(),
    };
    Ok(BTreeMap::from([
        ("CPU", field(&cpu, "model name").unwrap_or_default()),
        ("cores", std::thread::available_parallelism()?.to_string()),
        ("memory", memory),
        ("kernel", succeed(Command::new("uname").args(["-sr"]))?.trim().to_owned()),
        ("disk", disk.split_whitespace().collect::<Vec<_>>().join(" ")),
        ("readahead of the disk", readahead),
        ("wasmfs", version),
        ("wasmtime", "the crate, 48".to_owned()),
    ]))
}
