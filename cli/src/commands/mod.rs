//! The command line: a file a command, each with its arguments.

mod capture;
mod default;
mod engines;
mod export;
mod gc;
mod import;
mod keeper;
mod link;
mod log;
mod ls;
mod mount;
mod pin;
mod publish;
mod recompile;
mod reload;
mod rm;
mod rollback;
mod show;
mod status;
mod unmount;
mod verify;
mod within;
mod worker;

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::{Parser, Subcommand};
use wasmfs_store::Key;

use crate::client::access::Access;
use crate::control::changes::VersionOf;

/// Share precompiled WebAssembly as immutable files.
#[derive(Parser, Debug)]
#[command(name = "wasmfs", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    store: crate::paths::StoreArg,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str =
    "Environment: WASMFS_STORE, WASMFS_MOUNT, and WASMFS_LOG (error, warn, info, debug).
Exit status: 0 done, 1 failed, 2 partly done or a wrong command line; of `capture`, the command's.";

#[derive(Subcommand, Debug)]
enum Command {
    Mount(mount::Args),
    Unmount(unmount::Args),
    Publish(publish::Args),
    Export(export::Args),
    Import(import::Args),
    Capture(capture::Args),
    Recompile(recompile::Args),
    Engines(engines::Args),
    Default(default::Args),
    Link(link::Args),
    Ls(ls::Args),
    Log(log::Args),
    Show(show::Args),
    Rollback(rollback::Args),
    Rm(rm::Args),
    Gc(gc::Args),
    Verify(verify::Args),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Status(status::Args),
    Reload(reload::Args),
    Keeper(keeper::Args),
    Worker(worker::Args),
    Within(within::Args),
}

/// How a command ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// Some of it was.
    Partly,
    /// None of it was, and the user was told why.
    Failed,
    /// As a command that it ran did.
    Status(u8),
}

/// Runs a command.
pub fn run(cli: Cli) -> Result<Outcome> {
    let serves = matches!(&cli.command, Command::Keeper(_) | Command::Worker(_));
    start_logging(if serves { "info" } else { "warn" });
    let store = cli.store.dir()?;
    match cli.command {
        Command::Mount(args) => mount::run(&store, args),
        Command::Unmount(args) => unmount::run(&store, args),
        Command::Publish(args) => publish::run(&store, args),
        Command::Export(args) => export::run(&store, args),
        Command::Import(args) => import::run(&store, args),
        Command::Capture(args) => capture::run(&store, args),
        Command::Recompile(args) => recompile::run(&store, args),
        Command::Engines(args) => engines::run(&store, args),
        Command::Default(args) => default::run(&store, args),
        Command::Link(args) => link::run(&store, args),
        Command::Ls(args) => ls::run(&store, args),
        Command::Log(args) => log::run(&store, args),
        Command::Show(args) => show::run(&store, args),
        Command::Rollback(args) => rollback::run(&store, args),
        Command::Rm(args) => rm::run(&store, args),
        Command::Gc(args) => gc::run(&store, args),
        Command::Verify(args) => verify::run(&store, args),
        Command::Pin(args) => pin::pin(&store, args),
        Command::Unpin(args) => pin::unpin(&store, args),
        Command::Status(args) => status::run(&store, args),
        Command::Reload(args) => reload::run(&store, args),
        Command::Keeper(args) => keeper::run(&store, args),
        Command::Worker(args) => worker::run(&store, args),
        Command::Within(args) => within::run(args),
    }
}

/// Messages of wasmfs's own crates from `level` up, of others from warnings
/// up, unless `WASMFS_LOG` says otherwise. sled's and fuser's own levels are
/// for their developers.
fn start_logging(level: &str) {
    let filter = format!("warn,sled=error,wasmfs={level},wasmfs_fs={level},wasmfs_store={level}");
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("WASMFS_LOG", filter)).init();
}

/// `KEY` or `KEY@VERSION`. A key may have an '@' of its own: if there is a key
/// of that very name, it is meant.
#[derive(Clone, Debug)]
struct KeyVersion {
    whole: Key,
    split: Option<(Key, u64)>,
}

impl FromStr for KeyVersion {
    type Err = wasmfs_store::Error;

    fn from_str(text: &str) -> Result<KeyVersion, Self::Err> {
        let digits = |n: &&str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        let split = text.rsplit_once('@').filter(|(_, n)| digits(n));
        let split = split.and_then(|(key, n)| Some((Key::new(key).ok()?, n.parse().ok()?)));
        Ok(KeyVersion { whole: Key::new(text)?, split })
    }
}

impl KeyVersion {
    /// The key and the version that are meant.
    fn resolve(self, access: &Access) -> Result<VersionOf> {
        Ok(match self.split {
            Some((key, version)) if !has_key(access, &self.whole)? => {
                VersionOf { key, version: Some(version) }
            }
            _ => VersionOf { key: self.whole, version: None },
        })
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

/// Whether there is, or was, such a key.
fn has_key(access: &Access, key: &Key) -> Result<bool> {
    match access.versions(key) {
        Ok(_) => Ok(true),
        Err(e) if crate::ui::diagnostics::is_no_key(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Says that a change is committed but that the kernel could not be told yet.
fn warn_if_not_visible(visible: bool) {
    if !visible {
        crate::ui::output::note(format_args!(
            "wasmfs: committed, but not visible in the mount yet: a process holds a directory of it"
        ));
        crate::ui::output::note(format_args!(
            "hint: it will be as soon as that process is answered; nothing needs to be done"
        ));
    }
}
