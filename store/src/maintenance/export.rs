//! Writing an archive of a store that may be in use.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::archive::{Archived, HashingReader, Progress, ROOT, damaged, object_name};
use crate::disk::clock::now;
use crate::disk::names::{HISTORY, SETTINGS};
use crate::error::{Error, IoContext, Result};
use crate::history::scan::Listing;
use crate::payload::Objects;
use crate::types::Sha;

/// How often an export looks for what was collected under it.
const EXPORT_ATTEMPTS: usize = 5;

/// Writes an archive of the store in `dir`, which may be in use. Payloads that are kept inside
/// the catalogue are asked of `inside`.
pub fn export(
    dir: &Path,
    inside: &mut dyn FnMut(&Sha) -> Result<Vec<u8>>,
    out: impl Write,
    progress: Progress<'_>,
) -> Result<Archived> {
    let mut tar = tar::Builder::new(out);
    let settings = dir.join(SETTINGS);
    let text = fs::read(&settings).at("reading", &settings)?;
    append(&mut tar, SETTINGS, text.len() as u64, &text[..])?;
    let objects = Objects::open_read_only(dir);
    let (mut written, mut done) = (BTreeSet::new(), 0);
    for look in 1.. {
        // This very file, should it be compacted meanwhile.
        let history = Listing::read(&dir.join(HISTORY))?;
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
                let path = objects.path(sha256);
                match File::open(&path) {
                    Ok(file) => Box::new(file),
                    Err(e) if e.kind() == io::ErrorKind::NotFound && look < EXPORT_ATTEMPTS => {
                        gone = true;
                        continue;
                    }
                    file => Box::new(file.at("opening", &path)?),
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
    Err(Error::Inconsistent("payloads were collected during the export; try again".into()))
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
