//! Numbers that mean one thing each: they can't be mistaken for one another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The number after it.
            #[must_use]
            pub const fn next(self) -> $name {
                $name(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// An inode number: of a version, a directory or a link in every mount of a store. It is given
    /// once, and never to anything else. The numbers from 1 to 15 belong to the mount's fixed
    /// entries.
    Inode(u64)
}
number! {
    /// The number of a version of a key: from 1 up, never given twice for a key.
    Version(u64)
}
number! {
    /// The number of a committed change: from 1 up, without gaps. 0 stands for "none yet".
    Sequence(u64)
}
number! {
    /// The number of an engine in its store: from 1 up. 0 stands for the directory of all engines.
    EngineNumber(u32)
}

/// A text that is no version number.
#[derive(Debug, thiserror::Error)]
#[error("a version is a number, such as 2")]
pub struct NotAVersion;

impl std::str::FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Version, Self::Err> {
        text.parse().map(Version).map_err(|_| NotAVersion)
    }
}
