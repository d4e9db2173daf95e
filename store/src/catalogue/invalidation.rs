//! Which names a change touches: exactly, while it is applied, and at most,
//! when nobody knows any more what they led to before.

use std::collections::BTreeSet;

use super::apply::live_directory;
use super::records::*;
use super::{Catalogue, ENGINES_INODE, Records, Txn};
use crate::error::{Error, Result};
use crate::history::log::{Change, Entry};
use crate::types::key::split_path;

/// What a commit changed of what the kernel may have cached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names that lead elsewhere now, appeared or disappeared: the inode
    /// number of their directory, and the name in it.
    pub names: BTreeSet<(u64, String)>,
    /// Directories whose modification time moved.
    pub directories: BTreeSet<u64>,
}

impl Changes {
    /// Adds the changes of a later commit.
    pub fn extend(&mut self, later: Changes) {
        self.names.extend(later.names);
        self.directories.extend(later.directories);
    }
}

/// Names that the kernel may not have been told of. Whether they changed is
/// not known; what is theirs now is in the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// Names of files: the inode number of their directory, and the name in it.
    pub files: BTreeSet<(u64, String)>,
    /// Names of directories. One that was there throughout must not be dropped:
    /// somebody may be in it, or have something mounted on it.
    pub directories: BTreeSet<(u64, String)>,
}

impl Untold {
    /// Adds what `entry`, which is applied, may have touched.
    pub(crate) fn add(&mut self, catalogue: &Catalogue, entry: &Entry) -> Result<()> {
        let (key, engines, versions) = match &entry.change {
            Change::Publish { key, engine, version, .. } => {
                let default = catalogue.record::<KeyRecord>(&key_key(key))?;
                let default = default.map(|record| record.default_engine);
                (key, [Some(*engine), default].into_iter().flatten().collect(), vec![*version])
            }
            Change::Remove { key, version } => {
                let record: Option<KeyRecord> = catalogue.record(&key_key(key))?;
                let last = record.map_or(0, |record| record.last_version);
                let versions: Vec<u64> = version.map_or((1..=last).collect(), |v| vec![v]);
                // Its versions may be collected by now, and with them what engines they were of.
                let mut engines = BTreeSet::new();
                for entry in catalogue.scan(&engines_prefix()) {
                    engines.insert(crate::store::engines::engine_number_of(&entry?.0)?);
                }
                engines.retain(|engine| {
                    let parent = crate::types::key::split_path(key).0;
                    let known = catalogue.number(&directory_key(View::Engine(*engine), parent));
                    known.is_ok_and(|known| known.is_some())
                });
                (key, engines, versions)
            }
            Change::Default { keys, .. } => {
                for key in keys {
                    self.add_places(catalogue, places(key, &BTreeSet::new(), &[]))?;
                }
                return Ok(());
            }
            Change::Alias { name, engine, before, .. } => {
                let engines = [Some(*engine), *before];
                return self.add_places(catalogue, alias_places(name, engines));
            }
            Change::Unalias { name, engine } => {
                return self.add_places(catalogue, alias_places(name, [Some(*engine), None]));
            }
            Change::Collect { versions, .. } => {
                for gone in versions {
                    let places = places(&gone.key, &BTreeSet::new(), &[gone.version]);
                    self.add_places(catalogue, places)?;
                }
                return Ok(());
            }
            // A snapshot changes nothing.
            Change::Create
            | Change::Pin { .. }
            | Change::Unpin { .. }
            | Change::Snapshot { .. }
            | Change::Directory { .. }
            | Change::Link { .. }
            | Change::Key { .. }
            | Change::Version { .. }
            | Change::SnapshotEnd { .. }
            | Change::Engine { .. }
            | Change::Payload { .. }
            | Change::Origin { .. } => return Ok(()),
        };
        self.add_places(catalogue, places(key, &engines, &versions))
    }

    fn add_places(&mut self, catalogue: &Catalogue, places: Vec<Place>) -> Result<()> {
        for place in places {
            let name = place.in_directory(catalogue)?;
            match place {
                Place::File { .. } | Place::Alias { .. } => self.files.insert(name),
                Place::Directory { .. } => self.directories.insert(name),
            };
        }
        Ok(())
    }
}

/// The names that a change may touch, with what they led to before it.
pub(super) struct Touched {
    names: Vec<(Place, Option<u64>)>,
}

/// A name in a view, or a name among the engines: of an engine's view, or of a link to one.
#[derive(Clone, PartialEq)]
enum Place {
    File { view: View, key: String, version: u64 },
    Directory { view: View, path: String },
    Alias { name: String },
}

/// The names that a change of `key` may touch.
fn places(key: &str, engines: &BTreeSet<EngineNumber>, versions: &[u64]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut above = |view: View| {
        let ancestors = key.match_indices('/').map(|(at, _)| key[..at].to_owned());
        places.extend(ancestors.map(|path| Place::Directory { view, path }));
    };
    above(View::Keys);
    above(View::Versions);
    engines.iter().for_each(|engine| above(View::Engine(*engine)));
    let file = |view, version| Place::File { view, key: key.to_owned(), version };
    places.push(file(View::Keys, 0));
    for engine in engines {
        let view = View::Engine(*engine);
        places.push(file(view, 0));
        places.push(Place::Directory { view, path: String::new() });
    }
    places.push(Place::Directory { view: View::Versions, path: key.to_owned() });
    places.extend(versions.iter().map(|version| file(View::Versions, *version)));
    places
}

fn alias_places(name: &str, engines: [Option<EngineNumber>; 2]) -> Vec<Place> {
    let views = engines.into_iter().flatten().map(View::Engine);
    let directories = views.map(|view| Place::Directory { view, path: String::new() });
    [Place::Alias { name: name.to_owned() }].into_iter().chain(directories).collect()
}

impl Touched {
    pub(super) fn before(
        txn: &Txn,
        key: &str,
        engines: &BTreeSet<EngineNumber>,
        versions: &[u64],
    ) -> Result<Touched> {
        Touched::of(txn, places(key, engines, versions))
    }

    /// An alias, and the directories of the engines that it leads to before and after.
    pub(super) fn alias_before(
        txn: &Txn,
        name: &str,
        engines: [Option<EngineNumber>; 2],
    ) -> Result<Touched> {
        Touched::of(txn, alias_places(name, engines))
    }

    fn of(txn: &Txn, places: Vec<Place>) -> Result<Touched> {
        let lead = |place: Place| place.leads_to(txn).map(|inode| (place, inode));
        Ok(Touched { names: places.into_iter().map(lead).collect::<Result<_>>()? })
    }

    /// Notes every name that leads elsewhere now, and sets its directory's time.
    pub(super) fn after(&self, txn: &mut Txn, time: u64, changes: &mut Changes) -> Result<()> {
        for (place, before) in &self.names {
            if place.leads_to(txn)? == *before {
                continue;
            }
            let (directory, name) = place.in_directory(txn)?;
            if let Some(InodeRecord::Directory(mut record)) = txn.inode(directory)? {
                // Later than before even if the clock was set back.
                record.mtime = time.max(record.mtime + 1);
                txn.set(inode_key(directory), &InodeRecord::Directory(record))?;
            }
            changes.names.insert((directory, name));
            changes.directories.insert(directory);
        }
        Ok(())
    }
}

impl Place {
    fn leads_to(&self, records: &impl Records) -> Result<Option<u64>> {
        match self {
            Place::File { view, key, version } => records.number(&name_key(*view, key, *version)),
            Place::Directory { view, path } => live_directory(records, *view, path),
            Place::Alias { name } => Ok(records.alias(name)?.map(|alias| alias.inode)),
        }
    }

    fn in_directory(&self, records: &impl Records) -> Result<(u64, String)> {
        let (view, dir, name) = match self {
            Place::Alias { name } => return Ok((ENGINES_INODE, name.clone())),
            Place::File { view: View::Versions, key, version } => {
                (View::Versions, key.as_str(), version.to_string())
            }
            Place::File { view, key, .. } => {
                let (dir, name) = split_path(key);
                (*view, dir, name.to_owned())
            }
            Place::Directory { view: View::Engine(number), path } if path.is_empty() => {
                return Ok((ENGINES_INODE, records.engine(*number)?.label));
            }
            Place::Directory { view, path } => {
                let (dir, name) = split_path(path);
                (*view, dir, name.to_owned())
            }
        };
        match records.number(&directory_key(view, dir))? {
            Some(inode) => Ok((inode, name)),
            None => Err(Error::Inconsistent(format!("directory {dir:?} has no inode number"))),
        }
    }
}
