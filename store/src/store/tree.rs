//! What the mount reads: directories, files, and their bytes.
//!
//! Nothing here depends on an open directory or file: a place in a listing is
//! an inode number that tells which entry was before it, and means the same in
//! every process that ever serves the store.

use crate::catalogue::records::*;
use crate::catalogue::{Catalogue, ENGINES_INODE, Records, be_u64, live_directory};
use crate::error::{Error, Result};
use crate::payload::staging::PayloadOf;
use crate::store::engines::engine_entries;
use crate::store::open::Store;
use crate::store::queries::rfc3339;
use crate::types::key::join_path;
use crate::types::sha::Sha;

pub use crate::catalogue::records::{InodeRecord, LinkRecord, VersionRecord, View};

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the directory.
    pub name: String,
    /// The inode number it leads to.
    pub inode: u64,
    /// What is there.
    pub kind: EntryKind,
    /// Where a listing that ends here goes on: the inode number of a directory that the entry
    /// is, or that has its versions; or its own.
    pub place: u64,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

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
    /// What an inode number means; `None` if it was never given. Removed
    /// versions and directories that don't show are found as well.
    pub fn inode(&self, inode: u64) -> Result<Option<InodeRecord>> {
        self.catalogue()?.inode(inode)
    }

    /// The inode number of the entry `name` in the directory `path` of a view,
    /// and whether it is a directory.
    pub fn child(&self, view: View, path: &str, name: &str) -> Result<Option<(u64, bool)>> {
        let catalogue = self.catalogue()?;
        let whole = join_path(path, name);
        let file = match view {
            View::Versions => canonical_number(name)
                .map(|version| catalogue.number(&name_key(view, path, version)))
                .transpose()?
                .flatten(),
            View::Keys | View::Engine(_) => catalogue.number(&name_key(view, &whole, 0))?,
        };
        match file {
            Some(inode) => Ok(Some((inode, false))),
            None => Ok(live_directory(&catalogue, view, &whole)?.map(|inode| (inode, true))),
        }
    }

    /// The inode number of the directory `path` of a view, whether it shows or not.
    pub fn directory(&self, view: View, path: &str) -> Result<Option<u64>> {
        self.catalogue()?.number(&directory_key(view, path))
    }

    /// The inode number of the engine's directory, if that has anything in it, or
    /// of the link to one, that is called `name`.
    pub fn engine_entry(&self, name: &str) -> Result<Option<u64>> {
        let catalogue = self.catalogue()?;
        if let Some(alias) = catalogue.alias(name)? {
            return Ok(Some(alias.inode));
        }
        match catalogue.engine_number(&label_key(name))? {
            Some(number) => live_directory(&catalogue, View::Engine(number), ""),
            None => Ok(None),
        }
    }

    /// Hands the entries of the directory `path` of a view to `each`, in the
    /// order of their names, until it returns false. Starts after the entry
    /// whose [`Entry::place`] is `after`, whether it is still there or not.
    pub fn list(
        &self,
        view: View,
        path: &str,
        after: Option<u64>,
        mut each: impl FnMut(Entry) -> bool,
    ) -> Result<()> {
        let catalogue = self.catalogue()?;
        let under = if path.is_empty() { String::new() } else { join_path(path, "") };
        let prefix = names_prefix(view, &under);
        let from = match after {
            None => prefix.clone(),
            Some(inode) => match resume_after(&catalogue, view, &under, inode)? {
                Some(rest) => [&prefix[..], &rest].concat(),
                None => return Ok(()),
            },
        };
        let mut names = catalogue.range(from);
        while let Some(entry) = names.next() {
            let (name, inode) = entry?;
            let Some(rest) = name.strip_prefix(&prefix[..]) else { break };
            let entry = if let [0, version @ ..] = rest {
                let (name, inode) = (be_u64(version)?.to_string(), be_u64(&inode)?);
                Entry { name, inode, kind: EntryKind::File, place: inode }
            } else if let Some(slash) = rest.iter().position(|&b| b == b'/') {
                // All that is in this directory is passed over with one seek.
                let next = [&prefix[..], &rest[..slash], b"0"].concat();
                let name = utf8(&rest[..slash])?;
                let path = join_path(path, &name);
                let Some(inode) = catalogue.number(&directory_key(view, &path))? else {
                    return Err(Error::Inconsistent(format!(
                        "directory {path:?} has no inode number"
                    )));
                };
                names = catalogue.range(next);
                Entry { name, inode, kind: EntryKind::Directory, place: inode }
            } else {
                let (name, inode) = (utf8(rest)?, be_u64(&inode)?);
                // Versions come and go; the directory of a key's versions keeps its number.
                let versions = directory_key(View::Versions, &join_path(path, &name));
                let place = catalogue.number(&versions)?.unwrap_or(inode);
                Entry { name, inode, kind: EntryKind::File, place }
            };
            if !each(entry) {
                break;
            }
        }
        Ok(())
    }

    /// The engines that have a directory in the mount, and the links to them,
    /// as [`Store::list`] does it.
    pub fn list_engines(
        &self,
        after: Option<u64>,
        mut each: impl FnMut(Entry) -> bool,
    ) -> Result<()> {
        for entry in engine_entries(&self.catalogue()?)? {
            if after.is_none_or(|after| entry.inode > after) && !each(entry) {
                break;
            }
        }
        Ok(())
    }

    /// When a name in the directory of engines last changed, in nanoseconds since 1970.
    pub fn engines_mtime(&self) -> Result<u64> {
        match self.inode(ENGINES_INODE)? {
            Some(InodeRecord::Directory(record)) => Ok(record.mtime),
            _ => Err(Error::Inconsistent("the directory of engines is missing".into())),
        }
    }

    /// Up to `len` bytes at `offset` of a version, checked against the hashes
    /// taken when it was published.
    pub fn read(&self, version: &VersionRecord, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.read_payload(&version.sha256, offset, len)?.ok_or_else(|| Error::PayloadDamaged {
            sha256: version.sha256.hex(),
            reason: "it is missing".into(),
        })
    }

    /// The same of a payload, artifact or source; `None` if there is no such payload.
    pub fn read_payload(&self, sha256: &Sha, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let catalogue = self.catalogue()?;
        let Some(payload) = PayloadOf::find(&catalogue, sha256)? else { return Ok(None) };
        self.payloads.reader.read(&catalogue, &payload, offset, len).map(Some)
    }

    /// What the mount says of a version in extended attributes: names without
    /// `user.wasmfs.`, and values.
    pub fn attributes(&self, version: &VersionRecord) -> Result<Vec<(&'static str, String)>> {
        let engine = self.catalogue()?.engine(version.engine)?;
        Ok(vec![
            ("key", version.key.clone()),
            ("version", version.version.to_string()),
            ("sha256", version.sha256.hex()),
            ("engine", engine.label),
            ("wasmtime", engine.description.wasmtime),
            ("published", rfc3339(version.published)),
        ])
    }

    /// The space of the disk the store is on.
    pub fn space(&self) -> std::io::Result<Space> {
        let stat = rustix::fs::statvfs(self.dir())?;
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

/// The least end of a name after the entry that leads to `inode`, in the
/// directory whose entries start with `under`; `None` if it can't be one of its.
fn resume_after(
    catalogue: &Catalogue,
    view: View,
    under: &str,
    inode: u64,
) -> Result<Option<Vec<u8>>> {
    Ok(match catalogue.inode(inode)? {
        Some(InodeRecord::Directory(record)) if record.view == view => {
            record.path.strip_prefix(under).map(|name| [name.as_bytes(), b"0"].concat())
        }
        // A key, whose name is a file's here.
        Some(InodeRecord::Directory(record)) if record.view == View::Versions => {
            record.path.strip_prefix(under).map(|name| [name.as_bytes(), b"\0"].concat())
        }
        Some(InodeRecord::Version(record)) if view == View::Versions => {
            let number = record.version.checked_add(1).map(u64::to_be_bytes);
            number.map(|number| [&b"\0"[..], &number].concat())
        }
        // A version that is collected: later ones have greater numbers of both kinds.
        None if view == View::Versions => {
            let versions = [&names_prefix(view, under)[..], b"\0"].concat();
            let mut later = None;
            for entry in catalogue.scan(&versions) {
                let (name, of) = entry?;
                if be_u64(&of)? > inode {
                    later = Some(name[versions.len() - 1..].to_vec());
                    break;
                }
            }
            later
        }
        Some(InodeRecord::Version(record)) => {
            record.key.strip_prefix(under).map(|name| [name.as_bytes(), b"\0"].concat())
        }
        _ => None,
    })
}

/// A version number as the mount writes it: no sign, no leading zero.
fn canonical_number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number: &u64| number.to_string() == name)
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Inconsistent("a name is not UTF-8".into()))
}
