//! What it was measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workplace::succeed;

/// The machine in words, by what is said of it.
pub fn describe(work: &Path) -> Result<BTreeMap<&'static str, String>> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal").unwrap_or_default();
    let mut findmnt = Command::new("findmnt");
    let disk = succeed(findmnt.args(["-no", "FSTYPE,SOURCE,OPTIONS", "--target"]).arg(work))?;
    let source = disk.split_whitespace().nth(1).and_then(|s| s.strip_prefix("/dev/"));
    let queue = source.map(|disk| format!("/sys/block/{disk}/queue/read_ahead_kb"));
    let readahead = queue.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let version = wasmfs_store_version()?;
    Ok(BTreeMap::from([
        ("CPU", field(&cpu, "model name").unwrap_or_default()),
        ("cores", std::thread::available_parallelism()?.to_string()),
        ("memory", memory),
        ("kernel", succeed(Command::new("uname").args(["-sr"]))?.trim().to_owned()),
        ("disk", disk.split_whitespace().collect::<Vec<_>>().join(" ")),
        ("readahead of the disk", format!("{} kB", readahead.trim())),
        ("wasmfs", version),
        ("wasmtime", "the crate, 48".to_owned()),
    ]))
}

fn wasmfs_store_version() -> Result<String> {
    Ok(succeed(Command::new(wasmfs_tests::binary("wasmfs")).arg("--version"))?.trim().to_owned())
}
