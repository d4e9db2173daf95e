//! `wasmfs unmount`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use wasmfs_fs::Error as FsError;
use wasmfs_fs::mount::mount_users;
use wasmfs_fs::mount::{FS_TYPE, mounted_at, unmount};
use wasmfs_store::Store;

use crate::args::MountArg;
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
    #[command(flatten)]
    mount: MountArg,
    /// Free the path now, and serve its users until the last one is gone
    #[arg(long)]
    lazy: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let mount_point = match args.mount.given()? {
        Some(path) => path,
        // The store's own mount, wherever it is.
        None => {
            let status = Client::status_of(store).unwrap_or_else(|error| {
                print_error(&error);
                None
            });
            let attached = status.and_then(|status| status.mount_point());
            attached.map_or_else(|| args.mount.path(), Ok)?
        }
    };
    let Some(mounted) = mounted_at(&mount_point)?.filter(|m| m.fs_type == FS_TYPE) else {
        return Err(FsError::NotMounted(mount_point).into());
    };
    match unmount(&mount_point, args.lazy) {
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
    if !args.lazy {
        // Until the store is closed, or its server only serves mounts that were detached before.
        let serves_others = || {
            let status = Client::status_of(store).ok().flatten();
            status.is_some_and(|status| {
                !status.mounts.is_empty()
                    && status.mounts.iter().all(|m| m.connection != mounted.device.1)
            })
        };
        let deadline = Instant::now() + SERVER_END_TIMEOUT;
        while Instant::now() < deadline && Store::is_in_use(store) && !serves_others() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    output::line(format_args!("{} is unmounted", mount_point.display()))?;
    Ok(Outcome::Done)
}
