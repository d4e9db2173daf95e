//! Many small records in one entry of the database.
//!
//! The database keeps some 350 bytes in memory for each of its pages, reads the list of them when
//! it opens, and has no more than 16 entries in a page: a catalogue of millions of small records
//! would need hundreds of megabytes. So neighbours share an entry, a block, which is found by the
//! first key that belongs in it.
//!
//! | key in the database | value |
//! | --- | --- |
//! | 1, and the first key that belongs in it | a block: its entries in order, each `shared rest-length value-length rest value`, where the first `shared` bytes of its key are those of the key before |
//! | any other | a record by itself: what is as large as a block anyway, and `m`, which tells layouts apart |
//!
//! The first block is that of the empty key, so that every key has one. An entry
//! only ever moves to a block further on: whoever goes through the blocks in
//! order, and passes over keys it has had, misses nothing and has nothing twice.

use std::collections::BTreeMap;

use super::database::{Batch, Bytes, Database, Pair};
use super::tables::stands_alone;
use crate::error::{Error, Result};

/// The size from which a block is split, in bytes.
const BLOCK_LIMIT: usize = 1 << 10;
const BLOCK_TAG: u8 = 1;

/// Writes, in the order of keys; `None` takes a record away.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

type Record = (Vec<u8>, Vec<u8>);

fn block_key(first: &[u8]) -> Vec<u8> {
    [&[BLOCK_TAG], first].concat()
}

/// Every block, or those from one on.
fn blocks_from(key: Vec<u8>) -> std::ops::Range<Vec<u8>> {
    key..vec![BLOCK_TAG + 1]
}

fn put_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_number(from: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in (0..28).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Goes through the entries of a block until `each` has had enough.
fn walk<'a>(block: &'a [u8], mut each: impl FnMut(&[u8], &'a [u8]) -> bool) -> Result<()> {
    let mut rest = block;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let mut next = || {
            let (shared, tail) = (take_number(&mut rest)?, take_number(&mut rest)?);
            let len = take_number(&mut rest)?;
            if shared > key.len() {
                return None;
            }
            let (tail, after) = rest.split_at_checked(tail)?;
            let (value, after) = after.split_at_checked(len)?;
            rest = after;
            key.truncate(shared);
            key.extend_from_slice(tail);
            Some(value)
        };
        let value = next().ok_or_else(|| Error::Inconsistent("a block is cut short".into()))?;
        if !each(&key, value) {
            break;
        }
    }
    Ok(())
}

fn unpack(block: &[u8]) -> Result<Vec<Record>> {
    let mut entries = Vec::new();
    walk(block, |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        true
    })?;
    Ok(entries)
}

fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn pack_one(out: &mut Vec<u8>, before: &[u8], (key, value): &Record) {
    let shared = shared(before, key);
    put_number(out, shared);
    put_number(out, key.len() - shared);
    put_number(out, value.len());
    out.extend_from_slice(&key[shared..]);
    out.extend_from_slice(value);
}

/// The entries as blocks, each with its first key. Full ones, if more will come after the last;
/// else of one size, since more will come anywhere.
fn pack(entries: &[Record], appended: bool) -> Vec<(&[u8], Vec<u8>)> {
    let mut whole = Vec::new();
    let mut before: &[u8] = b"";
    for entry in entries {
        pack_one(&mut whole, before, entry);
        before = &entry.0;
    }
    let limit = match appended {
        true => BLOCK_LIMIT,
        false => whole.len() / whole.len().div_ceil(BLOCK_LIMIT).max(1) + 1,
    };
    let mut blocks: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut before: &[u8] = b"";
    for entry in entries {
        match blocks.last_mut() {
            Some((_, block)) if block.len() < limit => pack_one(block, before, entry),
            _ => {
                let mut block = Vec::new();
                pack_one(&mut block, b"", entry);
                blocks.push((&entry.0, block));
            }
        }
        before = &entry.0;
    }
    blocks
}

/// The block that a key belongs in.
fn block_of(db: &Database, key: &[u8]) -> Result<Option<Pair>> {
    let mut after = block_key(key);
    after.push(0);
    Ok(db.last_before(&after)?.filter(|(at, _)| at.first() == Some(&BLOCK_TAG)))
}

/// One record.
pub(super) fn get(db: &Database, key: &[u8]) -> Result<Option<Bytes>> {
    if stands_alone(key) {
        return db.get(key);
    }
    let Some((_, block)) = block_of(db, key)? else { return Ok(None) };
    let mut found = None;
    walk(&block, |at, value| {
        if at == key {
            found = Some(Bytes::from(value));
        }
        at < key
    })?;
    Ok(found)
}

/// The first record whose key is at least `from`, of those that share blocks.
pub(super) fn first_from(db: &Database, from: &[u8]) -> Result<Option<Pair>> {
    let mut next = match block_of(db, from)? {
        Some(block) => Some(block),
        None => db.first_after(&[BLOCK_TAG - 1])?,
    };
    while let Some((at, block)) = next.filter(|(at, _)| at.first() == Some(&BLOCK_TAG)) {
        let mut found = None;
        walk(&block, |key, value| {
            if key >= from {
                found = Some((Bytes::from(key), Bytes::from(value)));
            }
            found.is_none()
        })?;
        if found.is_some() {
            return Ok(found);
        }
        next = db.first_after(&at)?;
    }
    Ok(None)
}

/// Makes some writes at once. One thread at a time.
pub(super) fn write(db: &Database, writes: Writes) -> Result<()> {
    let mut batch = Batch::default();
    let (alone, packed): (Writes, Writes) =
        writes.into_iter().partition(|(key, _)| stands_alone(key));
    for (key, value) in alone {
        match value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    // In order, so that all that goes to one block comes together.
    let mut writes = packed.into_iter().peekable();
    while let Some((key, value)) = writes.next() {
        let (at, entries) = match block_of(db, &key)? {
            Some((at, block)) => (at.to_vec(), unpack(&block)?),
            None => (block_key(b""), Vec::new()),
        };
        let last = entries.last().map(|(key, _)| key.clone()).unwrap_or_default();
        let appended = key > last;
        let mut entries: BTreeMap<_, _> = entries.into_iter().collect();
        let mut next = Some((key, value));
        while let Some((key, value)) = next {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
            let same = |key: &[u8]| -> Result<bool> {
                Ok(block_of(db, key)?.map_or(block_key(b""), |(k, _)| k.to_vec()) == at)
            };
            next = match writes.peek() {
                Some((key, _)) if same(key)? => writes.next(),
                _ => None,
            };
        }
        let entries: Vec<Record> = entries.into_iter().collect();
        let blocks = pack(&entries, appended);
        let mut blocks = blocks.into_iter();
        match blocks.next() {
            Some((_, block)) => batch.insert(at, block),
            // The first one stays, so that every key has a block.
            None if at.len() == 1 => batch.insert(at, Vec::new()),
            None => batch.remove(at),
        }
        for (first, block) in blocks {
            batch.insert(block_key(first), block);
        }
    }
    db.apply(batch)
}

/// Goes through blocks, record by record.
struct Range<I> {
    blocks: I,
    records: std::vec::IntoIter<Record>,
    /// The least key that may come next.
    from: Vec<u8>,
}

/// The records from a key on, in order, of those that share blocks.
pub(super) fn range(
    db: &Database,
    from: Vec<u8>,
) -> Result<impl Iterator<Item = Result<Pair>> + use<'_>> {
    let start = block_of(db, &from)?.map_or(vec![BLOCK_TAG], |(at, _)| at.to_vec());
    Ok(Range { blocks: db.range(blocks_from(start)), records: Vec::new().into_iter(), from })
}

impl<I: Iterator<Item = Result<Pair>>> Iterator for Range<I> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for (key, value) in self.records.by_ref() {
                if key >= self.from {
                    self.from.clone_from(&key);
                    self.from.push(0);
                    return Some(Ok((key.into(), value.into())));
                }
            }
            match self.blocks.next()? {
                Ok((_, block)) => match unpack(&block) {
                    Ok(records) => self.records = records.into_iter(),
                    Err(e) => return Some(Err(e)),
                },
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// The records whose key starts with `prefix`, the last first.
pub(super) fn backwards<'d>(
    db: &'d Database,
    prefix: &[u8],
) -> Result<impl Iterator<Item = Result<Pair>> + use<'d>> {
    let start = block_of(db, prefix)?.map_or(vec![BLOCK_TAG], |(at, _)| at.to_vec());
    let mut end = block_key(prefix);
    end.push(0xff);
    let mut last: Option<Vec<u8>> = None;
    let prefix = prefix.to_vec();
    let entries = db.range(start..end).rev().flat_map(move |block| {
        let block = block.and_then(|(_, block)| unpack(&block));
        let mut found = Vec::new();
        match block {
            Err(e) => found.push(Err(e)),
            Ok(entries) => {
                for (key, value) in entries.into_iter().rev() {
                    if key.starts_with(&prefix) && last.as_ref().is_none_or(|last| key < *last) {
                        last = Some(key.clone());
                        found.push(Ok((key.into(), value.into())));
                    }
                }
            }
        }
        found
    });
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(path: &std::path::Path) -> Database {
        Database::open(path).map_err(|e| e.into_error(path)).unwrap()
    }

    fn model_key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 1..6),
            (0u16..400).prop_map(|n| [&b"k/dir/"[..], &n.to_be_bytes()].concat()),
            (0u8..4).prop_map(|n| vec![b'c', n]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_map(batches in proptest::collection::vec(
            proptest::collection::vec((model_key(), proptest::option::weighted(0.7, 0usize..300)), 1..40), 1..20)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let db = open(dir.path());
            let mut model = BTreeMap::new();
            for (n, writes) in batches.into_iter().enumerate() {
                let writes: Writes =
                    writes.into_iter().map(|(k, v)| (k, v.map(|len| vec![n as u8; len]))).collect();
                for (key, value) in &writes {
                    match value {
                        Some(value) => model.insert(key.clone(), value.clone()),
                        None => model.remove(key),
                    };
                }
                write(&db, writes.clone()).unwrap();
                for key in writes.keys() {
                    let found = get(&db, key).unwrap().map(|value| value.to_vec());
                    prop_assert_eq!(found.as_ref(), model.get(key));
                }
                let shared = |k: &[u8]| !stands_alone(k);
                let whole: Vec<_> = range(&db, vec![]).unwrap()
                    .map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
                let expected: Vec<_> = model.iter().filter(|(k, _)| shared(k))
                    .map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(&whole, &expected);
                for prefix in [&b"a"[..], b"k/dir/", b"ab", b"z"] {
                    let first = first_from(&db, prefix).unwrap().map(|(key, _)| key.to_vec());
                    let next = model.range(prefix.to_vec()..).find(|(k, _)| shared(k)).map(|(k, _)| k.clone());
                    prop_assert_eq!(first, next);
                    let back: Vec<_> = backwards(&db, prefix).unwrap().map(|e| e.unwrap().0.to_vec()).collect();
                    let mut under: Vec<_> =
                        model.keys().filter(|k| shared(k) && k.starts_with(prefix)).cloned().collect();
                    under.reverse();
                    prop_assert_eq!(back, under);
                }
            }
        }
    }

    #[test]
    fn a_damaged_block_is_an_error() {
        for block in [&[1, 1, 1, b'a', b'b'][..], &[0, 200], &[0, 5, 1, b'a'], &[0xff; 9]] {
            assert!(unpack(block).is_err());
        }
    }
}
