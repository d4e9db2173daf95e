//! Symbolic links into a mount.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use wasmfs_store::{EngineInfo, Key, RESERVED, Sha};

/// Where a link to a key leads: to its plain name, or to an engine's view.
pub fn target(mount_point: &Path, engine: Option<&str>, key: &Key) -> PathBuf {
    match engine {
        None => mount_point.join(key.as_str()),
        Some(name) => mount_point.join(RESERVED).join("engines").join(name).join(key.as_str()),
    }
}

/// The name of an engine's view that links go through: an alias, so that they follow where it
/// moves, if that is how the user called it.
pub fn view_name<'a>(engine: &'a EngineInfo, called: &'a str) -> &'a str {
    if engine.aliases.iter().any(|alias| alias == called) { called } else { &engine.label }
}

/// Whether a file with these bytes is to be found in the mount at `target`.
pub fn leads_to(target: &Path, sha256: &Sha) -> bool {
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(target, "user.wasmfs.sha256", &mut value[..]);
    length.is_ok_and(|length| value[..length] == *sha256.hex().as_bytes())
}

/// Where `path` leads, if it is a link into the mount.
pub fn own(path: &Path, mount_point: &Path) -> Option<PathBuf> {
    fs::read_link(path).ok().filter(|target| target.starts_with(mount_point))
}

/// Whether `path` is a link that leads through some mount's engines or to a
/// file of a mount: what `wasmfs link` made.
pub fn leads_into_a_mount(path: &Path) -> bool {
    let through_engines = fs::read_link(path)
        .is_ok_and(|target| target.components().any(|part| part.as_os_str() == RESERVED));
    through_engines || rustix::fs::getxattr(path, "user.wasmfs.key", &mut [0u8; 0][..]).is_ok()
}

/// Puts a link in the place of what is there, so that whoever opens it finds
/// the one or the other.
pub fn replace(place: &Path, target: &Path) -> io::Result<()> {
    let aside = place.with_file_name(format!(".wasmfs-link.{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    symlink(target, &aside)?;
    fs::rename(&aside, place).inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}
