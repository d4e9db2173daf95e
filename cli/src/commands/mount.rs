//! `wasmfs mount`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use wasmfs_store::StoreDir;

use crate::args::{MountArg, OptionArgs};
use crate::control::requests::Mount;
use crate::control::{Client, MountStatus};
use crate::daemon::keeper::{Service, become_keeper, start};
use crate::ui::output;
use crate::ui::{Error, Outcome, is_ending, is_gone, was_lost};

/// How long a server may take to count a mount among its own.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Mount the store, and serve it in the background
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs mount
  wasmfs mount /srv/modules --allow-other
  wasmfs mount --in-memory=2G")]
pub struct Args {
    #[command(flatten)]
    mount: MountArg,
    /// Stay in the foreground, with the log on standard error
    #[arg(long)]
    foreground: bool,
    #[command(flatten)]
    options: OptionArgs,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let mount_point = args.mount.to_mount()?;
    let service = Service {
        store: store.to_owned(),
        mount_point: mount_point.clone(),
        options: args.options.into(),
    };
    // Whether it was asked, and went away before it answered.
    let mut asked = false;
    let dir = StoreDir::open_if_there(store)?;
    // A server that is there serves a detached mount, or the one that is asked for, or has lost
    // its keeper.
    while let Some((server, status)) = dir.as_ref().map_or(Ok(None), Client::reach)? {
        let becomes_keeper = args.foreground || status.keeper.is_none();
        match status.mount_point() {
            Some(attached) if attached != mount_point => {
                return Err(wasmfs_fs::Error::MountedElsewhere(attached.to_owned()).into());
            }
            Some(_) if asked => return mounted(store, &service),
            Some(attached) if !becomes_keeper => {
                return Err(wasmfs_fs::Error::AlreadyMounted(attached.to_owned()).into());
            }
            _ => {}
        }
        if becomes_keeper {
            break;
        }
        let request = Mount { mount_point: mount_point.clone(), options: service.options };
        match server.ask(&request) {
            Ok(_) => return mounted(store, &service),
            Err(e) if is_ending(&e) || is_gone(&e) => {
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
    if let Some(mount) = shown(&StoreDir::open(store)?)?
        && (wanted.passthrough && !mount.options.passthrough
            || wanted.in_memory.is_some() && wanted.in_memory != mount.options.in_memory)
    {
        return Err(Error::MountedDifferently(mount_point.clone()).into());
    }
    output::line(format_args!("{} is mounted at {}", store.display(), mount_point.display()))?;
    Ok(Outcome::Done)
}

/// The mount as its server says it is. The kernel is answered a moment before the server counts it
/// among its mounts; whoever asks for the status next is to see it.
fn shown(dir: &StoreDir) -> Result<Option<MountStatus>> {
    let deadline = Instant::now() + SHOWN_TIMEOUT;
    loop {
        let status = Client::status_of(dir)?;
        match status.and_then(|status| status.attached().cloned()) {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            mount => return Ok(mount),
        }
    }
}
