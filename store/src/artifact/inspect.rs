//! Reading a precompiled wasmtime artifact without wasmtime.
//!
//! An artifact is an ELF64 relocatable file with OS/ABI 200 (wasmtime-environ
//! 48, `obj.rs`: `ELFOSABI_WASMTIME`), `e_flags` 1 for a module, 2 for a
//! component, 4 or 8 added for Pulley bytecode, and a section
//! `.wasmtime.engine` that describes the engine that compiled it.

use std::io::{Read, Seek, SeekFrom};

use object::elf::{FileHeader64, SHT_NOBITS};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, ReadCache, ReadRef};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, EngineDescription, decode};
use crate::types::base64_bytes;

const ELFOSABI_WASMTIME: u8 = 200;
const EF_MODULE: u32 = 1;
const EF_COMPONENT: u32 = 2;
const EF_PULLEY32: u32 = 4;
const EF_PULLEY64: u32 = 8;
const ENGINE_SECTION: &[u8] = b".wasmtime.engine";
/// The longest description of an engine, in bytes; wasmtime 48 writes some 1,500.
pub(crate) const MAX_ENGINE_SECTION: u64 = 64 << 10;
/// The most sections; wasmtime 48 writes some 15.
const MAX_SECTIONS: usize = 1024;

/// What was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A core module: hosts load it with `Module::deserialize_file`.
    Module,
    /// A component: hosts load it with `Component::deserialize_file`.
    Component,
}

/// What an artifact says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Module or component.
    pub kind: ArtifactKind,
    /// Who compiled it.
    pub engine: EngineDescription,
    /// The section that says so, at most 64 KiB.
    #[serde(with = "base64_bytes")]
    pub section: Vec<u8>,
}

impl Artifact {
    /// Who compiled it, with its settings.
    #[must_use]
    pub fn described(&self) -> Engine {
        Engine { description: self.engine.clone(), ..decode(&self.section) }
    }
}

/// Why bytes are not an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnArtifact {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// A WebAssembly module in binary form.
    #[error("this is a wasm module, not a compiled artifact")]
    WasmModule,
    /// A WebAssembly component in binary form.
    #[error("this is a wasm component, not a compiled artifact")]
    WasmComponent,
    /// WebAssembly text.
    #[error("this is WebAssembly text, not a compiled artifact")]
    Wat,
    /// ELF, but not wasmtime's.
    #[error("this is an ELF file of another kind (OS/ABI {0}), not one that wasmtime compiled")]
    OtherElf(u8),
    /// wasmtime's ELF, cut short or damaged.
    #[error("this is a wasmtime artifact that is truncated or damaged ({0})")]
    Truncated(String),
    /// Anything else.
    #[error("this is neither a wasmtime artifact nor WebAssembly")]
    Unknown,
}

/// Reads what `file` says of itself. Only headers and the engine's section are
/// read, whatever the file's size.
pub fn inspect<R: Read + Seek>(mut file: R) -> Result<Artifact, NotAnArtifact> {
    let truncated = |e: &dyn std::fmt::Display| NotAnArtifact::Truncated(e.to_string());
    let size = file.seek(SeekFrom::End(0)).map_err(|e| truncated(&e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| truncated(&e))?;
    let mut head = Vec::new();
    (&mut file).take(64).read_to_end(&mut head).map_err(|e| truncated(&e))?;
    sniff(&head)?;

    let cache = ReadCache::new(file);
    let data = &cache;
    let header = FileHeader64::<Endianness>::parse(data).map_err(|e| truncated(&e))?;
    let endian = header.endian().map_err(|e| truncated(&e))?;
    let flags = header.e_flags(endian);
    let kind = match flags & (EF_MODULE | EF_COMPONENT) {
        EF_MODULE => ArtifactKind::Module,
        EF_COMPONENT => ArtifactKind::Component,
        _ => return Err(NotAnArtifact::Truncated(format!("unknown e_flags {flags:#x}"))),
    };
    if header.shnum(endian, data).map_err(|e| truncated(&e))? > MAX_SECTIONS {
        return Err(NotAnArtifact::Truncated("it has too many sections".into()));
    }
    let sections = header.sections(endian, data).map_err(|e| truncated(&e))?;
    let mut engine = None;
    for section in sections.iter() {
        let (offset, len) = (section.sh_offset(endian), section.sh_size(endian));
        if section.sh_type(endian) != SHT_NOBITS
            && offset.checked_add(len).is_none_or(|end| end > size)
        {
            return Err(NotAnArtifact::Truncated("a section ends beyond the file".into()));
        }
        let name = sections.section_name(endian, section).map_err(|e| truncated(&e))?;
        if name == ENGINE_SECTION {
            if engine.is_some() || len == 0 || len > MAX_ENGINE_SECTION {
                return Err(NotAnArtifact::Truncated(
                    "section `.wasmtime.engine` is empty, duplicated or over 64 KiB".into(),
                ));
            }
            engine = Some(data.read_bytes_at(offset, len).map_err(|()| {
                NotAnArtifact::Truncated("the engine's section can't be read".into())
            })?);
        }
    }
    let Some(section) = engine else {
        return Err(NotAnArtifact::Truncated("it names no engine".into()));
    };
    let mut engine = decode(section).description;
    engine.pulley |= flags & (EF_PULLEY32 | EF_PULLEY64) != 0;
    Ok(Artifact { kind, engine, section: section.to_vec() })
}

/// What the first 64 bytes rule out.
fn sniff(head: &[u8]) -> Result<(), NotAnArtifact> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match head {
        [] => Err(NotAnArtifact::Empty),
        [b'\0', b'a', b's', b'm', _, _, layer, ..] if *layer != 0 => {
            Err(NotAnArtifact::WasmComponent)
        }
        [b'\0', b'a', b's', b'm', ..] => Err(NotAnArtifact::WasmModule),
        [0x7f, b'E', b'L', b'F', rest @ ..] => match rest.get(3) {
            Some(&ELFOSABI_WASMTIME) if head.len() == 64 => Ok(()),
            Some(&ELFOSABI_WASMTIME) | None => {
                Err(NotAnArtifact::Truncated("the ELF header is cut short".into()))
            }
            Some(&abi) => Err(NotAnArtifact::OtherElf(abi)),
        },
        _ if text.starts_with(b"(module")
            || text.starts_with(b"(component")
            || text.starts_with(b";;")
            || text.starts_with(b"(;") =>
        {
            Err(NotAnArtifact::Wat)
        }
        _ => Err(NotAnArtifact::Unknown),
    }
}
