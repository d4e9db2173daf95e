use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Outcome;
use crate::control::MountRequest;
use crate::control::client::Client;
use crate::failure::Failure;
use crate::output;
use crate::paths::MountArg;
use crate::serve::{Service, start};

/// Mount the store, and serve it in the background
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    mount: MountArg,
    /// Serve in this process, with the log on standard error
    #[arg(long)]
    foreground: bool,
    /// Let other users look into the mount
    #[arg(long)]
    allow_other: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let mount_point = args.mount.path()?;
    let service = Service {
        store: store.to_owned(),
        mount_point: mount_point.clone(),
        allow_other: args.allow_other,
    };
    // A server that is there serves a detached mount, or the one that is asked for.
    while let Some((server, status)) = Client::reach(store)? {
        if args.foreground {
            if let Some(mount_point) = status.mount_point() {
                return Err(wasmfs_fs::Error::MountedElsewhere(mount_point).into());
            }
            return Err(Failure::new(
                "another server has the store, for users of a mount that was detached",
                "wait until they end (`wasmfs status`), or mount without --foreground",
            )
            .into());
        }
        let request =
            MountRequest { mount_point: mount_point.clone(), allow_other: args.allow_other };
        match server.mount(&request) {
            Ok(_) => return mounted(store, &mount_point),
            Err(e) if Failure::of(&e).again => std::thread::sleep(Duration::from_millis(20)),
            Err(e) => return Err(e),
        }
    }
    if args.foreground {
        crate::serve::run(&service, None, || Ok(()))?;
        return Ok(Outcome::Done);
    }
    start(&service)?;
    mounted(store, &mount_point)
}

fn mounted(store: &Path, mount_point: &Path) -> Result<Outcome> {
    output::line(format_args!("{} is mounted at {}", store.display(), mount_point.display()))?;
    Ok(Outcome::Done)
}
