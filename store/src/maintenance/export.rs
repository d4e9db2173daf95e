//! Writing an archive of a store that may be in use.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;

use super::archive::{Archived, HashingReader, Progress, ROOT, damaged, object_name};
use crate::disk::clock::now;
use crate::disk::names::{HISTORY, SETTINGS};
use crate::error::{Error, Result};
use crate::history::scan::Listing;
use crate::payload::Objects;
use crate::settings::read_settings;
use crate::store_dir::StoreDir;
use crate::types::Sha;

/// How often an export looks for what was collected under it.
const EXPORT_ATTEMPTS: usize = 5;

/// Writes an archive of the store in `dir`, which may be in use. Payloads that are kept inside
/// the catalogue are asked of `inside`.
pub fn export(
    dir: &StoreDir,
    inside: &mut dyn FnMut(&Sha) -> Result<Vec<u8>>,
    out: impl Write,
    progress: Progress<'_>,
) -> Result<Archived> {
    let mut tar = tar::Builder::new(out);
    let objects = Objects::open_read_only(dir)?;
    let (mut written, mut done) = (BTreeSet::new(), 0);
    let mut format = None;
    for look in 1.. {
        // This very file, should it be compacted meanwhile.
        let history = Listing::read(dir)?;
        // The format rises before what needs it is committed, so what is read here is that of the
        // history.
        let text = dir.read(SETTINGS)?;
        let found = read_settings(dir)?.format;
        match format {
            None => append(&mut tar, SETTINGS, text.len() as u64, &text[..])?,
            Some(written) if written != found => return Err(Error::ChangedUnderExport),
            Some(_) => {}
        }
        format = Some(found);
        let total = history.payloads.values().map(|payload| payload.size).sum();
        let mut gone = false;
        for (sha256, payload) in &history.payloads {
            if written.contains(sha256) {
                continue;
            }
            let from: Box<dyn Read> = if payload.inline {
                match inside(sha256) {
                    Ok(bytes) => Box::new(io::Cursor::new(bytes)),
                    Err(_) if look < EXPORT_ATTEMPTS => {
                        gone = true;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            } else {
                match objects.open_file(sha256) {
                    Err(e) if e.is_missing() && look < EXPORT_ATTEMPTS => {
                        gone = true;
                        continue;
                    }
                    file => Box::new(file?),
                }
            };
            let mut hashed = HashingReader::new(from.take(payload.size));
            append(&mut tar, object_name(sha256), payload.size, &mut hashed)?;
            if hashed.finish() != (*sha256, payload.size) {
                return Err(damaged(sha256, "its bytes differ from what was published"));
            }
            written.insert(*sha256);
            done += payload.size;
            progress(done, Some(total));
        }
        if gone {
            // It may have been collected: then the history says so by now.
            continue;
        }
        let (changes, len) = (history.changes, history.len);
        append(&mut tar, HISTORY, len, history.file.take(len))?;
        tar.into_inner().and_then(|mut out| out.flush()).map_err(Error::Output)?;
        let payloads = written.len() as u64;
        return Ok(Archived { changes, payloads, bytes: done, skipped: 0 });
    }
    Err(Error::ChangedUnderExport)
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: impl AsRef<Path>,
    size: u64,
    from: impl Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o400);
    header.set_mtime(now() / 1_000_000_000);
    tar.append_data(&mut header, Path::new(ROOT).join(name), from).map_err(Error::Output)
}
