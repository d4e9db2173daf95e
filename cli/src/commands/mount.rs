use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bytesize::ByteSize;

use wasmfs_fs::mount::Options;

use super::Outcome;
use crate::control::MountRequest;
use crate::control::transport::{Client, was_lost};
use crate::daemon::keeper::{Service, become_keeper, start};
use crate::paths::MountArg;
use crate::ui::diagnostics::Failure;
use crate::ui::output;

/// Mount the store, and serve it in the background
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    mount: MountArg,
    /// Stay in the foreground, with the log on standard error
    #[arg(long)]
    foreground: bool,
    #[command(flatten)]
    options: OptionArgs,
}

/// How the mount is made
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct OptionArgs {
    /// Let other users look into the mount
    #[arg(long)]
    allow_other: bool,
    /// Let the kernel read files by itself, so that what is open or mapped needs no server (as
    /// root, Linux 6.9)
    #[arg(long)]
    passthrough: bool,
    /// Serve what is opened from memory alone, so that the store's disk has no part in it any more;
    /// at most so much (1G, 512M)
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "1GiB")]
    in_memory: Option<ByteSize>,
}

impl From<OptionArgs> for Options {
    fn from(args: OptionArgs) -> Options {
        let OptionArgs { allow_other, passthrough, in_memory } = args;
        Options { allow_other, passthrough, in_memory: in_memory.map(|size| size.0) }
    }
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let mount_point = args.mount.path()?;
    let service = Service {
        store: store.to_owned(),
        mount_point: mount_point.clone(),
        options: args.options.into(),
    };
    // Whether it was asked, and went away before it answered.
    let mut asked = false;
    // A server that is there serves a detached mount, or the one that is asked for, or has lost
    // its keeper.
    while let Some((server, status)) = Client::reach(store)? {
        let becomes_keeper = args.foreground || status.keeper.is_none();
        match status.mount_point() {
            Some(attached) if attached != mount_point => {
                return Err(wasmfs_fs::Error::MountedElsewhere(attached).into());
            }
            Some(_) if asked => return mounted(store, &service),
            Some(attached) if !becomes_keeper => {
                return Err(wasmfs_fs::Error::AlreadyMounted(attached).into());
            }
            _ => {}
        }
        if becomes_keeper {
            break;
        }
        let request = MountRequest { mount_point: mount_point.clone(), options: service.options };
        match server.mount(&request) {
            Ok(_) => return mounted(store, &service),
            Err(e) if Failure::of(&e).again || was_lost(&e) => {
                asked |= was_lost(&e);
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e),
        }
    }
    if args.foreground {
        become_keeper(&service)?;
    }
    start(&service)?;
    mounted(store, &service)
}

fn mounted(store: &Path, service: &Service) -> Result<Outcome> {
    let (mount_point, wanted) = (&service.mount_point, service.options);
    // A mount stays what it was made; and an older server knows of fewer ways.
    if (wanted.passthrough || wanted.in_memory.is_some())
        && let Some(status) = Client::status_of(store)?
        && let Some(mount) = status.mounts.iter().find(|mount| mount.attached)
        && (wanted.passthrough && !mount.options.passthrough
            || wanted.in_memory.is_some() && wanted.in_memory != mount.options.in_memory)
    {
        let message =
            format!("{} is mounted, but not in the way that was asked for", mount_point.display());
        let hint = "`wasmfs unmount` it when nobody uses it, and mount it again";
        return Err(Failure::new(message, hint).into());
    }
    output::line(format_args!("{} is mounted at {}", store.display(), mount_point.display()))?;
    Ok(Outcome::Done)
}
