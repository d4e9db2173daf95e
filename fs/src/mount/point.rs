//! Mount points: readied, mounted and unmounted, as root by mount(2), else through `fusermount3`.
//!
//! The directory that a mount point is in is opened once, and everything goes through its
//! descriptor: whoever owns the path can't turn it meanwhile.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use wasmfs_store::{Dir, End, Missing, open_parent, open_way};

use super::fusermount;
use super::table::{FS_TYPE, Mounted, all_mounted, mounted_at};
use crate::error::{Error, IoContext, Result, chain};

/// How a mount is made, which it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether other users may look in.
    pub allow_other: bool,
    /// Whether the kernel reads files by itself, without the server (FUSE passthrough, Linux 6.9).
    #[serde(default)]
    pub passthrough: bool,
    /// Whether payloads are served from memory alone, and how many bytes they may take there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_memory: Option<u64>,
}

/// Makes `path` absolute and resolves its symbolic links, as far as it exists. From then on it leads
/// through none. Asks no server.
///
/// # Errors
/// Those of [`open_way`]: for a symbolic link of another user's, above all.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    // Without a slash at the end.
    let path: PathBuf = std::path::absolute(path).at("resolving", path)?.components().collect();
    for existing in path.ancestors() {
        match open_way(existing, Missing::Fail, End::LikeTheWay) {
            Ok(found) => {
                let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
                return Ok(where_is(&found, existing)?.join(rest).components().collect());
            }
            Err(wasmfs_store::Error::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(path)
}

/// The path of what a descriptor is of, as the kernel calls it now.
fn where_is(descriptor: &OwnedFd, path: &Path) -> Result<PathBuf> {
    fs::read_link(Dir::path_of(descriptor)).at("looking for", path)
}

/// The directory that a mount point is in, open, and the name of the mount point.
struct Place {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    fn open(path: &Path) -> Result<Place> {
        let (parent, name) = open_parent(path, Missing::Fail)?;
        Ok(Place { parent, name, path: path.to_owned() })
    }

    /// What is mounted there, if anything is.
    fn mounted(&self) -> Result<Option<Mounted>> {
        mounted_at(&where_is(&self.parent, &self.path)?.join(&self.name))
    }

    /// The root of what is mounted there, or the directory itself, for nothing but to be looked at.
    fn top(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.parent, &self.name, flags, Mode::empty()) {
            Err(Errno::NOTDIR) => Err(Error::MountPointNotADirectory(self.path.clone())),
            opened => opened.at("opening", &self.path),
        }
    }

    fn unmount(&self, lazy: bool) -> Result<()> {
        if geteuid().is_root() {
            let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
            // By the directory it is in: a descriptor of the mount itself would keep it busy.
            let path = Dir::path_of(&self.parent).join(&self.name);
            match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) => return Err(Error::Busy(self.path.clone())),
                Err(Errno::PERM) => {}
                result => return result.at("unmounting", &self.path),
            }
        }
        fusermount::unmount(&self.path, lazy)
    }
}

/// Readies a mount point: made if missing, cleared if a dead mount of ours is on it, refused if it
/// holds anything or is mounted already. What is made for a mount that others may look into lets
/// them through.
pub fn prepare(mount_point: &Path, options: &Options) -> Result<()> {
    let missing = match options.allow_other {
        true => Missing::MakeExactly(0o755),
        false => Missing::Make(0o700),
    };
    drop(open_way(mount_point, missing, End::NoLink)?);
    let place = Place::open(mount_point)?;
    while let Some(mounted) = place.mounted()?.filter(Mounted::is_wasmfs) {
        // A question that the kernel can't answer from what it remembers of a dead server.
        match rustix::fs::fstatvfs(place.top()?) {
            Err(Errno::NOTCONN) => {
                check_own(&mounted)?;
                log::info!("{}: clearing a dead mount", mount_point.display());
                place.unmount(true)?;
            }
            _ => return Err(Error::AlreadyMounted(mount_point.to_owned())),
        }
    }
    let top = place.top()?;
    let mut entries = fs::read_dir(Dir::path_of(&top)).at("reading", mount_point)?;
    if let Some(entry) = entries.next() {
        let found = entry.at("reading", mount_point)?.file_name().to_string_lossy().into_owned();
        return Err(Error::MountPointNotEmpty { mount_point: mount_point.to_owned(), found });
    }
    Ok(())
}

/// Refuses the mount of another user.
fn check_own(mounted: &Mounted) -> Result<()> {
    match mounted.user {
        Some(owner) if owner != geteuid().as_raw() => {
            Err(Error::ForeignMount { mount_point: mounted.mount_point.clone(), owner })
        }
        _ => Ok(()),
    }
}

/// Mounts the store at `store` on the directory `mount_point`, and returns the descriptor of
/// `/dev/fuse` to serve it by, and what is mounted. Always `ro,nosuid,nodev`, never `noexec`: hosts
/// map pages executable. One process at a time mounts on a directory; another one is waited for as
/// long as `patience`.
pub(crate) fn mount(
    store: &Path,
    mount_point: &Path,
    allow_other: bool,
    patience: Duration,
) -> Result<(OwnedFd, Mounted)> {
    let place = Place::open(mount_point)?;
    let directory = place.top()?;
    if place.mounted()?.is_some_and(|mounted| mounted.is_wasmfs()) {
        return Err(Error::AlreadyMounted(mount_point.to_owned()));
    }
    let _turn = take_turn(&directory, mount_point, patience)?;
    if place.mounted()?.is_some_and(|mounted| mounted.is_wasmfs()) {
        return Err(Error::AlreadyMounted(mount_point.to_owned()));
    }
    let before: Vec<_> = all_mounted()?.iter().map(|mounted| mounted.id).collect();
    let device = mount_on(store, &directory, mount_point, allow_other)?;
    // It has to be where it was meant to be: fusermount3 goes by the path once more.
    match place.mounted()? {
        Some(mounted)
            if mounted.is_own()
                && mounted.source == store
                && where_is(&directory, mount_point)? == mounted.mount_point =>
        {
            Ok((device, mounted))
        }
        _ => {
            drop(device);
            remove_stray(store, &before);
            Err(Error::MountPointMoved(mount_point.to_owned()))
        }
    }
}

/// Removes the mount of a store that was not there `before`, and isn't where it was meant to be:
/// nobody serves it.
fn remove_stray(store: &Path, before: &[u64]) {
    let is_stray = |mounted: &Mounted| {
        mounted.is_own() && mounted.source == store && !before.contains(&mounted.id)
    };
    let stray = all_mounted().ok().and_then(|all| all.into_iter().rfind(is_stray));
    if let Some(stray) = stray
        && let Err(e) = unmount(&stray, true)
    {
        log::error!("unmounting {}: {}", stray.mount_point.display(), chain(&e));
    }
}

/// The right to mount on a directory, until the result is dropped: an flock(2) on it.
fn take_turn(directory: &OwnedFd, mount_point: &Path, patience: Duration) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(directory, ".", flags, Mode::empty()).at("opening", mount_point)?;
    let deadline = Instant::now() + patience;
    loop {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::MountPointInUse(mount_point.to_owned()));
            }
            locked => {
                locked.at("locking", mount_point)?;
                return Ok(opened.into());
            }
        }
    }
}

fn mount_on(
    store: &Path,
    directory: &OwnedFd,
    mount_point: &Path,
    allow_other: bool,
) -> Result<OwnedFd> {
    if geteuid().is_root() {
        match mount_directly(store, directory, mount_point, allow_other) {
            // Root of a container without CAP_SYS_ADMIN.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
            result => return result,
        }
    }
    fusermount::mount(store, mount_point, allow_other)
}

fn mount_directly(
    store: &Path,
    directory: &OwnedFd,
    mount_point: &Path,
    allow_other: bool,
) -> Result<OwnedFd> {
    let device = Path::new("/dev/fuse");
    let fuse = OpenOptions::new().read(true).write(true).open(device).at("opening", device)?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        fuse.as_raw_fd(),
        geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if allow_other { ",allow_other" } else { "" },
    );
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
    let data = text(data.as_bytes()).at("mounting", mount_point)?;
    let source = text(store.as_os_str().as_bytes()).at("mounting", mount_point)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(&*source, Dir::path_of(directory), FS_TYPE, flags, &*data)
        .at("mounting", mount_point)?;
    Ok(fuse.into())
}

/// Unmounts `mounted`, if that is still what is mounted at its path. With `lazy` it disappears at
/// once, and whoever has something of it open or mapped is served on.
///
/// # Errors
/// [`Error::ForeignMount`] for another user's, [`Error::NotMounted`] if something else is there by
/// now, [`Error::Busy`].
pub fn unmount(mounted: &Mounted, lazy: bool) -> Result<()> {
    check_own(mounted)?;
    let place = Place::open(&mounted.mount_point)?;
    match place.mounted()? {
        Some(now) if now.is_wasmfs() && now.device == mounted.device => place.unmount(lazy),
        _ => Err(Error::NotMounted(mounted.mount_point.clone())),
    }
}

/// Takes the mount with this device number from its path, if it is there. Nobody could be told of
/// an error but the log.
pub(crate) fn detach(mount_point: &Path, device: (u32, u32)) {
    let mounted = match mounted_at(mount_point) {
        Ok(Some(mounted)) if mounted.device == device => mounted,
        Ok(_) => return,
        Err(e) => return log::error!("unmounting {}: {}", mount_point.display(), chain(&e)),
    };
    match unmount(&mounted, true) {
        Ok(()) | Err(Error::NotMounted(_)) => {}
        Err(e) => log::error!("unmounting {}: {}", mount_point.display(), chain(&e)),
    }
}
