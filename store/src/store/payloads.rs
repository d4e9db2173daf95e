//! Payloads as a whole, for readers that don't use the store afterwards; and the disk.

use std::fs::File;

use super::handle::Store;
use crate::catalogue::Catalogue;
use crate::catalogue::tables::VersionRecord;
use crate::error::{Error, Result};
use crate::payload::{PayloadInfo, check_file};

/// The free and whole space of the disk that a store is on, in bytes, and its inodes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// All of it.
    pub size: u64,
    /// Free.
    pub free: u64,
    /// Free for ordinary users.
    pub available: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

impl Store {
    /// The object file of a version's payload; `None` if it is kept inside the catalogue.
    /// Nothing is checked: [`Store::check_whole`] does.
    pub fn open_object(&self, version: &VersionRecord) -> Result<Option<File>> {
        match payload_of(&*self.catalogue()?, version)?.inline {
            true => Ok(None),
            false => self.objects.open_file(&version.sha256).map(Some),
        }
    }

    /// Checks that what `file` reads, from where it stands, is all of a version's payload.
    pub fn check_whole(&self, version: &VersionRecord, file: &File) -> Result<()> {
        let catalogue = self.catalogue()?;
        let payload = payload_of(&catalogue, version)?;
        let checked = check_file(&catalogue, &payload, file, &mut |_, _| {})?;
        let damaged = |reason| Error::PayloadDamaged { sha256: version.sha256.hex(), reason };
        match checked {
            Ok(None) => Ok(()),
            Ok(Some(found)) => Err(damaged(found)),
            Err(e) => Err(damaged(e.to_string())),
        }
    }

    /// The space of the disk the store is on.
    pub fn space(&self) -> std::io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&**self.open_dir())?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            size: bytes(stat.f_blocks),
            free: bytes(stat.f_bfree),
            available: bytes(stat.f_bavail),
            inodes: stat.f_files,
            free_inodes: stat.f_ffree,
        })
    }
}

fn payload_of(catalogue: &Catalogue, version: &VersionRecord) -> Result<PayloadInfo> {
    PayloadInfo::find(catalogue, &version.sha256)?.ok_or(Error::NoPayload(version.sha256))
}
