//! Who uses a mount: every process with something of it open, mapped, or as
//! its directory. Only what the caller may look into is found: all processes
//! for root, one's own for others.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use wasmfs_store::Inode;

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountUser {
    /// The process that has it, in this process's namespace.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// How it uses the mount: `open`, `mapped`, `working directory`, `root directory`.
    pub how: &'static str,
    /// The path it uses, as `/proc` shows it.
    pub path: String,
}

/// The processes that use the file system with this device number, or one inode
/// of it; for each the first use found.
#[must_use]
pub fn mount_users(device: (u32, u32), inode: Option<Inode>) -> Vec<MountUser> {
    let mut found: Vec<MountUser> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let (how, path) = first_use(&entry.path(), device, inode)?;
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(MountUser { pid, command: command.trim_end().to_owned(), how, path })
        })
        .collect();
    found.sort_by_key(|user| user.pid);
    found
}

fn first_use(
    process: &Path,
    device: (u32, u32),
    inode: Option<Inode>,
) -> Option<(&'static str, String)> {
    let target = |link: &Path| {
        fs::read_link(link).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    };
    for (link, how) in [("cwd", "working directory"), ("root", "root directory")] {
        let link = process.join(link);
        if is_on(&link, device, inode) {
            return Some((how, target(&link)));
        }
    }
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if is_on(&entry.path(), device, inode) {
            return Some(("open", target(&entry.path())));
        }
    }
    let maps = fs::read(process.join("maps")).ok()?;
    let maps = String::from_utf8_lossy(&maps);
    let number = format!("{:02x}:{:02x}", device.0, device.1);
    maps.lines().find_map(|line| {
        let Mapping { device, inode: this, path } = Mapping::of(line)?;
        if device != number || inode.is_some_and(|inode| this.parse() != Ok(inode.get())) {
            return None;
        }
        // What was superseded shows as deleted.
        Some(("mapped", path.to_owned()))
    })
}

/// A line of `/proc/PID/maps` (proc_pid_maps(5)).
struct Mapping<'a> {
    device: &'a str,
    inode: &'a str,
    /// All that is left of the line: a path may have spaces.
    path: &'a str,
}

impl Mapping<'_> {
    fn of(line: &str) -> Option<Mapping<'_>> {
        let mut fields = line.splitn(6, ' ');
        let device = fields.nth(3)?;
        let inode = fields.next()?;
        Some(Mapping { device, inode, path: fields.next().unwrap_or_default().trim_start() })
    }
}

/// Asks what the kernel knows already, never the server behind the file.
fn is_on(link: &Path, device: (u32, u32), inode: Option<Inode>) -> bool {
    statx(CWD.as_fd(), link, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()).is_ok_and(|stat| {
        (stat.stx_dev_major, stat.stx_dev_minor) == device
            && inode.is_none_or(|inode| stat.stx_ino == inode.get())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_path_may_have_spaces() {
        let line = "7f1c-7f1d r--p 00000000 00:4d 17                         /mnt/a b/c d.cwasm";
        let Mapping { device, inode, path } = Mapping::of(line).unwrap();
        assert_eq!((device, inode, path), ("00:4d", "17", "/mnt/a b/c d.cwasm"));
        assert_eq!(Mapping::of("7f1c-7f1d rw-p 00000000 00:00 0 ").unwrap().path, "");
    }
}
