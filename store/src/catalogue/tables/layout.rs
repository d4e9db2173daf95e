//! How keys and values are written. Numbers are big-endian, so that the order of bytes is that of
//! what they stand for.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::types::{EngineNumber, Inode, Sha, Version, View};

/// How a key is written.
pub(crate) trait KeyLayout {
    /// A key as it is looked up.
    type Ref<'a>: Copy;
    /// A key as it is read.
    type Owned;

    fn write(key: Self::Ref<'_>, out: &mut Vec<u8>);

    /// Reads all of `bytes`; `None` if they are no such key.
    fn read(bytes: &[u8]) -> Option<Self::Owned>;
}

/// A key that starts with a part by which others are found.
pub(crate) trait Composite: KeyLayout {
    /// The part.
    type Part<'a>: Copy;

    fn write_part(part: Self::Part<'_>, out: &mut Vec<u8>);
}

/// A key that always takes so many bytes.
pub(crate) trait Fixed: KeyLayout {
    const LEN: usize;
}

/// The only key of its table.
pub(crate) struct Only;

impl KeyLayout for Only {
    type Ref<'a> = ();
    type Owned = ();

    fn write((): (), _: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Option<()> {
        bytes.is_empty().then_some(())
    }
}

/// Text.
pub(crate) struct Text;

impl KeyLayout for Text {
    type Ref<'a> = &'a str;
    type Owned = String;

    fn write(key: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(key.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<String> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl KeyLayout for Sha {
    type Ref<'a> = &'a Sha;
    type Owned = Sha;

    fn write(key: &Sha, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.0);
    }

    fn read(bytes: &[u8]) -> Option<Sha> {
        bytes.try_into().ok().map(Sha)
    }
}

impl Fixed for Sha {
    const LEN: usize = 32;
}

macro_rules! number_layout {
    ($name:ty, $inner:ty, $wrap:expr, $unwrap:expr) => {
        impl KeyLayout for $name {
            type Ref<'a> = $name;
            type Owned = $name;

            fn write(key: $name, out: &mut Vec<u8>) {
                let unwrap: fn($name) -> $inner = $unwrap;
                out.extend_from_slice(&unwrap(key).to_be_bytes());
            }

            fn read(bytes: &[u8]) -> Option<$name> {
                bytes.try_into().ok().map(<$inner>::from_be_bytes).map($wrap)
            }
        }

        impl Fixed for $name {
            const LEN: usize = size_of::<$inner>();
        }
    };
}

number_layout!(Inode, u64, Inode, |inode| inode.0);
number_layout!(Version, u64, Version, |version| version.0);
number_layout!(EngineNumber, u32, EngineNumber, |number| number.0);
number_layout!(u32, u32, |number| number, |number| number);

/// Two keys, of which the first has a fixed length.
pub(crate) struct Then<A, B>(PhantomData<(A, B)>);

impl<A: Fixed, B: KeyLayout> KeyLayout for Then<A, B> {
    type Ref<'a> = (A::Ref<'a>, B::Ref<'a>);
    type Owned = (A::Owned, B::Owned);

    fn write((first, second): Self::Ref<'_>, out: &mut Vec<u8>) {
        A::write(first, out);
        B::write(second, out);
    }

    fn read(bytes: &[u8]) -> Option<Self::Owned> {
        let (first, second) = bytes.split_at_checked(A::LEN)?;
        Some((A::read(first)?, B::read(second)?))
    }
}

impl<A: Fixed, B: KeyLayout> Composite for Then<A, B> {
    type Part<'a> = A::Ref<'a>;

    fn write_part(part: A::Ref<'_>, out: &mut Vec<u8>) {
        A::write(part, out);
    }
}

/// A key of the store, NUL, and a version: the numbers of a key in order.
pub(crate) struct KeyVersion;

impl KeyLayout for KeyVersion {
    type Ref<'a> = (&'a str, Version);
    type Owned = (String, Version);

    fn write((key, version): (&str, Version), out: &mut Vec<u8>) {
        Self::write_part(key, out);
        Version::write(version, out);
    }

    fn read(bytes: &[u8]) -> Option<(String, Version)> {
        let (key, version) = bytes.split_at_checked(bytes.len().checked_sub(Version::LEN)?)?;
        Some((Text::read(key.strip_suffix(b"\0")?)?, Version::read(version)?))
    }
}

impl Composite for KeyVersion {
    type Part<'a> = &'a str;

    fn write_part(key: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(key.as_bytes());
        out.push(0);
    }
}

/// Writes a view: what all of its names start with.
pub(super) fn write_view(view: View, out: &mut Vec<u8>) {
    match view {
        View::Keys => out.push(b'k'),
        View::Versions => out.push(b'v'),
        View::Engine(number) => {
            out.push(b'e');
            EngineNumber::write(number, out);
        }
    }
}

/// Reads a view, and what comes after it.
pub(super) fn read_view(bytes: &[u8]) -> Option<(View, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    Some(match tag {
        b'k' => (View::Keys, rest),
        b'v' => (View::Versions, rest),
        b'e' => {
            let (number, rest) = rest.split_at_checked(EngineNumber::LEN)?;
            (View::Engine(EngineNumber::read(number)?), rest)
        }
        _ => return None,
    })
}

/// A view, and a path in it.
pub(crate) struct ViewPath;

impl KeyLayout for ViewPath {
    type Ref<'a> = (View, &'a str);
    type Owned = (View, String);

    fn write((view, path): (View, &str), out: &mut Vec<u8>) {
        write_view(view, out);
        Text::write(path, out);
    }

    fn read(bytes: &[u8]) -> Option<(View, String)> {
        let (view, path) = read_view(bytes)?;
        Some((view, Text::read(path)?))
    }
}

/// How a value is written.
pub(crate) trait ValueLayout {
    /// A value as it is written.
    type Ref<'a>: Copy;
    /// A value as it is read.
    type Owned;

    fn write(value: Self::Ref<'_>) -> Result<Vec<u8>>;

    fn read(bytes: &[u8]) -> Result<Self::Owned>;
}

/// A record, in postcard. What comes after it is ignored.
pub(crate) struct Record<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned + 'static> ValueLayout for Record<T> {
    type Ref<'a> = &'a T;
    type Owned = T;

    fn write(record: &T) -> Result<Vec<u8>> {
        postcard::to_stdvec(record)
            .map_err(|e| Error::Inconsistent(format!("encoding a record: {e}")))
    }

    fn read(bytes: &[u8]) -> Result<T> {
        postcard::from_bytes(bytes)
            .map_err(|e| Error::Inconsistent(format!("a record can't be decoded: {e}")))
    }
}

/// An inode number.
impl ValueLayout for Inode {
    type Ref<'a> = Inode;
    type Owned = Inode;

    fn write(inode: Inode) -> Result<Vec<u8>> {
        Ok(inode.0.to_be_bytes().to_vec())
    }

    fn read(bytes: &[u8]) -> Result<Inode> {
        <Inode as KeyLayout>::read(bytes)
            .ok_or_else(|| Error::Inconsistent("an inode number has not 8 bytes".into()))
    }
}

/// Bytes.
pub(crate) struct Raw;

impl ValueLayout for Raw {
    type Ref<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn write(bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

/// Nothing: the key says it all.
pub(crate) struct Nothing;

impl ValueLayout for Nothing {
    type Ref<'a> = ();
    type Owned = ();

    fn write((): ()) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn read(_: &[u8]) -> Result<()> {
        Ok(())
    }
}
