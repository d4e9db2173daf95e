//! The engines of a store: what is known of each, their other names, and the
//! plain names that they serve.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::artifact::engine::{Engine, EngineDescription, decode as decode_section};
use crate::artifact::inspect::{MAX_ENGINE_SECTION, NotAnArtifact};
use crate::catalogue::records::*;
use crate::catalogue::{Catalogue, Changes, Records, decode, for_each_under, live_directory};
use crate::error::{Error, Result};
use crate::history::log::{Change, History};
use crate::store::open::{Planned, Store};
use crate::store::queries::rfc3339;
use crate::store::tree::{Entry, EntryKind};
use crate::types::key::{Key, MAX_COMPONENT_LEN};

/// The shortest fingerprint in an engine's label, in hexadecimal digits.
const LABEL_DIGITS: usize = 8;
/// The shortest start of a fingerprint that names an engine, in hexadecimal digits.
const MIN_FINGERPRINT: usize = 6;
/// What labels start with, and aliases don't.
const LABEL_START: &str = "wasmtime-";

/// What is known of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Its name in the mount, for ever.
    pub label: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// What its artifacts say of it.
    #[serde(flatten)]
    pub engine: Engine,
    /// What compiled the last of its versions of which that is known.
    pub producer: Option<String>,
    /// How many keys have a version of it.
    pub keys: usize,
    /// When a version of it was last published: RFC 3339, UTC.
    pub last_publish: Option<String>,
}

/// What came of moving plain names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The label of the engine that they belong to now.
    pub engine: String,
    /// The keys whose plain names moved.
    pub moved: Vec<Key>,
    /// How many belonged to it already.
    pub unchanged: usize,
    /// Keys that this engine has no version of: they stay where they were.
    pub lacking: Vec<Key>,
}

impl Store {
    /// Every engine, in the order they came to the store.
    pub fn engines(&self) -> Result<Vec<EngineInfo>> {
        let catalogue = self.catalogue()?;
        let engines = catalogue.scan(&engines_prefix());
        engines.map(|entry| engine_info(&catalogue, engine_number_of(&entry?.0)?)).collect()
    }

    /// The engine that `name` means: an alias, a label, or the start of a fingerprint.
    pub fn engine(&self, name: &str) -> Result<EngineInfo> {
        let catalogue = self.catalogue()?;
        engine_info(&catalogue, find_engine(&catalogue, name)?)
    }

    /// Gives an engine another name, or moves that name to it.
    pub fn alias(&self, name: &str, engine: &str) -> Result<(EngineInfo, Changes)> {
        check_alias(name)?;
        let (mut writer, mut planned) = self.begin()?;
        let number = find_engine(&planned.txn, engine)?;
        let changes = plan_alias(&mut planned, &writer, name, number)?;
        self.commit(&mut writer, planned)?;
        drop(writer);
        Ok((engine_info(&*self.catalogue()?, number)?, changes))
    }

    /// Takes another name of an engine away.
    pub fn unalias(&self, name: &str) -> Result<(EngineInfo, Changes)> {
        let (mut writer, mut planned) = self.begin()?;
        let alias = planned.txn.alias(name)?.ok_or_else(|| Error::NoAlias(name.to_owned()))?;
        let change = Change::Unalias { name: name.to_owned(), engine: alias.engine };
        let changes = planned.add(&writer, change)?;
        self.commit(&mut writer, planned)?;
        drop(writer);
        Ok((engine_info(&*self.catalogue()?, alias.engine)?, changes))
    }

    /// Gives a name to the engine whose artifacts have `section`, whether the
    /// store has any or not.
    pub fn learn(&self, name: &str, section: &[u8]) -> Result<(EngineInfo, Changes)> {
        check_alias(name)?;
        if section.is_empty() || section.len() as u64 > MAX_ENGINE_SECTION {
            return Err(NotAnArtifact::Truncated("it names its engine at odd length".into()).into());
        }
        let (mut writer, mut planned) = self.begin()?;
        let mut changes = Changes::default();
        let description = decode_section(section).description;
        let number = plan_engine(&mut planned, &writer, &description, section, &mut changes)?;
        changes.extend(plan_alias(&mut planned, &writer, name, number)?);
        self.commit(&mut writer, planned)?;
        drop(writer);
        Ok((engine_info(&*self.catalogue()?, number)?, changes))
    }

    /// Moves the plain names of `keys`, or of every key, to an engine with one
    /// commit: after a crash all have moved, or none.
    pub fn set_default(&self, keys: Option<&[Key]>, engine: &str) -> Result<(Moved, Changes)> {
        let (mut writer, mut planned) = self.begin()?;
        let number = find_engine(&planned.txn, engine)?;
        let label = planned.txn.engine(number)?.label;
        let mut moved = Moved { engine: label, moved: vec![], unchanged: 0, lacking: vec![] };
        let candidates: BTreeSet<Key> = match keys {
            Some(keys) => keys.iter().cloned().collect(),
            None => live_keys(planned.txn.base())?,
        };
        for key in &candidates {
            let name = key.as_str();
            let record: Option<KeyRecord> = planned.txn.record(&key_key(name))?;
            let has = planned.txn.number(&name_key(View::Engine(number), name, 0))?.is_some();
            match record {
                None => return Err(Error::NoKey(key.clone())),
                Some(_) if !has => moved.lacking.push(key.clone()),
                Some(record) if record.default_engine == number => moved.unchanged += 1,
                Some(_) => moved.moved.push(key.clone()),
            }
        }
        if let (Some(_), [key, ..]) = (keys, &moved.lacking[..]) {
            return Err(Error::NotOfEngine { key: key.clone(), engine: moved.engine });
        }
        let mut changes = Changes::default();
        if !moved.moved.is_empty() {
            let keys = moved.moved.iter().map(Key::to_string).collect();
            changes = planned.add(&writer, Change::Default { keys, engine: number })?;
        }
        self.commit(&mut writer, planned)?;
        Ok((moved, changes))
    }
}

fn engine_info(catalogue: &Catalogue, number: EngineNumber) -> Result<EngineInfo> {
    let record = catalogue.engine(number)?;
    let mut aliases = catalogue.aliases()?;
    aliases.retain(|(_, alias)| alias.engine == number);
    let aliases = aliases.into_iter().map(|(name, _)| name).collect();
    let mut names = catalogue.scan(&names_prefix(View::Engine(number), ""));
    let last_publish = (record.last_publish > 0).then(|| rfc3339(record.last_publish));
    Ok(EngineInfo {
        aliases,
        label: record.label,
        engine: described(catalogue, number)?,
        producer: record.producer,
        keys: names.try_fold(0, |count, name| name.map(|_| count + 1))?,
        last_publish,
    })
}

/// Every key that has a version left.
fn live_keys(catalogue: &Catalogue) -> Result<BTreeSet<Key>> {
    let mut keys = BTreeSet::new();
    for entry in catalogue.scan(&key_key("")) {
        let (key, _) = entry?;
        let name = String::from_utf8_lossy(&key[1..]).into_owned();
        if catalogue.has_versions(&name)? {
            keys.insert(Key::new(name)?);
        }
    }
    Ok(keys)
}

/// What is known of an engine's settings; nothing if its section was never kept.
pub(crate) fn described(records: &impl Records, number: EngineNumber) -> Result<Engine> {
    let mut section = Vec::new();
    for_each_under(records, &section_prefix(number), |_, piece| {
        section.extend_from_slice(piece);
        Ok(())
    })?;
    let description = records.engine(number)?.description;
    Ok(Engine { description, ..decode_section(&section) })
}

/// The number of the engine that a name means.
pub(crate) fn find_engine(records: &impl Records, name: &str) -> Result<EngineNumber> {
    if let Some(alias) = records.alias(name)? {
        return Ok(alias.engine);
    }
    if let Some(number) = records.engine_number(&label_key(name))? {
        return Ok(number);
    }
    let mut found = Vec::new();
    if name.len() >= MIN_FINGERPRINT && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        let hex = name.to_ascii_lowercase();
        for_each_under(records, &engines_prefix(), |key, value| {
            let record: EngineRecord = decode(value)?;
            if record.description.fingerprint.hex().starts_with(&hex) {
                found.push(engine_number_of(key)?);
            }
            Ok(())
        })?;
    }
    match found[..] {
        [number] => Ok(number),
        [] => Err(Error::NoEngine(name.to_owned())),
        _ => Err(Error::AmbiguousEngine(name.to_owned())),
    }
}

/// The number of an engine, which gets one if it is new.
pub(crate) fn plan_engine(
    planned: &mut Planned,
    writer: &History,
    description: &EngineDescription,
    section: &[u8],
    changes: &mut Changes,
) -> Result<EngineNumber> {
    let fingerprint = fingerprint_key(&description.fingerprint);
    let (number, inode, label) = match planned.txn.engine_number(&fingerprint)? {
        Some(number) => {
            let told = planned.txn.any_under(&section_prefix(number))?;
            let inode = planned.txn.number(&directory_key(View::Engine(number), ""))?;
            match inode {
                // All that a wasmfs that kept no sections left out.
                Some(inode) if !told => (number, inode, planned.txn.engine(number)?.label),
                _ => return Ok(number),
            }
        }
        None => {
            let mut digits = LABEL_DIGITS;
            let mut label = description.label(digits);
            while planned.txn.engine_number(&label_key(&label))?.is_some() && digits < 64 {
                digits += 4;
                label = description.label(digits);
            }
            let applied = planned.txn.applied()?;
            (applied.next_engine, applied.next_inode, label)
        }
    };
    let section = BASE64.encode(section);
    let description = description.clone();
    let change = Change::Engine {
        number,
        inode,
        label,
        description,
        section,
        producer: None,
        last_publish: None,
    };
    changes.extend(planned.add(writer, change)?);
    Ok(number)
}

fn plan_alias(
    planned: &mut Planned,
    writer: &History,
    name: &str,
    engine: EngineNumber,
) -> Result<Changes> {
    let before = planned.txn.alias(name)?.map(|alias| alias.engine);
    if before == Some(engine) {
        return Ok(Changes::default());
    }
    let inode = planned.txn.applied()?.next_inode;
    planned.add(writer, Change::Alias { name: name.to_owned(), engine, inode, before })
}

/// An alias is a name in the mount and on command lines, and never taken for a label.
fn check_alias(name: &str) -> Result<()> {
    let wrong = |rule| Err(Error::AliasName { name: name.to_owned(), rule });
    if name.is_empty() || name.len() > MAX_COMPONENT_LEN {
        return wrong("it has from 1 to 255 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b)) {
        return wrong("it has letters, digits, '.', '_', '+' and '-'");
    }
    if name.starts_with(['.', '-']) {
        return wrong("it starts with neither '.' nor '-'");
    }
    if name.starts_with(LABEL_START) {
        return wrong("names that start with \"wasmtime-\" are given by wasmfs itself");
    }
    Ok(())
}

/// The number in the key of an engine's record.
pub(crate) fn engine_number_of(key: &[u8]) -> Result<EngineNumber> {
    let number = key.get(engines_prefix().len()..).and_then(|number| number.try_into().ok());
    let number = number.map(u32::from_be_bytes);
    number.ok_or_else(|| Error::Inconsistent("an engine's number has not 4 bytes".into()))
}

/// The entries among the engines that show: their directories, and links to
/// them, in the order of inode numbers.
pub(crate) fn engine_entries(records: &impl Records) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for_each_under(records, &engines_prefix(), |key, value| {
        let number = engine_number_of(key)?;
        if let Some(inode) = live_directory(records, View::Engine(number), "")? {
            let name = decode::<EngineRecord>(value)?.label;
            entries.push(Entry { name, inode, kind: EntryKind::Directory, place: inode });
        }
        Ok(())
    })?;
    let link = |(name, AliasRecord { inode, .. })| Entry {
        name,
        inode,
        kind: EntryKind::Link,
        place: inode,
    };
    entries.extend(records.aliases()?.into_iter().map(link));
    entries.sort_unstable_by_key(|entry| entry.inode);
    Ok(entries)
}
