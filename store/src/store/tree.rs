//! What the mount reads: directories, files, and their bytes.
//!
//! Nothing here depends on an open directory or file: a place in a listing is
//! an inode number that tells which entry was before it, and means the same in
//! every process that ever serves the store.

use super::handle::Store;
use super::queries::rfc3339;
use crate::catalogue::tables::{AliasRecord, Child, ENGINES, LABELS, NAMES, Name, Names};
use crate::catalogue::{Catalogue, Records};
use crate::error::{Error, Result};
use crate::payload::PayloadInfo;
use crate::types::{ENGINES_INODE, Inode, Sha, Version, View, join_path};

pub use crate::catalogue::tables::{InodeRecord, LinkRecord, VersionRecord};

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name in the directory.
    pub name: String,
    /// The inode number it leads to.
    pub inode: Inode,
    /// What is there.
    pub kind: EntryKind,
    /// Where a listing that ends here goes on: the inode number of a directory that the entry
    /// is, or that has its versions; or its own.
    pub cookie: Inode,
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

impl Store {
    /// What an inode number means; `None` if it was never given. Removed
    /// versions and directories that don't show are found as well.
    pub fn inode(&self, inode: Inode) -> Result<Option<InodeRecord>> {
        self.catalogue()?.inode(inode)
    }

    /// The inode number of the entry `name` in the directory `path` of a view,
    /// and whether it is a directory.
    pub fn child(&self, view: View, path: &str, name: &str) -> Result<Option<(Inode, bool)>> {
        let catalogue = self.catalogue()?;
        let whole = join_path(path, name);
        let file = match view {
            View::Versions => canonical_number(name)
                .map(|version| catalogue.get(&NAMES, Name::of_version(path, version)))
                .transpose()?
                .flatten(),
            View::Keys | View::Engine(_) => catalogue.get(&NAMES, Name::in_view(view, &whole))?,
        };
        match file {
            Some(inode) => Ok(Some((inode, false))),
            None => Ok(catalogue.live_directory(view, &whole)?.map(|inode| (inode, true))),
        }
    }

    /// The inode number of the directory `path` of a view, whether it shows or not.
    pub fn directory(&self, view: View, path: &str) -> Result<Option<Inode>> {
        self.catalogue()?.directory(view, path)
    }

    /// The inode number of the engine's directory, if that has anything in it, or
    /// of the link to one, that is called `name`.
    pub fn engine_entry(&self, name: &str) -> Result<Option<Inode>> {
        let catalogue = self.catalogue()?;
        if let Some(alias) = catalogue.alias(name)? {
            return Ok(Some(alias.inode));
        }
        match catalogue.get(&LABELS, name)? {
            Some(number) => catalogue.live_directory(View::Engine(number), ""),
            None => Ok(None),
        }
    }

    /// Hands the entries of the directory `path` of a view to `each`, in the
    /// order of their names, until it returns false. Starts after the entry
    /// whose [`DirEntry::cookie`] is `after`, whether it is still there or not.
    pub fn list(
        &self,
        view: View,
        path: &str,
        after: Option<Inode>,
        mut each: impl FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        let catalogue = self.catalogue()?;
        let directory = NAMES.below(view, path);
        let start = match after {
            None => directory.clone(),
            Some(inode) => match resume_after(&catalogue, view, path, inode)? {
                Some(start) => start,
                None => return Ok(()),
            },
        };
        let mut names = catalogue.scan(&start);
        while let Some(row) = names.next() {
            let row = row?;
            let entry = match directory.child(&row)? {
                Child::Version(number) => {
                    let inode = row.value()?;
                    let name = number.to_string();
                    DirEntry { name, inode, kind: EntryKind::File, cookie: inode }
                }
                Child::Directory(name) => {
                    // All that is in this directory is passed over with one seek.
                    names = catalogue.scan(&directory.clone().past_directory(&name));
                    let inode = catalogue.existing_directory(view, &join_path(path, &name))?;
                    DirEntry { name, inode, kind: EntryKind::Directory, cookie: inode }
                }
                Child::File(name) => {
                    let inode = row.value()?;
                    // Versions come and go; the directory of a key's versions keeps its number.
                    let versions = catalogue.directory(View::Versions, &join_path(path, &name))?;
                    let cookie = versions.unwrap_or(inode);
                    DirEntry { name, inode, kind: EntryKind::File, cookie }
                }
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
        after: Option<Inode>,
        mut each: impl FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        for entry in engine_entries(&*self.catalogue()?)? {
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
        let Some(payload) = PayloadInfo::find(&catalogue, sha256)? else { return Ok(None) };
        self.objects.reader().read(&catalogue, &payload, offset, len).map(Some)
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
}

/// The names of a directory after the entry whose cookie is `inode`; `None` if it can't be one of
/// its.
fn resume_after(
    catalogue: &Catalogue,
    view: View,
    path: &str,
    inode: Inode,
) -> Result<Option<Names>> {
    let directory = NAMES.below(view, path);
    let under = if path.is_empty() { String::new() } else { join_path(path, "") };
    Ok(match catalogue.inode(inode)? {
        Some(InodeRecord::Directory(record)) if record.view == view => {
            record.path.strip_prefix(&under).map(|name| directory.past_directory(name))
        }
        // A key, whose name is a file's here.
        Some(InodeRecord::Directory(record)) if record.view == View::Versions => {
            record.path.strip_prefix(&under).map(|name| directory.past_file(name))
        }
        Some(InodeRecord::Version(record)) if view == View::Versions => {
            Some(directory.starting_at_number(record.version.next()))
        }
        // A version that is collected: later ones have greater numbers of both kinds.
        None if view == View::Versions => {
            let mut later = None;
            for row in catalogue.scan(&directory.clone().only_numbers()) {
                let row = row?;
                if row.value()? > inode {
                    later = row.key()?.version;
                    break;
                }
            }
            later.map(|number| directory.starting_at_number(number))
        }
        Some(InodeRecord::Version(record)) => {
            record.key.strip_prefix(&under).map(|name| directory.past_file(name))
        }
        _ => None,
    })
}

/// The entries among the engines that show: their directories, and links to
/// them, in the order of inode numbers.
fn engine_entries(records: &impl Records) -> Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    records.for_each(&ENGINES.all(), |row| {
        if let Some(inode) = records.live_directory(View::Engine(row.key()?), "")? {
            let name = row.value()?.label;
            entries.push(DirEntry { name, inode, kind: EntryKind::Directory, cookie: inode });
        }
        Ok(())
    })?;
    let link = |(name, alias): (String, AliasRecord)| {
        let inode = alias.inode;
        DirEntry { name, inode, kind: EntryKind::Link, cookie: inode }
    };
    entries.extend(records.aliases()?.into_iter().map(link));
    entries.sort_unstable_by_key(|entry| entry.inode);
    Ok(entries)
}

/// A version number as the mount writes it: no sign, no leading zero.
fn canonical_number(name: &str) -> Option<Version> {
    name.parse().ok().filter(|number: &Version| number.to_string() == name)
}
