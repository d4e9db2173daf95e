//! What a request is done to.

use anyhow::Result;
use wasmfs_fs::gc::{self, Collection, Kept, Tidied};
use wasmfs_store::{Changes, Key, Policy, Store};

use super::serving::Serving;
use crate::ui::Error;

/// A store that is served, or one that this process has opened itself.
pub enum Place<'a> {
    /// Opened by the command: it has no mount.
    Opened(&'a Store),
    /// Served, in the process of the server.
    Served(&'a Serving),
}

impl Place<'_> {
    pub fn store(&self) -> &Store {
        match self {
            Place::Opened(store) => store,
            Place::Served(serving) => serving.mounts().store(),
        }
    }

    pub fn server(&self) -> Result<&Serving> {
        match self {
            Place::Opened(store) => Err(Error::NotServing(store.dir().to_owned()).into()),
            Place::Served(serving) => Ok(serving),
        }
    }

    /// Commits something; and whether the kernel knows, if there is a mount.
    pub fn commit<T>(
        &self,
        commit: impl FnOnce(&Store) -> wasmfs_store::Result<(T, Changes)>,
    ) -> wasmfs_store::Result<(T, bool)> {
        match self {
            Place::Opened(store) => commit(store).map(|(done, _)| (done, true)),
            Place::Served(serving) => serving.mounts().commit(commit),
        }
    }

    /// Gives up what nobody needs, of some keys after `after`; or says what that is.
    pub fn collect(
        &self,
        policy: &Policy,
        after: Option<&str>,
        dry_run: bool,
    ) -> wasmfs_store::Result<Collection> {
        match self {
            Place::Opened(store) => gc::collect_unmounted(store, policy, after, dry_run),
            Place::Served(serving) => serving.mounts().collect(policy, after, dry_run, None),
        }
    }

    /// Removes what no version has, and compacts what is due.
    pub fn tidy(&self) -> wasmfs_store::Result<Tidied> {
        self.store().sweep_staged()?;
        match self {
            Place::Opened(store) => gc::tidy_unmounted(store),
            Place::Served(serving) => serving.mounts().tidy(),
        }
    }

    /// What keeps each version of a key.
    pub fn fates(&self, key: &Key, policy: &Policy) -> wasmfs_store::Result<Vec<Kept>> {
        match self {
            Place::Opened(store) => {
                let fates = store.fates(key, policy)?.into_iter();
                Ok(fates.map(|candidate| Kept { candidate, in_use: false }).collect())
            }
            Place::Served(serving) => serving.mounts().fates(key, policy),
        }
    }
}
