//! The filesystem over a store. It needs no kernel: names and inode numbers
//! go in, attributes and bytes come out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmfs_store::{
    DirEntry, ENGINES_INODE, EntryKind, Inode, InodeRecord, LinkRecord, RESERVED, ROOT_INODE,
    Space, Store, VERSIONS_INODE, VersionRecord, View,
};

use crate::error::{Error, Result, chain};

/// `.wasmfs`: opens by name and is not listed, since hosts enumerate their cache directories.
pub const RESERVED_INODE: Inode = Inode(2);
/// `CACHEDIR.TAG`: opens by name, and tells backup tools that this is a cache.
pub const CACHEDIR_TAG_INODE: Inode = Inode(5);
/// The name of the tag that marks cache directories (bford.info/cachedir).
pub const CACHEDIR_TAG: &str = "CACHEDIR.TAG";
const CACHEDIR_TAG_TEXT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n\
# Compiled WebAssembly modules, served by wasmfs; they can be compiled again.\n";
/// The longest name in the mount, in bytes.
pub const NAME_MAX: usize = 255;
const XATTR_PREFIX: &str = "user.wasmfs.";

/// What `stat` shows. Never changes for a file; for a directory only the time does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The same in every process that ever serves the store.
    pub inode: Inode,
    /// What it is.
    pub kind: EntryKind,
    /// In bytes; 0 for directories, for links the length of what they say.
    pub size: u64,
    /// When it was published or made; for a directory, when a name in it last changed.
    pub mtime: SystemTime,
}

/// The filesystem. Every method can be called from any thread.
///
/// ```
/// use std::sync::Arc;
/// use wasmfs_fs::{CACHEDIR_TAG, Error, Filesystem};
/// use wasmfs_store::{ROOT_INODE, Store};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let store = Arc::new(Store::open_or_create(dir.path())?);
/// let filesystem = Filesystem::new(store);
/// let tag = filesystem.lookup(ROOT_INODE, CACHEDIR_TAG)?;
/// assert!(filesystem.read(tag.inode, 0, 10)?.starts_with(b"Signature:"));
/// assert!(matches!(filesystem.lookup(ROOT_INODE, "absent"), Err(Error::NotFound)));
/// # Ok(())
/// # }
/// ```
pub struct Filesystem {
    store: Arc<Store>,
    /// Versions of which it is just found out whether they are in use.
    watched: RwLock<HashMap<Inode, AtomicU8>>,
}

/// No lookup has found it.
const UNCLAIMED: u8 = 0;
/// A lookup was answered with it.
const CLAIMED: u8 = 1;
/// It is being given up: no name of its own leads to it.
const DOOMED: u8 = 2;

/// While it lives, lookups of some versions are noted.
pub struct Watch<'a>(&'a Filesystem);

impl Watch<'_> {
    /// Dooms a version, unless a lookup was answered with it since the watch began: then false.
    pub fn doom(&self, inode: Inode) -> bool {
        let watched = self.0.watched.read().unwrap_or_else(PoisonError::into_inner);
        watched.get(&inode).is_some_and(|state| {
            state.compare_exchange(UNCLAIMED, DOOMED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        })
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.watched.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What an inode number means to the mount.
enum Node {
    Reserved,
    Engines,
    CachedirTag,
    Directory { view: View, path: String, mtime: u64 },
    File(VersionRecord),
    Link(LinkRecord),
}

/// A listing's cookie after `.`: the number of the root, which no listing has as an entry.
const AFTER_DOT: Inode = ROOT_INODE;
/// A listing's cookie after `..`: the number of `.wasmfs`, which is not listed either.
const AFTER_DOT_DOT: Inode = RESERVED_INODE;

impl Filesystem {
    /// A filesystem over `store`.
    pub fn new(store: Arc<Store>) -> Filesystem {
        Filesystem { store, watched: RwLock::default() }
    }

    /// Notes from now on who looks for these versions by a name of their own; for one collection
    /// at a time. One that is doomed isn't found, which is nothing for the kernel to remember.
    pub fn watch(&self, inodes: impl Iterator<Item = Inode>) -> Watch<'_> {
        let watched = inodes.map(|inode| (inode, AtomicU8::new(UNCLAIMED))).collect();
        *self.watched.write().unwrap_or_else(PoisonError::into_inner) = watched;
        Watch(self)
    }

    /// Whether a version is not to be found; if it is, whoever watches it knows from now on.
    fn is_doomed(&self, inode: Inode) -> bool {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        watched.get(&inode).is_some_and(|state| {
            let claim =
                state.compare_exchange(UNCLAIMED, CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
            claim == Err(DOOMED)
        })
    }

    fn node(&self, inode: Inode) -> Result<Node> {
        Ok(match inode {
            RESERVED_INODE => Node::Reserved,
            ENGINES_INODE => Node::Engines,
            CACHEDIR_TAG_INODE => Node::CachedirTag,
            _ => match self.store.inode(inode)? {
                Some(InodeRecord::Version(version)) => Node::File(version),
                Some(InodeRecord::Alias(link)) => Node::Link(link),
                Some(InodeRecord::Directory(d)) => {
                    Node::Directory { view: d.view, path: d.path, mtime: d.mtime }
                }
                None => return Err(Error::NotFound),
            },
        })
    }

    /// The attributes of the entry `name` of the directory `parent`.
    pub fn lookup(&self, parent: Inode, name: &str) -> Result<Attributes> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let inode = match self.node(parent)? {
            Node::Reserved => match name {
                "versions" => VERSIONS_INODE,
                "engines" => ENGINES_INODE,
                _ => return Err(Error::NotFound),
            },
            Node::Engines => self.store.engine_entry(name)?.ok_or(Error::NotFound)?,
            Node::Directory { .. } if parent == ROOT_INODE && name == RESERVED => RESERVED_INODE,
            Node::Directory { .. } if parent == ROOT_INODE && name == CACHEDIR_TAG => {
                CACHEDIR_TAG_INODE
            }
            Node::Directory { view, path, .. } => {
                let inode = self.store.child(view, &path, name)?.ok_or(Error::NotFound)?.0;
                // Another name leads to it only after a commit, and then it is not given up.
                if view == View::Versions && self.is_doomed(inode) {
                    return Err(Error::Hidden);
                }
                inode
            }
            Node::File(_) | Node::CachedirTag | Node::Link(_) => return Err(Error::NotADirectory),
        };
        self.getattr(inode)
    }

    /// The attributes of an inode. Those of a version or directory whose names
    /// are gone stay what they were: somebody may hold it.
    pub fn getattr(&self, inode: Inode) -> Result<Attributes> {
        let (kind, size, mtime) = match self.node(inode)? {
            Node::Directory { mtime, .. } => (EntryKind::Directory, 0, mtime),
            Node::Engines => (EntryKind::Directory, 0, self.store.engines_mtime()?),
            // Both are there from the start and never change.
            Node::Reserved => (EntryKind::Directory, 0, 0),
            Node::CachedirTag => (EntryKind::File, CACHEDIR_TAG_TEXT.len() as u64, 0),
            Node::File(version) => (EntryKind::File, version.size, version.published),
            Node::Link(link) => (EntryKind::Link, link.target.len() as u64, link.made),
        };
        let mtime = UNIX_EPOCH + Duration::from_nanos(mtime);
        Ok(Attributes { inode, kind, size, mtime })
    }

    /// Up to `len` bytes at `offset`; fewer only at the end of the file. Every
    /// byte was checked against the hashes taken at publish.
    pub fn read(&self, inode: Inode, offset: u64, len: usize) -> Result<Vec<u8>> {
        match self.node(inode)? {
            Node::File(version) => self
                .store
                .read(&version, offset, len)
                .inspect_err(|e| {
                    log::error!(
                        "reading {} version {} at byte {offset} fails: {}",
                        version.key,
                        version.version,
                        chain(e)
                    );
                })
                .map_err(Error::from),
            Node::CachedirTag => {
                let start =
                    usize::try_from(offset).unwrap_or(usize::MAX).min(CACHEDIR_TAG_TEXT.len());
                let end = start.saturating_add(len).min(CACHEDIR_TAG_TEXT.len());
                Ok(CACHEDIR_TAG_TEXT[start..end].to_vec())
            }
            _ => Err(Error::IsADirectory),
        }
    }

    /// The version that an inode is, if it is one.
    pub(crate) fn version(&self, inode: Inode) -> Result<Option<VersionRecord>> {
        match self.node(inode)? {
            Node::File(version) => Ok(Some(version)),
            _ => Ok(None),
        }
    }

    /// What a symbolic link says. The same for ever.
    pub fn readlink(&self, inode: Inode) -> Result<String> {
        match self.node(inode)? {
            Node::Link(link) => Ok(link.target),
            _ => Err(Error::NotALink),
        }
    }

    /// Hands the entries of the directory `inode` to `each` until it returns
    /// false, from the start (0) or from an earlier entry's cookie. An entry
    /// that is there throughout is neither skipped nor repeated, whatever is
    /// published or removed meanwhile.
    pub fn readdir(
        &self,
        inode: Inode,
        from: Inode,
        mut each: impl FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        let node = self.node(inode)?;
        let directory = |name: &str, inode, cookie| {
            let (name, kind) = (name.to_owned(), EntryKind::Directory);
            DirEntry { name, inode, kind, cookie }
        };
        if from == Inode(0) && !each(directory(".", inode, AFTER_DOT)) {
            return Ok(());
        }
        if from <= AFTER_DOT && !each(directory("..", self.parent(&node)?, AFTER_DOT_DOT)) {
            return Ok(());
        }
        let after = (from > AFTER_DOT_DOT).then_some(from);
        match node {
            Node::Directory { view, path, .. } => self.store.list(view, &path, after, each)?,
            Node::Engines => self.store.list_engines(after, each)?,
            Node::Reserved => {
                for (name, inode) in [("versions", VERSIONS_INODE), ("engines", ENGINES_INODE)] {
                    let is_next = after.is_none_or(|after| inode > after);
                    if is_next && !each(directory(name, inode, inode)) {
                        break;
                    }
                }
            }
            Node::File(_) | Node::CachedirTag | Node::Link(_) => return Err(Error::NotADirectory),
        }
        Ok(())
    }

    /// The inode number of the directory above.
    fn parent(&self, node: &Node) -> Result<Inode> {
        Ok(match node {
            Node::Directory { view: View::Keys, path, .. } if path.is_empty() => ROOT_INODE,
            Node::Directory { view: View::Versions, path, .. } if path.is_empty() => RESERVED_INODE,
            Node::Directory { view: View::Engine(_), path, .. } if path.is_empty() => ENGINES_INODE,
            Node::Directory { view, path, .. } => {
                let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                self.store.directory(*view, above)?.ok_or(Error::NotFound)?
            }
            Node::Engines => RESERVED_INODE,
            Node::Reserved => ROOT_INODE,
            Node::File(_) | Node::CachedirTag | Node::Link(_) => return Err(Error::NotADirectory),
        })
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, inode: Inode, name: &str) -> Result<Vec<u8>> {
        let name = name.strip_prefix(XATTR_PREFIX).ok_or(Error::NoAttribute)?;
        let Node::File(version) = self.node(inode)? else { return Err(Error::NoAttribute) };
        let attributes = self.store.attributes(&version)?;
        let found = attributes.into_iter().find(|(n, _)| *n == name);
        Ok(found.ok_or(Error::NoAttribute)?.1.into_bytes())
    }

    /// The names of the extended attributes, each ended by a NUL.
    pub fn listxattr(&self, inode: Inode) -> Result<Vec<u8>> {
        let Node::File(version) = self.node(inode)? else { return Ok(Vec::new()) };
        let attributes = self.store.attributes(&version)?;
        let names = attributes.iter().map(|(name, _)| format!("{XATTR_PREFIX}{name}\0"));
        Ok(names.collect::<String>().into_bytes())
    }

    /// The space of the disk the store is on.
    pub fn statfs(&self) -> Result<Space> {
        self.store.space().map_err(|source| Error::Io {
            action: "asking for the space of",
            path: self.store.dir().to_owned(),
            source,
        })
    }
}
