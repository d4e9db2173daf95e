//! The filesystem against a reference model, under random publishes,
//! removals, rollbacks, collections, compactions and reopenings; and a model of the kernel's cache, which
//! is told exactly what a commit says it changed and must stay right.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../../store/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use support::{artifact, key, with_both_limits};
use wasmfs_fs::{Error, Filesystem};
use wasmfs_store::{
    Changes, EntryKind, Error as StoreError, InlineLimit, Inode, Policy, Portion, Publish,
    Settings, Store, StoreDir, Version,
};

const ROOT: Inode = Inode(1);
const KEYS: [&str; 8] = ["a", "b", "a/x", "a/y/z", "a/y/w", "c/d", "a-b", "a/y"];
const ENGINES: u8 = 3;
const ALIASES: [&str; 2] = ["prod", "dev"];

#[derive(Clone, Debug)]
enum Operation {
    Publish {
        key: usize,
        engine: u8,
        content: u32,
        default: bool,
    },
    RemoveKey {
        key: usize,
    },
    RemoveVersion {
        key: usize,
        version: u64,
    },
    Rollback {
        key: usize,
        version: u64,
    },
    Default {
        keys: Option<Vec<usize>>,
        engine: u8,
    },
    Alias {
        name: usize,
        engine: u8,
    },
    Unalias {
        name: usize,
    },
    Pin {
        key: usize,
        version: u64,
        pinned: bool,
    },
    /// With some versions held: every one whose inode number is divisible by `held`.
    Collect {
        keep: u64,
        held: u64,
    },
    Compact,
    Reopen {
        close: bool,
        rebuild: bool,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..KEYS.len();
    prop_oneof![
        6 => (key.clone(), 0..ENGINES, 0..4u32, prop::bool::weighted(0.2)).prop_map(
            |(key, engine, content, default)| Operation::Publish { key, engine, content, default }),
        2 => key.clone().prop_map(|key| Operation::RemoveKey { key }),
        2 => (key.clone(), 1..5u64).prop_map(|(key, version)| Operation::RemoveVersion { key, version }),
        1 => (key.clone(), 1..5u64).prop_map(|(key, version)| Operation::Rollback { key, version }),
        1 => (key, 1..5u64, prop::bool::weighted(0.7))
            .prop_map(|(key, version, pinned)| Operation::Pin { key, version, pinned }),
        3 => (1..3u64, 2..5u64).prop_map(|(keep, held)| Operation::Collect { keep, held }),
        1 => Just(Operation::Compact),
        1 => (prop::option::of(prop::collection::vec(0..KEYS.len(), 1..4)), 0..ENGINES)
            .prop_map(|(keys, engine)| Operation::Default { keys, engine }),
        1 => (0..ALIASES.len(), 0..ENGINES).prop_map(|(name, engine)| Operation::Alias { name, engine }),
        1 => (0..ALIASES.len()).prop_map(|name| Operation::Unalias { name }),
        1 => any::<(bool, bool)>().prop_map(|(close, rebuild)| Operation::Reopen { close, rebuild }),
    ]
}

#[derive(Clone, Debug)]
struct ModelVersion {
    engine: u8,
    content: u32,
    inode: Inode,
    removed: bool,
    pinned: bool,
    collected: bool,
}

impl ModelVersion {
    fn is_live(&self) -> bool {
        !self.removed && !self.collected
    }
}

#[derive(Clone, Debug, Default)]
struct Key {
    default: Option<u8>,
    versions: Vec<ModelVersion>,
}

impl Key {
    fn is_live(&self) -> bool {
        self.versions.iter().any(ModelVersion::is_live)
    }

    fn current(&self, engine: u8) -> Option<&ModelVersion> {
        self.versions.iter().rev().find(|v| v.engine == engine && v.is_live())
    }
}

/// What there should be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<&'static str, Key>,
    labels: BTreeMap<u8, String>,
    /// The engine and the inode number of each.
    aliases: BTreeMap<&'static str, (u8, Inode)>,
}

impl Model {
    fn conflicts(&self, name: &str) -> bool {
        let above = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
        self.keys
            .iter()
            .any(|(other, key)| key.is_live() && (above(other, name) || above(name, other)))
    }

    /// Every file of the mount by its path.
    fn files(&self) -> BTreeMap<String, ModelVersion> {
        let mut files = BTreeMap::new();
        for (name, key) in &self.keys {
            if let Some(version) = key.default.and_then(|engine| key.current(engine)) {
                files.insert(name.to_string(), version.clone());
            }
            for (engine, label) in &self.labels {
                if let Some(version) = key.current(*engine) {
                    files.insert(format!(".wasmfs/engines/{label}/{name}"), version.clone());
                }
            }
            for (n, version) in key.versions.iter().enumerate().filter(|(_, v)| v.is_live()) {
                files.insert(format!(".wasmfs/versions/{name}/{}", n + 1), version.clone());
            }
        }
        files
    }
}

/// The mount as a walk through it shows it: files with their inode numbers,
/// directories with theirs and their times.
#[derive(Default)]
struct Walk {
    files: BTreeMap<String, Inode>,
    directories: BTreeMap<String, (Inode, std::time::SystemTime)>,
}

fn walk(filesystem: &Filesystem) -> Walk {
    let mut found = Walk::default();
    visit(filesystem, ROOT, "", &mut found);
    let hidden = filesystem.lookup(ROOT, ".wasmfs").unwrap();
    visit(filesystem, hidden.inode, ".wasmfs", &mut found);
    found
}

fn visit(filesystem: &Filesystem, inode: Inode, path: &str, found: &mut Walk) {
    let mtime = filesystem.getattr(inode).unwrap().mtime;
    found.directories.insert(path.to_owned(), (inode, mtime));
    // One entry at a time, as a reader with the smallest buffer would.
    let (mut from, mut names) = (Inode(0), Vec::new());
    loop {
        let mut entry = None;
        filesystem
            .readdir(inode, from, |e| {
                let first = entry.is_none();
                if first {
                    entry = Some(e);
                }
                first
            })
            .unwrap();
        let Some(entry) = entry else { break };
        from = entry.cookie;
        if entry.name == "." {
            assert_eq!(entry.inode, inode);
            continue;
        }
        if entry.name == ".." {
            continue;
        }
        let attributes = filesystem.lookup(inode, &entry.name).unwrap();
        assert_eq!((attributes.inode, attributes.kind), (entry.inode, entry.kind));
        let path =
            if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
        if entry.kind == EntryKind::Directory {
            visit(filesystem, entry.inode, &path, found);
        } else {
            found.files.insert(path, entry.inode);
        }
        names.push(entry.name);
    }
    // All at once gives the same, in order.
    let mut whole = Vec::new();
    filesystem
        .readdir(inode, Inode(0), |e| {
            whole.push(e.name);
            true
        })
        .unwrap();
    assert_eq!(whole[2..], names[..]);
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), names.len(), "a name twice in {path:?}");
}

/// The names that the kernel remembers, absent ones too.
#[derive(Default)]
struct KernelCache(HashMap<(Inode, String), Option<Inode>>);

impl KernelCache {
    fn ask(filesystem: &Filesystem, directory: Inode, name: &str) -> Option<Inode> {
        match filesystem.lookup(directory, name) {
            Ok(attributes) => Some(attributes.inode),
            Err(Error::NotFound) => None,
            Err(e) => panic!("{name} in {directory}: {e}"),
        }
    }

    /// Looks every name up in every directory that was ever seen, so that all is remembered.
    fn fill(
        &mut self,
        filesystem: &Filesystem,
        directories: &BTreeSet<Inode>,
        names: &BTreeSet<String>,
    ) {
        for directory in directories {
            for name in names {
                let entry = (*directory, name.clone());
                self.0.entry(entry).or_insert_with(|| Self::ask(filesystem, *directory, name));
            }
        }
    }

    fn is_told(&mut self, filesystem: &Filesystem, changes: &Changes) {
        for (directory, name) in &changes.names {
            let remembered = self.0.remove(&(*directory, name.clone()));
            let now = Self::ask(filesystem, *directory, name);
            assert_ne!(
                remembered,
                Some(now),
                "{name} in {directory} was dropped and didn't change"
            );
        }
        for ((directory, name), remembered) in &self.0 {
            let now = Self::ask(filesystem, *directory, name);
            assert_eq!(
                *remembered, now,
                "{name} in {directory} changed and the kernel wasn't told"
            );
        }
    }
}

struct Run<'a> {
    dir: &'a Path,
    settings: &'a Settings,
    store: Arc<Store>,
    filesystem: Filesystem,
    model: Model,
    cache: KernelCache,
    directories: BTreeSet<Inode>,
    names: BTreeSet<String>,
    inodes: BTreeSet<Inode>,
}

impl<'a> Run<'a> {
    fn new(dir: &'a Path, settings: &'a Settings) -> Run<'a> {
        let store = Arc::new(support::open(dir, settings));
        let filesystem = Filesystem::new(store.clone());
        let mut names: BTreeSet<String> =
            KEYS.iter().flat_map(|k| k.split('/')).map(str::to_owned).collect();
        names.extend((1..6).map(|n| n.to_string()));
        names.extend(ALIASES.map(str::to_owned));
        Run {
            dir,
            settings,
            store,
            filesystem,
            model: Model::default(),
            cache: KernelCache::default(),
            directories: BTreeSet::new(),
            names,
            inodes: BTreeSet::new(),
        }
    }

    fn apply(&mut self, operation: &Operation) -> Changes {
        match *operation {
            Operation::Publish { key: k, engine, content, default } => {
                let name = KEYS[k];
                let bytes = artifact(engine, content, 100 + content as usize * 70_000);
                let staged = self.store.stage(&bytes[..]).unwrap();
                let request = Publish { make_default: default, ..Publish::new(key(name), staged) };
                let (mut results, changes) = self.store.publish(vec![request], false).unwrap();
                if self.model.conflicts(name) {
                    assert!(matches!(results.remove(0), Err(StoreError::KeyConflict { .. })));
                    assert_eq!(changes, Changes::default());
                    return changes;
                }
                let published = results.remove(0).unwrap();
                self.learn(engine, &published.version.engine);
                self.publish(name, engine, content, default, None, &published);
                changes
            }
            Operation::RemoveKey { key: k } => {
                let model = self.model.keys.entry(KEYS[k]).or_default();
                match self.store.remove(&key(KEYS[k]), None) {
                    Ok((_, changes)) => {
                        assert!(model.is_live());
                        model.versions.iter_mut().for_each(|v| v.removed = true);
                        changes
                    }
                    Err(StoreError::NoKey(_) | StoreError::KeyRemoved(_)) => {
                        assert!(!model.is_live());
                        Changes::default()
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            Operation::RemoveVersion { key: k, version } => {
                let model = self.model.keys.entry(KEYS[k]).or_default();
                let found = model.versions.get_mut(version as usize - 1).filter(|v| v.is_live());
                match (self.store.remove(&key(KEYS[k]), Some(Version(version))), found) {
                    (Ok((_, changes)), Some(found)) => {
                        found.removed = true;
                        changes
                    }
                    (
                        Err(StoreError::NoVersion { .. } | StoreError::VersionRemoved { .. }),
                        None,
                    ) => Changes::default(),
                    (result, found) => panic!("{result:?} for {found:?}"),
                }
            }
            Operation::Rollback { key: k, version } => {
                let name = KEYS[k];
                let found =
                    self.model.keys.get(name).and_then(|m| m.versions.get(version as usize - 1));
                let found = found.filter(|v| !v.collected);
                match (self.store.rollback(&key(name), Some(Version(version))), found.cloned()) {
                    (Ok((published, changes)), Some(v)) => {
                        assert!(!self.model.conflicts(name));
                        self.publish(name, v.engine, v.content, false, Some(version), &published);
                        changes
                    }
                    (
                        Err(StoreError::NoVersion { .. } | StoreError::VersionRemoved { .. }),
                        None,
                    ) => Changes::default(),
                    (Err(StoreError::KeyConflict { .. }), Some(_)) => {
                        assert!(self.model.conflicts(name));
                        Changes::default()
                    }
                    (result, found) => panic!("{result:?} for {found:?}"),
                }
            }
            Operation::Default { ref keys, engine } => self.set_default(keys.as_deref(), engine),
            Operation::Alias { name, engine } => {
                let name = ALIASES[name];
                let Some(label) = self.model.labels.get(&engine) else {
                    let refused = self.store.alias(name, "wasmtime-unknown");
                    assert!(matches!(refused, Err(StoreError::NoEngine(_))));
                    return Changes::default();
                };
                let (info, changes) = self.store.alias(name, label).unwrap();
                assert!(info.label == *label && info.aliases.iter().any(|alias| alias == name));
                let engines = self.filesystem.lookup(ROOT, ".wasmfs").unwrap().inode;
                let engines = self.filesystem.lookup(engines, "engines").unwrap().inode;
                let link = self.filesystem.lookup(engines, name).unwrap();
                assert_eq!(self.filesystem.readlink(link.inode).unwrap(), *label);
                assert_eq!((link.kind, link.size), (EntryKind::Link, label.len() as u64));
                match self.model.aliases.get(name) {
                    Some((before, inode)) if *before == engine => assert_eq!(*inode, link.inode),
                    // What a link says never changes, so another one says something else.
                    _ => assert!(self.inodes.insert(link.inode)),
                }
                self.model.aliases.insert(name, (engine, link.inode));
                changes
            }
            Operation::Unalias { name } => {
                let known = self.model.aliases.remove(ALIASES[name]);
                match (self.store.unalias(ALIASES[name]), known) {
                    (Ok((_, changes)), Some(_)) => changes,
                    (Err(StoreError::NoAlias(_)), None) => Changes::default(),
                    (result, known) => panic!("{result:?} for {known:?}"),
                }
            }
            Operation::Pin { key: k, version, pinned } => {
                let model = self.model.keys.entry(KEYS[k]).or_default();
                let found = model.versions.get_mut(version as usize - 1).filter(|v| !v.collected);
                let key = key(KEYS[k]);
                let result = match pinned {
                    true => self.store.pin(&key, Version(version)),
                    false => self.store.unpin(&key, Version(version)),
                };
                match (result, found) {
                    (Ok(changed), Some(found)) => {
                        assert_eq!(changed, found.pinned != pinned);
                        found.pinned = pinned;
                    }
                    (
                        Err(StoreError::NoVersion { .. } | StoreError::VersionRemoved { .. }),
                        None,
                    ) => {}
                    (result, found) => panic!("{result:?} for {found:?}"),
                }
                Changes::default()
            }
            Operation::Collect { keep, held } => self.collect(keep, held),
            Operation::Compact => {
                let last = self.store.last_change();
                assert_eq!(self.store.compact(last.next(), true).unwrap(), None);
                let compacted = self.store.compact(last, true).unwrap();
                assert!(compacted.is_some() && self.store.last_change() > last);
                // Nothing has changed that a kernel would have to be told.
                let pending = self.store.pending_invalidations(last).unwrap();
                assert!(pending.files.is_empty() && pending.directories.is_empty());
                Changes::default()
            }
            Operation::Reopen { close, rebuild } => {
                self.reopen(close, rebuild);
                Changes::default()
            }
        }
    }

    fn collect(&mut self, keep: u64, held: u64) -> Changes {
        let policy = Policy { keep, ..Policy::default() };
        let Portion { candidates, seen, next } = self.store.collectable(&policy, None).unwrap();
        assert_eq!(next, None);
        let mut expected = BTreeSet::new();
        for key in self.model.keys.values() {
            for (n, version) in key.versions.iter().enumerate().filter(|(_, v)| !v.collected) {
                let newer = key.versions[n + 1..].iter();
                let newer = newer.filter(|v| v.engine == version.engine && v.is_live()).count();
                let kept = version.is_live() && (newer as u64) < keep;
                if !kept && !version.pinned {
                    expected.insert(version.inode);
                }
            }
        }
        let found: BTreeSet<Inode> = candidates.iter().map(|c| c.inode).collect();
        assert_eq!(found, expected);
        let free: Vec<_> = candidates.into_iter().filter(|c| c.inode.get() % held != 0).collect();
        let (collected, changes) = self.store.collect(&free, seen).unwrap();
        assert_eq!(collected.versions, free.len() as u64);
        for version in self.model.keys.values_mut().flat_map(|key| &mut key.versions) {
            version.collected |= free.iter().any(|c| c.inode == version.inode);
            if version.collected {
                assert_eq!(self.store.inode(version.inode).unwrap(), None);
            }
        }
        self.store.collect_orphans().unwrap();
        self.check_objects();
        changes
    }

    /// The store has the payloads of versions it has, and no others.
    fn check_objects(&self) {
        let versions = self.model.keys.values().flat_map(|key| &key.versions);
        let versions = versions.filter(|v| !v.collected);
        let needed: BTreeSet<_> = versions.map(|v| (v.engine, v.content)).collect();
        let inside = |size: usize| match self.settings.inline_limit {
            InlineLimit::Bytes(limit) => size as u64 <= limit,
            InlineLimit::Unlimited(_) => true,
        };
        let needed = needed.iter().filter(|(engine, content)| {
            !inside(artifact(*engine, *content, 100 + *content as usize * 70_000).len())
        });
        let dirs = std::fs::read_dir(self.dir.join("objects")).unwrap();
        let files = dirs.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
        assert_eq!(files.count(), needed.count());
    }

    fn set_default(&mut self, keys: Option<&[usize]>, engine: u8) -> Changes {
        let Some(label) = self.model.labels.get(&engine) else { return Changes::default() };
        let named: Option<Vec<_>> = keys.map(|keys| keys.iter().map(|k| key(KEYS[*k])).collect());
        let result = self.store.set_default(named.as_deref(), label);
        let wanted: Vec<&str> = match keys {
            Some(keys) => keys.iter().map(|k| KEYS[*k]).collect(),
            None => self.model.keys.iter().filter(|(_, k)| k.is_live()).map(|(n, _)| *n).collect(),
        };
        let has = |name: &&str| {
            self.model.keys.get(name).is_some_and(|key| key.current(engine).is_some())
        };
        if keys.is_some() && !wanted.iter().all(has) {
            let refused = result.unwrap_err();
            assert!(matches!(refused, StoreError::NoKey(_) | StoreError::NotOfEngine { .. }));
            return Changes::default();
        }
        let (moved, changes) = result.unwrap();
        let lacking: Vec<&str> = moved.lacking.iter().map(|key| key.as_str()).collect();
        let expected: BTreeSet<&str> = wanted.iter().copied().filter(|name| !has(name)).collect();
        assert_eq!(lacking, Vec::from_iter(expected));
        let movable: Vec<&str> = wanted.into_iter().filter(has).collect();
        for name in movable {
            self.model.keys.entry(name).or_default().default = Some(engine);
        }
        changes
    }

    fn learn(&mut self, engine: u8, label: &str) {
        let known = self.model.labels.entry(engine).or_insert_with(|| label.to_owned());
        assert_eq!(known, label);
        self.names.insert(label.to_owned());
    }

    fn publish(
        &mut self,
        name: &'static str,
        engine: u8,
        content: u32,
        default: bool,
        rollback_of: Option<u64>,
        published: &wasmfs_store::Published,
    ) {
        let model = self.model.keys.entry(name).or_default();
        let unchanged = model.current(engine).is_some_and(|v| v.content == content);
        assert_eq!(published.status == wasmfs_store::Status::Unchanged, unchanged);
        let inode = published.version.inode;
        if !unchanged {
            assert!(self.inodes.insert(inode), "inode {inode} was given twice");
            let (removed, pinned, collected) = (false, false, false);
            model.versions.push(ModelVersion {
                engine,
                content,
                inode,
                removed,
                pinned,
                collected,
            });
            assert_eq!(published.version.version, Version(model.versions.len() as u64));
            assert_eq!(published.version.rollback_of.is_some(), rollback_of.is_some());
        }
        if model.default.is_none() || default {
            model.default = Some(engine);
        }
        assert_eq!(published.version.served_by_plain_name, model.default == Some(engine));
    }

    /// Opens the store anew; the kernel's cache stays, as it does when a server is replaced.
    fn reopen(&mut self, close: bool, rebuild: bool) {
        let empty = tempfile::tempdir().unwrap();
        let spare = Arc::new(support::open(empty.path(), self.settings));
        self.filesystem = Filesystem::new(spare.clone());
        let store = std::mem::replace(&mut self.store, spare);
        let store = Arc::try_unwrap(store).unwrap_or_else(|_| panic!("the store is still used"));
        if close {
            store.close().unwrap();
        } else {
            drop(store);
        }
        if rebuild {
            Store::distrust_catalogue(&StoreDir::open(self.dir).unwrap());
        }
        self.store = Arc::new(Store::open(self.dir).unwrap());
        self.filesystem = Filesystem::new(self.store.clone());
    }

    fn check(&mut self, before: &Walk, changes: &Changes) -> Walk {
        let now = walk(&self.filesystem);
        let files = self.model.files();
        let links = self.model.aliases.iter();
        let links = links.map(|(name, (_, inode))| (format!(".wasmfs/engines/{name}"), *inode));
        let expected: BTreeMap<_, _> =
            files.iter().map(|(path, v)| (path.clone(), v.inode)).chain(links).collect();
        assert_eq!(now.files, expected);
        // Directories show as long as something is in them, and those of the mount always.
        let mut directories: BTreeSet<&str> =
            ["", ".wasmfs", ".wasmfs/versions", ".wasmfs/engines"].into();
        for path in files.keys() {
            directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
        }
        // An engine's as long as it has an alias, too.
        let aliased = self.model.aliases.values();
        let aliased: Vec<String> = aliased
            .map(|(engine, _)| format!(".wasmfs/engines/{}", self.model.labels[engine]))
            .collect();
        directories.extend(aliased.iter().map(String::as_str));
        assert_eq!(
            now.directories.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            directories
        );
        for version in files.values() {
            let bytes =
                artifact(version.engine, version.content, 100 + version.content as usize * 70_000);
            let attributes = self.filesystem.getattr(version.inode).unwrap();
            assert_eq!(attributes.size, bytes.len() as u64);
            assert!(self.filesystem.read(version.inode, 0, bytes.len() + 10).unwrap() == bytes);
            let middle = bytes.len() / 2;
            assert!(
                self.filesystem.read(version.inode, middle as u64, 100).unwrap()
                    == bytes[middle..middle + 100]
            );
        }
        // A directory whose entries changed has a new time, and the kernel is told.
        for (path, (inode, mtime)) in &now.directories {
            let Some((old_inode, old_mtime)) = before.directories.get(path) else { continue };
            assert_eq!(inode, old_inode, "{path:?}");
            let entries = |walk: &Walk| -> BTreeMap<String, Inode> {
                let files = walk.files.iter().map(|(p, i)| (p, *i));
                let all = files.chain(walk.directories.iter().map(|(p, (i, _))| (p, *i)));
                all.filter_map(|(p, i)| {
                    let rest = p.strip_prefix(path.as_str())?;
                    let name = if path.is_empty() { rest } else { rest.strip_prefix('/')? };
                    (!name.is_empty() && !name.contains('/')).then(|| (name.to_owned(), i))
                })
                .collect()
            };
            let changed = entries(before) != entries(&now);
            assert_eq!(mtime > old_mtime, changed, "{path:?}");
            assert!(mtime >= old_mtime, "{path:?}");
            assert_eq!(changes.directories.contains(inode), changed, "{path:?}");
        }
        self.cache.is_told(&self.filesystem, changes);
        self.directories.extend(now.directories.values().map(|(inode, _)| *inode));
        self.cache.fill(&self.filesystem, &self.directories, &self.names);
        now
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_filesystem_is_what_was_published(operations in prop::collection::vec(operation(), 1..40)) {
        with_both_limits(|settings| {
            let dir = tempfile::tempdir().unwrap();
            let mut run = Run::new(dir.path(), settings);
            let mut before = walk(&run.filesystem);
            for operation in &operations {
                let changes = run.apply(operation);
                before = run.check(&before, &changes);
            }
        });
    }
}
