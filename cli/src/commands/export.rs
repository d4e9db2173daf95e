//! `wasmfs export`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use wasmfs_store::maintenance::{self as archive, Archived};
use wasmfs_store::{Dir, Missing, open_parent};

use crate::client::StoreClient;
use crate::ui::output;
use crate::ui::progress;
use crate::ui::{Error, Outcome};

/// Write the whole store to one file, as a backup or for another machine
///
/// The file is a tar file with the history and every payload. The store may be in use. `wasmfs
/// import FILE` makes an empty store an exact copy, and adds to any other store what it lacks.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs export backup.tar
  wasmfs export - --zstd | ssh there wasmfs import -")]
pub struct Args {
    /// The file, which must not exist; `-` is standard output
    file: PathBuf,
    /// Compress it with zstd
    #[arg(long)]
    zstd: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(serialize_with = "output::path")]
    file: PathBuf,
    #[serde(flatten)]
    archived: Archived,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let to_output = args.file == Path::new("-");
    if to_output && io::stdout().is_terminal() {
        let message = "refusing to write an archive to a terminal";
        return Err(Error::usage(message, "name a file, or send the output into one").into());
    }
    if to_output && args.json {
        let hint = "name a file, or leave --json out";
        return Err(Error::usage("standard output is the archive", hint).into());
    }
    let client = StoreClient::open(store)?;
    if to_output {
        write(&client, io::stdout().lock(), args.zstd)?;
        client.close()?;
        return Ok(Outcome::Done);
    }
    if args.file.exists() {
        return Err(Error::FileExists(args.file).into());
    }
    // Under its name there is a whole archive, or none.
    let making = || format!("making {}", args.file.display());
    let absolute = std::path::absolute(&args.file).with_context(making)?;
    let (parent, name) = open_parent(&absolute, Missing::Fail)?;
    let directory = Dir::path_of(&parent);
    let new = tempfile::NamedTempFile::new_in(&directory).with_context(making)?;
    let archived = write(&client, new.as_file(), args.zstd)?;
    client.close()?;
    new.as_file().sync_all().with_context(|| format!("writing {}", args.file.display()))?;
    let kept = new.persist_noclobber(directory.join(name));
    kept.map_err(|e| e.error).with_context(|| format!("making {}", args.file.display()))?;
    let report = Report { file: args.file, archived };
    if args.json {
        output::json(&report)?;
    } else {
        let Archived { changes, payloads, bytes, .. } = archived;
        let size = output::size(bytes);
        output::line(format_args!(
            "{}: {changes} changes, {payloads} payloads of {size}",
            report.file.display()
        ))?;
    }
    Ok(Outcome::Done)
}

fn write(client: &StoreClient, out: impl Write, zstd: bool) -> Result<Archived> {
    let bar = progress::bar(0, true);
    let mut progress = |done, total: Option<u64>| {
        bar.set_length(total.unwrap_or(done));
        bar.set_position(done);
    };
    let mut failed = None;
    let mut inside = |sha256: &_| {
        client.payload(sha256).map_err(|e| {
            failed = Some(e);
            wasmfs_store::Error::NoPayload(*sha256)
        })
    };
    let archived = if zstd {
        let mut encoder = zstd::Encoder::new(out, 0).context("compressing")?;
        let archived = archive::export(client.dir(), &mut inside, &mut encoder, &mut progress);
        archived.and_then(|archived| {
            let flushed = encoder.finish().and_then(|mut out| out.flush());
            flushed.map_err(wasmfs_store::Error::Output).map(|()| archived)
        })
    } else {
        archive::export(client.dir(), &mut inside, io::BufWriter::new(out), &mut progress)
    };
    bar.finish_and_clear();
    match (archived, failed) {
        (Ok(archived), _) => Ok(archived),
        (Err(_), Some(cause)) => Err(cause),
        (Err(e), None) => Err(e.into()),
    }
}
