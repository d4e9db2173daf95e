//! The command line: which commands there are, and which one is run.

use std::io::Write;

use anyhow::Result;
use clap::{Parser, Subcommand};
use wasmfs_store::DATABASE_LOG_FILTER;

use crate::args::{StoreArg, StorePath};
use crate::commands;
use crate::ui::{Outcome, one_line};

/// Share precompiled WebAssembly as immutable files.
#[derive(Parser, Debug)]
#[command(name = "wasmfs", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    store: StoreArg,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str =
    "Environment: WASMFS_STORE, WASMFS_MOUNT, and WASMFS_LOG (error, warn, info, debug).
Exit status: 0 done, 1 failed, 2 partly done or a wrong command line.
`capture` exits with the status of its host, and `verify` says more in its own help.

Examples:
  wasmfs mount
  wasmfs publish app.cwasm
  ls ~/.cache/wasm-modules";

#[derive(Subcommand, Debug)]
enum Command {
    Mount(commands::mount::Args),
    Unmount(commands::unmount::Args),
    Publish(commands::publish::Args),
    Export(commands::export::Args),
    Import(commands::import::Args),
    Capture(commands::capture::Args),
    Recompile(commands::recompile::Args),
    Engines(commands::engines::Args),
    Default(commands::default::Args),
    Link(commands::link::Args),
    Ls(commands::ls::Args),
    Log(commands::log::Args),
    Show(commands::show::Args),
    Rollback(commands::rollback::Args),
    Rm(commands::rm::Args),
    Gc(commands::gc::Args),
    Verify(commands::verify::Args),
    Pin(commands::pin::PinArgs),
    Unpin(commands::pin::UnpinArgs),
    Status(commands::status::Args),
    Reload(commands::reload::Args),
    Keeper(commands::keeper::Args),
    Worker(commands::worker::Args),
    Within(commands::within::Args),
}

/// Runs a command.
pub fn run(cli: Cli) -> Result<Outcome> {
    let serves = matches!(&cli.command, Command::Keeper(_) | Command::Worker(_));
    start_logging(if serves { "info" } else { "warn" });
    let named = StorePath { path: cli.store.dir()?, is_given: cli.store.is_given() };
    let store = &named.path;
    match cli.command {
        Command::Mount(args) => commands::mount::run(named.to_make()?, args),
        Command::Unmount(args) => commands::unmount::run(&named, args),
        Command::Publish(args) => commands::publish::run(named.to_make()?, args),
        Command::Export(args) => commands::export::run(store, args),
        Command::Import(args) => commands::import::run(named.to_make()?, args),
        Command::Capture(args) => commands::capture::run(named.to_make()?, args),
        Command::Recompile(args) => commands::recompile::run(store, args),
        Command::Engines(args) => commands::engines::run(named.to_make()?, args),
        Command::Default(args) => commands::default::run(store, args),
        Command::Link(args) => commands::link::run(store, args),
        Command::Ls(args) => commands::ls::run(store, args),
        Command::Log(args) => commands::log::run(store, args),
        Command::Show(args) => commands::show::run(store, args),
        Command::Rollback(args) => commands::rollback::run(store, args),
        Command::Rm(args) => commands::rm::run(store, args),
        Command::Gc(args) => commands::gc::run(store, args),
        Command::Verify(args) => commands::verify::run(store, args),
        Command::Pin(args) => commands::pin::pin(store, args),
        Command::Unpin(args) => commands::pin::unpin(store, args),
        Command::Status(args) => commands::status::run(store, args),
        Command::Reload(args) => commands::reload::run(store, args),
        Command::Keeper(args) => commands::keeper::run(store, args),
        Command::Worker(args) => commands::worker::run(store, args),
        Command::Within(args) => commands::within::run(args),
    }
}

/// Messages of wasmfs's own crates from `level` up, of others from warnings
/// up, unless `WASMFS_LOG` says otherwise. What the database logs is for its developers.
fn start_logging(level: &str) {
    let filter =
        format!("warn,{DATABASE_LOG_FILTER},wasmfs={level},wasmfs_fs={level},wasmfs_store={level}");
    let mut logger =
        env_logger::Builder::from_env(env_logger::Env::new().filter_or("WASMFS_LOG", filter));
    // As it is by itself, with what is said escaped like all that is printed.
    logger.format(|out, record| {
        let (time, level, target) = (out.timestamp(), record.level(), record.target());
        let text = one_line(&record.args().to_string());
        writeln!(out, "[{time} {level:<5} {target}] {text}")
    });
    logger.init();
}
