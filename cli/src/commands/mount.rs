use std::path::Path;

use anyhow::Result;

use super::Outcome;
use crate::access::Access;
use crate::control::MountRequest;
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
    // Waits for a command that has the store open, and finds a server that serves a detached mount.
    let access = Access::open_or_create(store)?;
    if let Access::Server(server) = &access {
        server.mount(&MountRequest {
            mount_point: mount_point.clone(),
            allow_other: args.allow_other,
        })?;
    } else {
        access.close()?;
        if args.foreground {
            crate::serve::run(&service, None, || Ok(()))?;
            return Ok(Outcome::Done);
        }
        start(&service)?;
    }
    println!("{} is mounted at {}", store.display(), mount_point.display());
    Ok(Outcome::Done)
}
