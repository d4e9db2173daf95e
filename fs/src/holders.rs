//! Who uses a mount: every process with something of it open, mapped, or as
//! its directory. Only what the caller may look into is found: all processes
//! for root, one's own for others.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// How it uses the mount: `open`, `mapped`, `working directory`, `root directory`.
    pub how: &'static str,
    /// The path it uses, as `/proc` shows it.
    pub path: String,
}

/// The processes that use the file system with this device number; for each
/// the first use found.
pub fn holders(device: (u32, u32)) -> Vec<Holder> {
    let mut found: Vec<Holder> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let (how, path) = first_use(&entry.path(), device)?;
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(Holder { pid, command: command.trim_end().to_owned(), how, path })
        })
        .collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

fn first_use(process: &Path, device: (u32, u32)) -> Option<(&'static str, String)> {
    let target = |link: &Path| {
        fs::read_link(link).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    };
    for (link, how) in [("cwd", "working directory"), ("root", "root directory")] {
        let link = process.join(link);
        if is_on(&link, device) {
            return Some((how, target(&link)));
        }
    }
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if is_on(&entry.path(), device) {
            return Some(("open", target(&entry.path())));
        }
    }
    let maps = fs::read_to_string(process.join("maps")).ok()?;
    let number = format!("{:02x}:{:02x}", device.0, device.1);
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let path = (fields.nth(3)? == number).then(|| fields.nth(1).unwrap_or_default())?;
        Some(("mapped", path.to_owned()))
    })
}

/// Asks what the kernel knows already, never the server behind the file.
fn is_on(link: &Path, device: (u32, u32)) -> bool {
    statx(CWD.as_fd(), link, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())
        .is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor) == device)
}
