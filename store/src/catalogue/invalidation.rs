//! Which names a change invalidates: exactly, while it is applied, and at most,
//! when nobody knows any more what they led to before.

use std::collections::BTreeSet;

use super::handle::Catalogue;
use super::overlay::Overlay;
use super::read::Records;
use super::tables::{ENGINES, INODES, InodeRecord, KEYS, NAMES, Name};
use crate::error::Result;
use crate::history::{Change, LogEntry};
use crate::types::{ENGINES_INODE, EngineNumber, Inode, Version, View, split_path};

/// What a commit changed of what the kernel may have cached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names that lead elsewhere now, appeared or disappeared: the inode
    /// number of their directory, and the name in it.
    pub names: BTreeSet<(Inode, String)>,
    /// Directories whose modification time moved.
    pub directories: BTreeSet<Inode>,
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
pub struct PendingInvalidations {
    /// Names of files: the inode number of their directory, and the name in it.
    pub files: BTreeSet<(Inode, String)>,
    /// Names of directories. One that was there throughout must not be dropped:
    /// somebody may be in it, or have something mounted on it.
    pub directories: BTreeSet<(Inode, String)>,
}

impl PendingInvalidations {
    /// Adds what `entry`, which is applied, may have affected.
    pub(crate) fn add(&mut self, catalogue: &Catalogue, entry: &LogEntry) -> Result<()> {
        let (key, engines, versions) = match &entry.change {
            Change::Publish { key, engine, version, .. } => {
                let default = catalogue.get(&KEYS, key)?;
                let default = default.map(|record| record.default_engine);
                (key, [Some(*engine), default].into_iter().flatten().collect(), vec![*version])
            }
            Change::Remove { key, version } => {
                let record = catalogue.get(&KEYS, key)?;
                let last = record.map_or(Version(0), |record| record.last_version);
                let all = || (1..=last.get()).map(Version).collect();
                let versions: Vec<Version> = version.map_or_else(all, |v| vec![v]);
                // Its versions may be collected by now, and with them what engines they were of.
                let mut engines = BTreeSet::new();
                for row in catalogue.scan(&ENGINES.all()) {
                    engines.insert(row?.key()?);
                }
                engines.retain(|engine| {
                    let known = catalogue.directory(View::Engine(*engine), split_path(key).0);
                    known.is_ok_and(|known| known.is_some())
                });
                (key, engines, versions)
            }
            Change::Default { keys, .. } => {
                for key in keys {
                    self.add_names(catalogue, names_of(key, &BTreeSet::new(), &[]))?;
                }
                return Ok(());
            }
            Change::Alias { name, engine, before, .. } => {
                let engines = [Some(*engine), *before];
                return self.add_names(catalogue, names_of_alias(name, engines));
            }
            Change::Unalias { name, engine } => {
                return self.add_names(catalogue, names_of_alias(name, [Some(*engine), None]));
            }
            Change::Collect { versions, .. } => {
                for gone in versions {
                    let names = names_of(&gone.key, &BTreeSet::new(), &[gone.version]);
                    self.add_names(catalogue, names)?;
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
        self.add_names(catalogue, names_of(key, &engines, &versions))
    }

    fn add_names(&mut self, catalogue: &Catalogue, names: Vec<CachedName>) -> Result<()> {
        for cached in names {
            let name = cached.in_directory(catalogue)?;
            match cached {
                CachedName::File { .. } | CachedName::Alias { .. } => self.files.insert(name),
                CachedName::Directory { .. } => self.directories.insert(name),
            };
        }
        Ok(())
    }
}

/// The names that a change may touch, with what they led to before it.
pub(super) struct Affected {
    names: Vec<(CachedName, Option<Inode>)>,
}

/// A name in a view, or a name among the engines: of an engine's view, or of a link to one.
#[derive(Clone, PartialEq)]
enum CachedName {
    File { view: View, key: String, version: Option<Version> },
    Directory { view: View, path: String },
    Alias { name: String },
}

/// The names that a change of `key` may touch.
fn names_of(key: &str, engines: &BTreeSet<EngineNumber>, versions: &[Version]) -> Vec<CachedName> {
    let mut names = Vec::new();
    let mut above = |view: View| {
        let ancestors = key.match_indices('/').map(|(at, _)| key[..at].to_owned());
        names.extend(ancestors.map(|path| CachedName::Directory { view, path }));
    };
    above(View::Keys);
    above(View::Versions);
    engines.iter().for_each(|engine| above(View::Engine(*engine)));
    let file = |view, version| CachedName::File { view, key: key.to_owned(), version };
    names.push(file(View::Keys, None));
    for engine in engines {
        let view = View::Engine(*engine);
        names.push(file(view, None));
        names.push(CachedName::Directory { view, path: String::new() });
    }
    names.push(CachedName::Directory { view: View::Versions, path: key.to_owned() });
    names.extend(versions.iter().map(|version| file(View::Versions, Some(*version))));
    names
}

fn names_of_alias(name: &str, engines: [Option<EngineNumber>; 2]) -> Vec<CachedName> {
    let views = engines.into_iter().flatten().map(View::Engine);
    let directories = views.map(|view| CachedName::Directory { view, path: String::new() });
    [CachedName::Alias { name: name.to_owned() }].into_iter().chain(directories).collect()
}

impl Affected {
    pub(super) fn before(
        overlay: &Overlay,
        key: &str,
        engines: &BTreeSet<EngineNumber>,
        versions: &[Version],
    ) -> Result<Affected> {
        Affected::of(overlay, names_of(key, engines, versions))
    }

    /// An alias, and the directories of the engines that it leads to before and after.
    pub(super) fn alias_before(
        overlay: &Overlay,
        name: &str,
        engines: [Option<EngineNumber>; 2],
    ) -> Result<Affected> {
        Affected::of(overlay, names_of_alias(name, engines))
    }

    fn of(overlay: &Overlay, names: Vec<CachedName>) -> Result<Affected> {
        let lead = |name: CachedName| name.leads_to(overlay).map(|inode| (name, inode));
        Ok(Affected { names: names.into_iter().map(lead).collect::<Result<_>>()? })
    }

    /// Notes every name that leads elsewhere now, and sets its directory's time.
    pub(super) fn after(
        &self,
        overlay: &mut Overlay,
        time: u64,
        changes: &mut Changes,
    ) -> Result<()> {
        for (cached, before) in &self.names {
            if cached.leads_to(overlay)? == *before {
                continue;
            }
            let (directory, name) = cached.in_directory(overlay)?;
            if let Some(InodeRecord::Directory(mut record)) = overlay.inode(directory)? {
                // Later than before even if the clock was set back.
                record.mtime = time.max(record.mtime + 1);
                overlay.set(&INODES, directory, &InodeRecord::Directory(record))?;
            }
            changes.names.insert((directory, name));
            changes.directories.insert(directory);
        }
        Ok(())
    }
}

impl CachedName {
    fn leads_to(&self, records: &impl Records) -> Result<Option<Inode>> {
        match self {
            CachedName::File { view, key, version } => {
                records.get(&NAMES, Name { view: *view, key, version: *version })
            }
            CachedName::Directory { view, path } => records.live_directory(*view, path),
            CachedName::Alias { name } => Ok(records.alias(name)?.map(|alias| alias.inode)),
        }
    }

    fn in_directory(&self, records: &impl Records) -> Result<(Inode, String)> {
        let (view, dir, name) = match self {
            CachedName::Alias { name } => return Ok((ENGINES_INODE, name.clone())),
            CachedName::File { view: View::Versions, key, version: Some(version) } => {
                (View::Versions, key.as_str(), version.to_string())
            }
            CachedName::File { view, key, .. } => {
                let (dir, name) = split_path(key);
                (*view, dir, name.to_owned())
            }
            CachedName::Directory { view: View::Engine(number), path } if path.is_empty() => {
                return Ok((ENGINES_INODE, records.engine(*number)?.label));
            }
            CachedName::Directory { view, path } => {
                let (dir, name) = split_path(path);
                (*view, dir, name.to_owned())
            }
        };
        Ok((records.existing_directory(view, dir)?, name))
    }
}
