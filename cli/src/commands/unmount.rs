//! `wasmfs unmount`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use wasmfs_fs::Error as FsError;
use wasmfs_fs::mount::{Mounted, all_mounted, mount_users, mounted_at, unmount};
use wasmfs_store::StoreDir;

use crate::args::{StorePath, absolute, default_mount_point};
use crate::control::Client;
use crate::ui::output;
use crate::ui::{Outcome, print_error};

/// How long the server may take to close the store.
const SERVER_END_TIMEOUT: Duration = Duration::from_secs(10);

/// Unmount the store; fails while a process uses the mount
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs unmount
  wasmfs unmount --lazy")]
pub struct Args {
    /// The mount point [default: where the store is mounted]
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: Option<PathBuf>,
    /// Free the path now, and serve its users until the last one is gone
    #[arg(long)]
    lazy: bool,
}

pub fn run(store: &StorePath, args: Args) -> Result<Outcome> {
    let dir = StoreDir::open_if_there(&store.path).unwrap_or_else(|error| {
        // What can't be read may be mounted all the same.
        print_error(&error.into());
        None
    });
    let mounted = match args.mount_point {
        Some(path) => named(store, dir.as_ref(), absolute(path)?)?,
        None => own(store, dir.as_ref())?,
    };
    match unmount(&mounted, args.lazy) {
        Err(FsError::Busy(path)) => {
            let users = mount_users(mounted.device, None);
            print_error(&FsError::Busy(path).into());
            for user in &users {
                output::note(format_args!(
                    "  process {} ({}): {} {}",
                    user.pid, user.command, user.how, user.path
                ));
            }
            if users.is_empty() {
                output::note(format_args!(
                    "  none that you may look into; perhaps another user's, or a bind mount"
                ));
            }
            return Ok(Outcome::Failed);
        }
        result => result?,
    }
    if let (false, Some(dir)) = (args.lazy, &dir) {
        wait_for_the_end(dir, &mounted);
    }
    output::line(format_args!("{} is unmounted", mounted.mount_point.display()))?;
    Ok(Outcome::Done)
}

/// Waits until the store is closed, or its server only serves mounts that were detached before.
fn wait_for_the_end(dir: &StoreDir, mounted: &Mounted) {
    let serves_others = || {
        let status = Client::status_of(dir).ok().flatten();
        status.is_some_and(|status| {
            !status.mounts.is_empty()
                && status.mounts.iter().all(|m| m.connection != mounted.device.1)
        })
    };
    let deadline = Instant::now() + SERVER_END_TIMEOUT;
    while Instant::now() < deadline && dir.is_in_use() && !serves_others() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The mount at a path that the user named.
fn named(store: &StorePath, dir: Option<&StoreDir>, path: PathBuf) -> Result<Mounted> {
    let mounted = mounted_at(&path)?.filter(Mounted::is_wasmfs);
    let mounted = mounted.ok_or(FsError::NotMounted(path))?;
    // Both were named, and don't go together.
    if store.is_given && is_of(&mounted, store, dir) == Some(false) {
        return Err(of_another_store(mounted));
    }
    Ok(mounted)
}

/// The store's own mount, wherever it is.
fn own(store: &StorePath, dir: Option<&StoreDir>) -> Result<Mounted> {
    let status = dir.map_or(Ok(None), Client::status_of).unwrap_or_else(|error| {
        print_error(&error);
        None
    });
    if let Some(attached) = status.as_ref().and_then(|status| status.attached())
        && let Some(mounted) = attached.in_kernel()?
    {
        return Ok(mounted);
    }
    // Its server is gone: the mount itself says whose it is.
    let all = all_mounted()?;
    let default = default_mount_point()?;
    let is_ours = |m: &&Mounted| m.is_own() && m.is_whole && is_of(m, store, dir) == Some(true);
    let mut ours: Vec<_> = all.iter().filter(is_ours).collect();
    // A bind mount of all of it looks the same: where it is by default first, then what came first.
    ours.sort_by_key(|mounted| mounted.mount_point != default);
    if let Some(mounted) = ours.first() {
        return Ok((*mounted).clone());
    }
    match mounted_at(&default)?.filter(Mounted::is_wasmfs) {
        // A release that didn't note the store made it.
        Some(mounted) if mounted.store().is_none() && !store.is_given => Ok(mounted),
        Some(mounted) if mounted.store().is_some() => Err(of_another_store(mounted)),
        _ => Err(FsError::NotMounted(default).into()),
    }
}

/// Whether a mount is of the store; unknown for one that doesn't say.
fn is_of(mounted: &Mounted, store: &StorePath, dir: Option<&StoreDir>) -> Option<bool> {
    let mounted = mounted.store()?;
    let is_same = || {
        let other = StoreDir::open_if_there(mounted).ok().flatten();
        dir.zip(other).is_some_and(|(dir, other)| dir.is_same(&other))
    };
    Some(mounted == store.path || is_same())
}

fn of_another_store(mounted: Mounted) -> anyhow::Error {
    let store = mounted.store().unwrap_or(&mounted.source).to_owned();
    FsError::OtherStoresMount { mount_point: mounted.mount_point, store }.into()
}
