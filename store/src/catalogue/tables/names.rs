//! Live names, and how a directory is found in them.
//!
//! A name is a view and a key. In the view of versions a key is a directory of numbers: its names
//! are the key, `/`, NUL and the version. So all that is under a path starts with the path and `/`,
//! whether it is a key's directory or one of a key's, and the numbers of a key come first.

use super::layout::{KeyLayout, Text, read_view, write_view};
use super::table::{Row, Span, Table};
use crate::error::{Error, Result};
use crate::types::{Inode, Version, View, join_path};

/// Between a key's directory and its numbers.
const NUMBERS: &[u8] = b"\0";
/// The first byte after `/`: past all that is in a directory.
const PAST_DIRECTORY: u8 = b'/' + 1;
/// Past a name, and nothing longer.
const PAST_NAME: u8 = 0;

/// A live name.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) view: View,
    pub(crate) key: &'a str,
    /// In the view of versions.
    pub(crate) version: Option<Version>,
}

impl<'a> Name<'a> {
    /// The plain name of a key.
    pub(crate) fn plain(key: &'a str) -> Name<'a> {
        Name { view: View::Keys, key, version: None }
    }

    /// The name of a key in a view of keys: the plain one, or an engine's.
    pub(crate) fn in_view(view: View, key: &'a str) -> Name<'a> {
        Name { view, key, version: None }
    }

    /// The name that a version has for itself.
    pub(crate) fn of_version(key: &'a str, version: Version) -> Name<'a> {
        Name { view: View::Versions, key, version: Some(version) }
    }
}

/// A live name, as it is read.
pub(crate) struct OwnedName {
    pub(crate) key: String,
    pub(crate) version: Option<Version>,
}

/// How names are written.
pub(crate) struct NameLayout;

impl KeyLayout for NameLayout {
    type Ref<'a> = Name<'a>;
    type Owned = OwnedName;

    fn write(Name { view, key, version }: Name<'_>, out: &mut Vec<u8>) {
        write_view(view, out);
        Text::write(key, out);
        if let Some(version) = version {
            out.push(b'/');
            out.extend_from_slice(NUMBERS);
            Version::write(version, out);
        }
    }

    fn read(bytes: &[u8]) -> Option<OwnedName> {
        let (view, name) = read_view(bytes)?;
        if view != View::Versions {
            return Some(OwnedName { key: Text::read(name)?, version: None });
        }
        let (key, version) = name.split_at_checked(name.len().checked_sub(8)?)?;
        let key = Text::read(key.strip_suffix(NUMBERS)?.strip_suffix(b"/")?)?;
        Some(OwnedName { key, version: Some(Version::read(version)?) })
    }
}

/// What a live name is in a directory that is listed.
pub(crate) enum Child {
    /// A number, in the directory of a key's versions.
    Version(Version),
    /// A directory, by its name.
    Directory(String),
    /// A file, by its name.
    File(String),
}

pub(crate) type Names = Span<NameLayout, Inode>;

impl Table<NameLayout, Inode> {
    /// The names of a view whose key starts with `start`.
    pub(crate) fn starting_with(&self, view: View, start: &str) -> Names {
        let mut prefix = vec![self.tag()];
        write_view(view, &mut prefix);
        Text::write(start, &mut prefix);
        self.span(prefix)
    }

    /// The names in a directory of a view, and in those below it.
    pub(crate) fn below(&self, view: View, directory: &str) -> Names {
        let start = if directory.is_empty() { String::new() } else { join_path(directory, "") };
        self.starting_with(view, &start)
    }

    /// The numbers of a key's versions.
    pub(crate) fn numbers(&self, key: &str) -> Names {
        let mut span = self.below(View::Versions, key);
        span.push(NUMBERS);
        span
    }

    /// The names below a directory of the view of versions, without its own numbers.
    pub(crate) fn keys_below(&self, directory: &str) -> Names {
        self.below(View::Versions, directory).starting_at(&[NUMBERS[0] + 1])
    }
}

/// A directory that is listed: its names, and where in them.
impl Names {
    /// From past a directory in it.
    pub(crate) fn past_directory(self, name: &str) -> Names {
        let rest = [name.as_bytes(), &[PAST_DIRECTORY]].concat();
        self.starting_at(&rest)
    }

    /// From past a file in it.
    pub(crate) fn past_file(self, name: &str) -> Names {
        let rest = [name.as_bytes(), &[PAST_NAME]].concat();
        self.starting_at(&rest)
    }

    /// From a number in it on.
    pub(crate) fn starting_at_number(self, number: Version) -> Names {
        let mut rest = NUMBERS.to_vec();
        Version::write(number, &mut rest);
        self.starting_at(&rest)
    }

    /// The numbers in it.
    pub(crate) fn only_numbers(mut self) -> Names {
        self.push(NUMBERS);
        self
    }

    /// What a name is in it.
    pub(crate) fn child(&self, row: &Row<NameLayout, Inode>) -> Result<Child> {
        let rest = row.raw_key().get(self.prefix().len()..).unwrap_or_default();
        if let Some(number) = rest.strip_prefix(NUMBERS) {
            let number = Version::read(number);
            return number
                .map(Child::Version)
                .ok_or_else(|| Error::Inconsistent("a version's name has not 8 bytes".into()));
        }
        let text = |bytes: &[u8]| {
            Text::read(bytes).ok_or_else(|| Error::Inconsistent("a name is not UTF-8".into()))
        };
        match rest.iter().position(|&b| b == b'/') {
            Some(slash) => Ok(Child::Directory(text(&rest[..slash])?)),
            None => Ok(Child::File(text(rest)?)),
        }
    }
}
