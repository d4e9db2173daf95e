//! Keys: the names under which artifacts are published.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 1024;
/// The longest component of a key, in bytes (`NAME_MAX`, linux/limits.h; FUSE's own is 1,024).
pub const MAX_COMPONENT_LEN: usize = 255;
/// The root entry that the mount keeps for itself.
pub const RESERVED: &str = ".wasmfs";

/// A relative path of UTF-8 components, valid by construction: 1 to 1,024
/// bytes, no empty component, `.`, `..`, NUL or control characters, and not
/// under `.wasmfs`.
///
/// ```
/// use wasmfs_store::{Key, KeyError};
///
/// assert_eq!(Key::new("a/b.cwasm")?.split(), ("a", "b.cwasm"));
/// assert_eq!(Key::new("a//b").unwrap_err().rule, KeyError::EmptyComponent);
/// # Ok::<(), wasmfs_store::InvalidKey>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// A name that can't be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be a key: {rule}")]
pub struct InvalidKey {
    /// The text that was given; what is not UTF-8 shows as U+FFFD.
    pub name: String,
    /// The rule it breaks.
    #[source]
    pub rule: KeyError,
}

/// The rule that a name breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name is empty.
    #[error("a key has at least one character")]
    Empty,
    /// The name is over [`MAX_KEY_LEN`] bytes.
    #[error("a key has at most 1,024 bytes")]
    TooLong,
    /// The name starts with a slash.
    #[error("a key is a relative path and doesn't start with '/'")]
    Absolute,
    /// Two slashes in a row, or one at the end.
    #[error("no component of a key may be empty ('//' or a '/' at its end)")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("no component of a key may be '.' or '..'")]
    Dots,
    /// A component is over [`MAX_COMPONENT_LEN`] bytes.
    #[error("a component of a key has at most 255 bytes")]
    ComponentTooLong,
    /// A NUL or another control character.
    #[error("a key has no NUL and no control characters")]
    Control,
    /// The first component belongs to the mount.
    #[error("the name '.wasmfs' at the root belongs to the mount")]
    Reserved,
    /// `CACHEDIR.TAG` at the root belongs to the mount.
    #[error("the name 'CACHEDIR.TAG' at the root belongs to the mount")]
    CacheDirTag,
    /// The name is not UTF-8.
    #[error("a key is UTF-8")]
    NotUtf8,
}

impl Key {
    /// Checks `name` against every rule.
    pub fn new(name: impl Into<String>) -> Result<Key, InvalidKey> {
        let name = name.into();
        match check(&name) {
            Ok(()) => Ok(Key(name)),
            Err(rule) => Err(InvalidKey { name, rule }),
        }
    }

    /// The key as a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories above the key, outermost first, without the root:
    /// `a/b/c` has `a` and `a/b`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    /// The directory above the key (`""` at the root) and the last component.
    #[must_use]
    pub fn split(&self) -> (&str, &str) {
        split_path(&self.0)
    }
}

/// Splits a path into its directory (`""` at the root) and its last component.
pub(crate) fn split_path(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Joins a directory (`""` at the root) and a name.
pub(crate) fn join_path(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn check(name: &str) -> Result<(), KeyError> {
    if name.is_empty() {
        return Err(KeyError::Empty);
    }
    if name.len() > MAX_KEY_LEN {
        return Err(KeyError::TooLong);
    }
    if name.starts_with('/') {
        return Err(KeyError::Absolute);
    }
    for component in name.split('/') {
        match component {
            "" => return Err(KeyError::EmptyComponent),
            "." | ".." => return Err(KeyError::Dots),
            c if c.len() > MAX_COMPONENT_LEN => return Err(KeyError::ComponentTooLong),
            c if c.chars().any(char::is_control) => return Err(KeyError::Control),
            _ => {}
        }
    }
    match name.split('/').next() {
        Some(RESERVED) => Err(KeyError::Reserved),
        Some("CACHEDIR.TAG") => Err(KeyError::CacheDirTag),
        _ => Ok(()),
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(name: String) -> Result<Key, InvalidKey> {
        Key::new(name)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(name: &str) -> Result<Key, InvalidKey> {
        Key::new(name)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_named() {
        let long = "a".repeat(256);
        let very_long = vec!["abcdefg"; 129].join("/");
        for (name, rule) in [
            ("", KeyError::Empty),
            (very_long.as_str(), KeyError::TooLong),
            ("/a", KeyError::Absolute),
            ("a//b", KeyError::EmptyComponent),
            ("a/", KeyError::EmptyComponent),
            ("a/./b", KeyError::Dots),
            ("../a", KeyError::Dots),
            (long.as_str(), KeyError::ComponentTooLong),
            ("a\0b", KeyError::Control),
            ("a\nb", KeyError::Control),
            (".wasmfs/x", KeyError::Reserved),
            (".wasmfs", KeyError::Reserved),
            ("CACHEDIR.TAG", KeyError::CacheDirTag),
        ] {
            assert_eq!(check(name), Err(rule), "{name:?}");
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let component = "a".repeat(255);
        let whole = format!("{component}/{component}/{component}/{component}/");
        for name in [&component, &whole[..1023], "a/.wasmfs", "..a", "ü/…", ".hidden"] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn ancestors_are_outermost_first() {
        let key = Key::new("a/b/c").unwrap();
        assert_eq!(key.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(key.split(), ("a/b", "c"));
        assert_eq!(Key::new("x").unwrap().split(), ("", "x"));
    }
}
