//! The engines of a store: what is known of each, their other names, and the
//! plain names that they serve.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::handle::Store;
use super::queries::rfc3339;
use super::writer::Writer;
use crate::artifact::{
    Artifact, Engine, EngineDescription, MAX_ENGINE_SECTION, NotAnArtifact, decode,
};
use crate::catalogue::tables::{
    ENGINE_KEYS, ENGINES, FINGERPRINTS, KEYS, LABELS, NAMES, Name, SECTIONS,
};
use crate::catalogue::{Catalogue, Changes, Records};
use crate::error::{Error, Result};
use crate::history::Change;
use crate::types::{EngineNumber, Key, MAX_COMPONENT_LEN, View};

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
    pub keys: u64,
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
        let engines = catalogue.scan(&ENGINES.all());
        engines.map(|row| engine_info(&catalogue, row?.key()?)).collect()
    }

    /// The engine that `name` means: an alias, a label, or the start of a fingerprint.
    pub fn engine(&self, name: &str) -> Result<EngineInfo> {
        let catalogue = self.catalogue()?;
        engine_info(&catalogue, find_engine(&*catalogue, name)?)
    }

    /// Gives an engine another name, or moves that name to it.
    pub fn alias(&self, name: &str, engine: &str) -> Result<(EngineInfo, Changes)> {
        check_alias(name)?;
        let mut writer = self.writer()?;
        let number = find_engine(writer.view(), engine)?;
        plan_alias(&mut writer, name, number)?;
        let changes = writer.commit()?;
        Ok((engine_info(&*self.catalogue()?, number)?, changes))
    }

    /// Takes another name of an engine away.
    pub fn unalias(&self, name: &str) -> Result<(EngineInfo, Changes)> {
        let mut writer = self.writer()?;
        let alias = writer.view().alias(name)?;
        let alias = alias.ok_or_else(|| Error::NoAlias(name.to_owned()))?;
        writer.add(Change::Unalias { name: name.to_owned(), engine: alias.engine })?;
        let changes = writer.commit()?;
        Ok((engine_info(&*self.catalogue()?, alias.engine)?, changes))
    }

    /// Gives a name to the engine whose artifacts have `section`, whether the
    /// store has any or not.
    pub fn learn(&self, name: &str, section: &[u8]) -> Result<(EngineInfo, Changes)> {
        check_alias(name)?;
        if section.is_empty() || section.len() as u64 > MAX_ENGINE_SECTION {
            return Err(NotAnArtifact::Truncated(
                "section `.wasmtime.engine` is empty, duplicated or over 64 KiB".into(),
            )
            .into());
        }
        let mut writer = self.writer()?;
        let description = decode(section).description;
        let number = plan_engine(&mut writer, &description, section)?;
        plan_alias(&mut writer, name, number)?;
        let changes = writer.commit()?;
        Ok((engine_info(&*self.catalogue()?, number)?, changes))
    }

    /// Moves the plain names of `keys`, or of every key, to an engine with one
    /// commit: after a crash all have moved, or none.
    pub fn set_default(&self, keys: Option<&[Key]>, engine: &str) -> Result<(Moved, Changes)> {
        let mut writer = self.writer()?;
        let number = find_engine(writer.view(), engine)?;
        let label = writer.view().engine(number)?.label;
        let mut moved = Moved { engine: label, moved: vec![], unchanged: 0, lacking: vec![] };
        let candidates: BTreeSet<Key> = match keys {
            Some(keys) => keys.iter().cloned().collect(),
            None => live_keys(writer.catalogue())?,
        };
        for key in &candidates {
            let name = key.as_str();
            let record = writer.view().get(&KEYS, name)?;
            let engines_name = Name::in_view(View::Engine(number), name);
            let has = writer.view().get(&NAMES, engines_name)?.is_some();
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
        if !moved.moved.is_empty() {
            let keys = moved.moved.iter().map(Key::to_string).collect();
            writer.add(Change::Default { keys, engine: number })?;
        }
        Ok((moved, writer.commit()?))
    }
}

fn engine_info(catalogue: &Catalogue, number: EngineNumber) -> Result<EngineInfo> {
    let record = catalogue.engine(number)?;
    let mut aliases = catalogue.aliases()?;
    aliases.retain(|(_, alias)| alias.engine == number);
    let aliases = aliases.into_iter().map(|(name, _)| name).collect();
    let last_publish = (record.last_publish > 0).then(|| rfc3339(record.last_publish));
    Ok(EngineInfo {
        aliases,
        label: record.label,
        engine: described(catalogue, number)?,
        producer: record.producer,
        keys: catalogue.get(&ENGINE_KEYS, number)?.unwrap_or(0),
        last_publish,
    })
}

/// Every key that has a version left.
fn live_keys(catalogue: &Catalogue) -> Result<BTreeSet<Key>> {
    let mut keys = BTreeSet::new();
    for row in catalogue.scan(&KEYS.all()) {
        let name = row?.key()?;
        if catalogue.has_versions(&name)? {
            keys.insert(Key::new(name)?);
        }
    }
    Ok(keys)
}

/// An engine's section `.wasmtime.engine`; nothing if it was never kept.
pub(crate) fn section_of(records: &impl Records, number: EngineNumber) -> Result<Vec<u8>> {
    let mut section = Vec::new();
    records.for_each(&SECTIONS.of(number), |row| {
        section.extend_from_slice(row.raw_value());
        Ok(())
    })?;
    Ok(section)
}

/// Refuses an artifact that is not of an engine, which the user calls `called`.
pub fn check_engine(artifact: &Artifact, wanted: &Engine, called: &str) -> Result<()> {
    let differences = artifact.described().differences(wanted);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::OtherEngine { wanted: called.to_owned(), differences })
}

/// What is known of an engine's settings; nothing if its section was never kept.
pub(crate) fn described(records: &impl Records, number: EngineNumber) -> Result<Engine> {
    let description = records.engine(number)?.description;
    Ok(Engine { description, ..decode(&section_of(records, number)?) })
}

/// The number of the engine that a name means.
pub(crate) fn find_engine(records: &impl Records, name: &str) -> Result<EngineNumber> {
    if let Some(alias) = records.alias(name)? {
        return Ok(alias.engine);
    }
    if let Some(number) = records.get(&LABELS, name)? {
        return Ok(number);
    }
    let mut found = Vec::new();
    if name.len() >= MIN_FINGERPRINT && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        let hex = name.to_ascii_lowercase();
        records.for_each(&ENGINES.all(), |row| {
            if row.value()?.description.fingerprint.hex().starts_with(&hex) {
                found.push(row.key()?);
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
    writer: &mut Writer<'_>,
    description: &EngineDescription,
    section: &[u8],
) -> Result<EngineNumber> {
    let view = writer.view();
    let known = view.get(&FINGERPRINTS, &description.fingerprint)?;
    let (number, inode, label) = match known {
        Some(number) => {
            let told = view.any(&SECTIONS.of(number))?;
            let inode = view.directory(View::Engine(number), "")?;
            match inode {
                // All that a wasmfs that kept no sections left out.
                Some(inode) if !told => (number, inode, view.engine(number)?.label),
                _ => return Ok(number),
            }
        }
        None => {
            let mut digits = LABEL_DIGITS;
            let mut label = description.label(digits);
            while view.get(&LABELS, &label)?.is_some() && digits < 64 {
                digits += 4;
                label = description.label(digits);
            }
            let applied = view.applied()?;
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
    writer.add(change)?;
    Ok(number)
}

fn plan_alias(writer: &mut Writer<'_>, name: &str, engine: EngineNumber) -> Result<()> {
    let before = writer.view().alias(name)?.map(|alias| alias.engine);
    if before == Some(engine) {
        return Ok(());
    }
    let inode = writer.view().applied()?.next_inode;
    writer.add(Change::Alias { name: name.to_owned(), engine, inode, before })
}

/// An alias is a name in the mount and on command lines, and never taken for a label.
pub(crate) fn check_alias(name: &str) -> Result<()> {
    let wrong = |rule| Err(Error::AliasName { name: name.to_owned(), rule });
    if name.is_empty() || name.len() > MAX_COMPONENT_LEN {
        return wrong("an alias has from 1 to 255 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b)) {
        return wrong("an alias has only letters, digits, '.', '_', '+' and '-'");
    }
    if name.starts_with(['.', '-']) {
        return wrong("an alias doesn't start with '.' or '-'");
    }
    if name.starts_with(LABEL_START) {
        return wrong("names that start with \"wasmtime-\" are given by wasmfs itself");
    }
    Ok(())
}
