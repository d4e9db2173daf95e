//! Payloads as a whole, for whoever reads them without the store afterwards.

use std::fs::File;

use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::payload::blocks::check_file;
use crate::payload::staging::PayloadOf;
use crate::store::open::Store;
use crate::store::tree::VersionRecord;

impl Store {
    /// The object file of a version's payload; `None` if it is kept inside the catalogue.
    /// Nothing is checked: [`Store::check_whole`] does.
    pub fn open_object(&self, version: &VersionRecord) -> Result<Option<File>> {
        match payload_of(&*self.catalogue()?, version)?.inline {
            true => Ok(None),
            false => self.payloads.open_object(&version.sha256).map(Some),
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
}

fn payload_of(catalogue: &Catalogue, version: &VersionRecord) -> Result<PayloadOf> {
    PayloadOf::find(catalogue, &version.sha256)?.ok_or(Error::NoPayload(version.sha256))
}
