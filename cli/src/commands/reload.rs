//! `wasmfs reload`.

use std::path::Path;

use anyhow::Result;
use wasmfs_store::StoreDir;

use crate::control::Client;
use crate::control::requests::Reload;
use crate::ui::output;
use crate::ui::{Error, Outcome};

/// Replace the running server by the installed program, while hosts run
///
/// It needs Linux 6.9. If the new program can't serve, the old server stays. The keeper is not
/// replaced.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs reload")]
pub struct Args {}

pub fn run(store: &Path, _: Args) -> Result<Outcome> {
    let dir = StoreDir::open(store)?;
    let Some((client, _)) = Client::reach(&dir)? else {
        return Err(Error::NotServing(store.to_owned()).into());
    };
    let old = client.ask(&Reload)?;
    // Its successor says how long that took, once its keeper has told it.
    let now = loop {
        match Client::status_of(&dir)? {
            Some(status) if status.worker.replacements > old.replacements => break status,
            Some(status) if status.worker.pid == old.pid => return Err(stayed("")),
            Some(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            None => return Err(Error::ServerEnded.into()),
        }
    };
    if let Some(why) = now.keeper.and_then(|keeper| keeper.reload_failed) {
        return Err(stayed(&format!(": {why}")));
    }
    let worker = now.worker;
    let pause = worker.last_pause_ms.unwrap_or_default();
    output::line(format_args!(
        "process {} serves now, with wasmfs {}; requests waited for {pause:.1} ms at most",
        worker.pid, worker.version
    ))?;
    Ok(Outcome::Done)
}

/// What is on disk looked as if it could serve, and could not.
fn stayed(why: &str) -> anyhow::Error {
    Error::ReloadFailed(why.to_owned()).into()
}
