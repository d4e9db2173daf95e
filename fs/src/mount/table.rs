//! What is mounted where, by the kernel's own table.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

/// The type that a mount shows in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.wasmfs";

/// What is mounted at a path, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The path, with mountinfo's escapes undone.
    pub mount_point: PathBuf,
    /// The file system type.
    pub fs_type: String,
    /// The device number, major and minor; for FUSE the minor is the
    /// connection's name under `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// The user whose server answers it, of a FUSE mount.
    pub user: Option<u32>,
}

/// The topmost mount at exactly `path`, which must be absolute.
pub fn mounted_at(path: &Path) -> Result<Option<Mounted>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).at("reading", table)?;
    let lines = text.split(|&b| b == b'\n').rev();
    Ok(lines.filter_map(parse_mountinfo).find(|m| m.mount_point == path))
}

fn parse_mountinfo(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = unescape(fields.nth(1)?);
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let options = String::from_utf8_lossy(fields.nth(1).unwrap_or_default());
    let user = options.split(',').find_map(|option| option.strip_prefix("user_id="));
    Some(Mounted {
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
        let line = b"36 35 0:48 / /mnt/a\\040b ro,nosuid shared:1 master:2 - fuse.wasmfs wasmfs ro";
        let mounted = parse_mountinfo(line).unwrap();
        assert_eq!(mounted.mount_point, Path::new("/mnt/a b"));
        assert_eq!((mounted.fs_type.as_str(), mounted.device), (FS_TYPE, (0, 48)));
        assert_eq!(parse_mountinfo(b""), None);
    }

    #[test]
    fn only_whole_escapes_are_undone() {
        assert_eq!(unescape(b"a\\134b\\04"), b"a\\b\\04");
    }
}
