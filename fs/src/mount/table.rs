//! What is mounted where, by the kernel's own table.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::error::{IoContext, Result};

/// The type that a mount shows in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.wasmfs";

/// What is mounted at a path, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number for this mount.
    pub id: u64,
    /// The path, with mountinfo's escapes undone.
    pub mount_point: PathBuf,
    /// What is mounted: the store's directory, for a mount of wasmfs; `wasmfs` if it was made by a
    /// release before 0.2.
    pub source: PathBuf,
    /// Whether all of it is shown there: no bind mount of a part.
    pub is_whole: bool,
    /// The file system type.
    pub fs_type: String,
    /// The device number, major and minor; for FUSE the minor is the
    /// connection's name under `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// The user whose server answers it, of a FUSE mount.
    pub user: Option<u32>,
}

impl Mounted {
    /// Whether it is a mount of wasmfs.
    #[must_use]
    pub fn is_wasmfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether it is a mount of wasmfs that this user's server answers.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.is_wasmfs() && self.user == Some(rustix::process::geteuid().as_raw())
    }

    /// The store that is mounted, if the mount says so.
    #[must_use]
    pub fn store(&self) -> Option<&Path> {
        self.source.is_absolute().then_some(&self.source)
    }

    /// Whether what a descriptor is of is in this mount, by the kernel's own numbers (statx(2), from
    /// Linux 5.8 on). It asks no server.
    #[must_use]
    pub fn holds(&self, descriptor: impl AsFd) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(descriptor, "", flags, StatxFlags::MNT_ID);
        found.is_ok_and(|found| {
            (found.stx_dev_major, found.stx_dev_minor) == self.device && found.stx_mnt_id == self.id
        })
    }
}

/// Every mount that this process sees, the topmost last.
pub fn all_mounted() -> Result<Vec<Mounted>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).at("reading", table)?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_mountinfo).collect())
}

/// The topmost mount at exactly `path`, which must be absolute.
pub fn mounted_at(path: &Path) -> Result<Option<Mounted>> {
    Ok(all_mounted()?.into_iter().rfind(|mounted| mounted.mount_point == path))
}

fn parse_mountinfo(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&b| b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.nth(1)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let is_whole = fields.next()? == b"/";
    let mount_point = unescape(fields.next()?);
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next().unwrap_or_default());
    let options = String::from_utf8_lossy(fields.next().unwrap_or_default());
    let user = options.split(',').find_map(|option| option.strip_prefix("user_id="));
    Some(Mounted {
        id,
        is_whole,
        source: PathBuf::from(OsStr::from_bytes(&source)),
        mount_point: PathBuf::from(OsStr::from_bytes(&mount_point)),
        fs_type,
        user: user.and_then(|user| user.parse().ok()),
        device: (major.parse().ok()?, minor.parse().ok()?),
    })
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = b"36 35 0:48 / /mnt/a\\040b ro,nosuid shared:1 master:2 - fuse.wasmfs /st\\054re ro,user_id=7";
        let mounted = parse_mountinfo(line).unwrap();
        assert_eq!((mounted.id, mounted.user, mounted.is_whole), (36, Some(7), true));
        assert_eq!(mounted.mount_point, Path::new("/mnt/a b"));
        assert_eq!(mounted.store(), Some(Path::new("/st,re")));
        assert_eq!((mounted.fs_type.as_str(), mounted.device), (FS_TYPE, (0, 48)));
        assert_eq!(parse_mountinfo(b""), None);
    }

    #[test]
    fn only_whole_escapes_are_undone() {
        assert_eq!(unescape(b"a\\134b\\04"), b"a\\b\\04");
    }
}
