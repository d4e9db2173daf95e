//! `wasmfs within`, which `capture --dir` starts: a command that sees one directory in the place of
//! another.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{getegid, geteuid};
use wasmfs_store::{Dir, End, Missing, open_way};

use super::capture::{FAILED, not_run};

use crate::ui::{Error, Outcome, print_error};

/// Run a command that sees one directory in the place of another
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub struct Args {
    place: PathBuf,
    shown: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only if the command can't be run.
pub fn run(args: Args) -> Result<Outcome> {
    if let Err(error) = enter(&args.place, &args.shown) {
        print_error(&Error::NoNamespace(format!("{error:#}")).into());
        return Ok(Outcome::Status(FAILED));
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Ok(Outcome::Status(FAILED));
    };
    Ok(not_run(program, Command::new(program).args(rest).exec()))
}

/// Puts this process into a mount namespace of its own, where `shown` is at `place`.
fn enter(place: &Path, shown: &Path) -> Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if uid == 0 {
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    } else {
        let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
        unshare(flags)
            .context("making a namespace, which this system may keep from ordinary users")?;
        // It stays the same user (user_namespaces(7)).
        let write = |name: &str, text: String| {
            fs::write(format!("/proc/self/{name}"), text).with_context(|| format!("writing {name}"))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("{uid} {uid} 1"))?;
        write("gid_map", format!("{gid} {gid} 1"))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("keeping mounts to this namespace")?;
    let showing = || format!("showing a directory at {}", place.display());
    if uid != 0 {
        // In this namespace root's links are nobody's. It is this user's own path, and view.
        return mount_bind(shown, place).with_context(showing);
    }
    let place = open_way(place, Missing::Fail, End::LikeTheWay)?;
    mount_bind(shown, Dir::path_of(&place)).with_context(showing)
}
