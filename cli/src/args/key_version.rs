//! A key, or a version of one, on the command line.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use wasmfs_store::{InvalidKey, Key, Version};

use crate::client::StoreClient;
use crate::control::requests::{VersionOf, Versions};
use crate::ui::is_no_key;

/// `KEY` or `KEY@VERSION`. A key may have an '@' of its own: if there is a key
/// of that very name, it is meant.
#[derive(Clone, Debug)]
pub struct KeyVersion {
    whole: Key,
    split: Option<(Key, Version)>,
}

impl FromStr for KeyVersion {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<KeyVersion, Self::Err> {
        let digits = |n: &&str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        let split = text.rsplit_once('@').filter(|(_, n)| digits(n));
        let split = split.and_then(|(key, n)| Some((Key::new(key).ok()?, n.parse().ok()?)));
        Ok(KeyVersion { whole: Key::new(text)?, split })
    }
}

impl KeyVersion {
    /// The key and the version that are meant.
    pub fn resolve(self, client: &StoreClient) -> Result<VersionOf> {
        Ok(match self.split {
            Some((key, version)) if !has_key(client, &self.whole)? => {
                VersionOf { key, version: Some(Version(version.get())) }
            }
            _ => VersionOf { key: self.whole, version: None },
        })
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

/// Whether there is, or was, such a key.
pub fn has_key(client: &StoreClient, key: &Key) -> Result<bool> {
    match client.ask(Versions { key: key.clone(), before: None, limit: Some(1) }) {
        Ok(_) => Ok(true),
        Err(e) if is_no_key(&e) => Ok(false),
        Err(e) => Err(e),
    }
}
