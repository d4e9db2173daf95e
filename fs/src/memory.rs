//! Payloads in memory files that nobody can change any more.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmfs_store::tree::VersionRecord;
use wasmfs_store::{BLOCK, Store};

use crate::error::{IoContext, Result};

/// Bytes that are copied at a time.
const PIECE: usize = 8 * BLOCK as usize;

/// A sealed memory file with all the bytes of a version, each of which was checked.
pub(crate) fn sealed(store: &Store, version: &VersionRecord) -> Result<OwnedFd> {
    let here = Path::new("a memory file");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("wasmfs-payload", flags).at("making", here)?);
    let mut at = 0;
    while at < version.size {
        let bytes = store.read(version, at, PIECE)?;
        file.write_all(&bytes).at("writing", here)?;
        at += bytes.len() as u64;
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).at("sealing", here)?;
    Ok(file.into())
}
