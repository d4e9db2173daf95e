//! The catalogue and payloads in use, wherever they are: in this process or in a server.

use crate::catalogue::{Catalogue, catch_panic};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::types::Sha;

/// Records in one page.
const PAGE_RECORDS: usize = 2000;
/// What is read at once of a payload that is kept inside, in bytes.
const LIVE_PIECE: usize = 1 << 20;

/// A record of the catalogue: key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// The catalogue and payloads in use, wherever they are.
pub trait Live {
    /// What asking can fail with.
    type Error: std::error::Error;

    /// The records after a key, in order, some at a time; none at the end. Not how much of the
    /// history is applied, nor payloads.
    fn page(&self, after: Option<&[u8]>) -> std::result::Result<Vec<Record>, Self::Error>;

    /// Part of a payload that is kept inside the catalogue; nothing at its end.
    fn read(&self, sha256: &Sha, offset: u64) -> std::result::Result<Vec<u8>, Self::Error>;
}

impl Live for Store {
    type Error = Error;

    fn page(&self, after: Option<&[u8]>) -> Result<Vec<Record>> {
        let catalogue = self.catalogue()?;
        // The database panics over what it can't read.
        let page = catch_panic(|| Live::page(&*catalogue, after));
        page.unwrap_or_else(|panic| Err(Error::Inconsistent(panic)))
    }

    fn read(&self, sha256: &Sha, offset: u64) -> Result<Vec<u8>> {
        let bytes = self.read_payload(sha256, offset, LIVE_PIECE)?;
        bytes.ok_or(Error::NoPayload(*sha256))
    }
}

impl Live for Catalogue {
    type Error = Error;

    fn page(&self, after: Option<&[u8]>) -> Result<Vec<Record>> {
        let from = after.map_or_else(Vec::new, |after| [after, b"\0"].concat());
        Catalogue::page(self, from, PAGE_RECORDS)
    }

    fn read(&self, sha256: &Sha, _offset: u64) -> Result<Vec<u8>> {
        Err(Error::NoPayload(*sha256))
    }
}
