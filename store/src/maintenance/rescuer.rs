//! Applying changes of a damaged history.

use std::io::Cursor;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::artifact::inspect;
use crate::catalogue::tables::{KEYS, PayloadRecord};
use crate::catalogue::{Catalogue, Overlay, Records, apply, catch_panic, whole_inline};
use crate::error::{Error, Result};
use crate::history::{Change, LogEntry, NewDirectory};
use crate::payload::{Description, Objects, ReadSeek, describe};
use crate::types::{EngineNumber, Inode, Key, ROOT_INODE, Sha, View};

/// Applies changes some of whose predecessors are missing, and makes up for those from what
/// object files say.
pub(super) struct Rescuer {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) objects: Objects,
    /// A catalogue that can't be trusted, but may have payloads.
    pub(super) old: Option<Catalogue>,
    pub(super) next_inode: Inode,
}

impl Rescuer {
    pub(super) fn apply(&mut self, entry: &LogEntry) -> Result<()> {
        let LogEntry { seq, after, time, .. } = *entry;
        let made_up = |change| LogEntry { seq, after, time, change };
        if !matches!(entry.change, Change::Create) && self.catalogue.inode(ROOT_INODE)?.is_none() {
            self.commit(&made_up(Change::Create))?;
        }
        match &entry.change {
            Change::Publish { key, sha256, engine, directories, .. } => {
                self.provide_payload(entry, sha256)?;
                self.provide_engine(entry, sha256, *engine)?;
                self.provide_directories(entry, key, *engine, directories)?;
            }
            Change::Version { key, version, sha256, engine, source, .. } => {
                for payload in [Some(sha256), source.as_ref()].into_iter().flatten() {
                    // Without its bytes it is a version all the same.
                    if let Err(e) = self.provide_payload(entry, payload) {
                        log::error!("payload {payload} can't be rescued: {e}");
                    }
                }
                self.provide_engine(entry, sha256, *engine)?;
                self.provide_directories(entry, key, *engine, &[])?;
                let known = self.catalogue.get(&KEYS, key)?;
                let default = known.as_ref().map_or(*engine, |known| known.default_engine);
                if known.is_none_or(|known| known.last_version < *version) {
                    let (key, last_version) = (key.clone(), *version);
                    self.commit(&made_up(Change::Key { key, default, last_version }))?;
                }
            }
            Change::Origin { source: Some(source), .. } => self.provide_payload(entry, source)?,
            Change::Default { engine, .. } | Change::Key { default: engine, .. } => {
                self.catalogue.engine(*engine).map(drop).or_else(|e| match &entry.change {
                    // Its versions may bring it.
                    Change::Key { .. } => Ok(()),
                    _ => Err(e),
                })?;
            }
            _ => {}
        }
        self.commit(entry)
    }

    pub(super) fn commit(&self, entry: &LogEntry) -> Result<()> {
        let mut overlay = Overlay::new(&self.catalogue);
        apply(&mut overlay, entry, 0)?;
        overlay.apply()
    }

    /// Has a payload be known whose line is lost, and whose bytes are there.
    fn provide_payload(&self, entry: &LogEntry, sha256: &Sha) -> Result<()> {
        if self.catalogue.payload(sha256)?.is_some() {
            return Ok(());
        }
        let (bytes, inline) = self.bytes_of(sha256)?;
        let Description { sha256: found, size, kind, blocks } = describe(bytes)?;
        if found != *sha256 {
            return Err(Error::NoPayload(*sha256));
        }
        let record = PayloadRecord { size, kind, inline, large_blocks: false };
        let change = record.change(*sha256, &blocks);
        self.commit(&LogEntry { change, ..entry.clone() })
    }

    /// Has the engine be known that an artifact is of.
    fn provide_engine(
        &mut self,
        entry: &LogEntry,
        sha256: &Sha,
        number: EngineNumber,
    ) -> Result<()> {
        if self.catalogue.engine(number).is_ok() {
            return Ok(());
        }
        let artifact = inspect(self.bytes_of(sha256)?.0)?;
        // Its directory may be known.
        let inode = self.catalogue.directory(View::Engine(number), "")?;
        let change = Change::Engine {
            number,
            inode: inode.unwrap_or_else(|| self.take_inode()),
            label: artifact.engine.label(8),
            description: artifact.engine.clone(),
            section: BASE64.encode(&artifact.section),
            producer: None,
            last_publish: None,
        };
        self.commit(&LogEntry { change, ..entry.clone() })
    }

    /// Has every directory of a key have a number, but for those that the change brings.
    fn provide_directories(
        &mut self,
        entry: &LogEntry,
        key: &str,
        engine: EngineNumber,
        brought: &[NewDirectory],
    ) -> Result<()> {
        let key = Key::new(key)?;
        let views = [View::Keys, View::Versions, View::Engine(engine)];
        let above = key.ancestors().flat_map(|path| views.map(|view| (view, path)));
        for (view, path) in above.chain([(View::Versions, key.as_str())]) {
            let known = self.catalogue.directory(view, path)?.is_some();
            if !known && !brought.iter().any(|d| d.view == view && d.path == path) {
                let inode = self.take_inode();
                let directory = NewDirectory { view, path: path.to_owned(), inode };
                self.commit(&LogEntry {
                    change: Change::Directory { directory },
                    ..entry.clone()
                })?;
            }
        }
        Ok(())
    }

    /// The bytes of a payload, and whether they are kept inside a catalogue.
    fn bytes_of(&self, sha256: &Sha) -> Result<(Box<dyn ReadSeek>, bool)> {
        if let Ok(file) = self.objects.open_file(sha256) {
            return Ok((Box::new(file), false));
        }
        let inside = self.old.as_ref().and_then(|old| {
            let read = || whole_inline(old, sha256, old.payload(sha256).ok()??.size);
            catch_panic(read).ok().flatten()
        });
        let bytes = inside.ok_or(Error::NoPayload(*sha256))?;
        Ok((Box::new(Cursor::new(bytes)), true))
    }

    fn take_inode(&mut self) -> Inode {
        let inode = self.next_inode;
        self.next_inode = inode.next();
        inode
    }
}
