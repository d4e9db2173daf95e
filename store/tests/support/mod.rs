//! Artifacts made by hand: what the store reads of one, and nothing else.
#![allow(dead_code, reason = "each test uses some of it")]

pub mod disk;
pub mod random;

use std::path::Path;

use wasmfs_store::{InlineLimit, Inode, Key, Publish, Published, Settings, Store, StoreDir};

/// An ELF file as wasmtime writes it: a header, the payload as `.text`, the
/// engine's section, and the section headers at the end.
pub fn elf(abi: u8, flags: u32, engine: &[u8], text: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.text\0.wasmtime.engine\0.shstrtab\0";
    let text_at = 64;
    let engine_at = text_at + text.len();
    let names_at = engine_at + engine.len();
    let headers_at = (names_at + NAMES.len()).next_multiple_of(8);
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, abi, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend(1u16.to_le_bytes()); // ET_REL
    out.extend(62u16.to_le_bytes()); // EM_X86_64
    out.extend(1u32.to_le_bytes());
    out.extend([0; 16]); // entry, program headers
    out.extend((headers_at as u64).to_le_bytes());
    out.extend(flags.to_le_bytes());
    for n in [64u16, 0, 0, 64, 4, 3] {
        out.extend(n.to_le_bytes());
    }
    out.extend([text, engine, NAMES].concat());
    out.resize(headers_at, 0);
    let mut section = |name: u32, kind: u32, at: usize, len: usize| {
        out.extend(name.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend([0; 16]); // flags, address
        out.extend((at as u64).to_le_bytes());
        out.extend((len as u64).to_le_bytes());
        out.extend([0; 8]); // link, info
        out.extend(1u64.to_le_bytes());
        out.extend([0; 8]);
    };
    section(0, 0, 0, 0);
    section(1, 1, text_at, text.len());
    section(7, 1, engine_at, engine.len());
    section(24, 3, names_at, NAMES.len());
    out
}

/// The section of an engine: version, target, and whatever tells it from others.
pub fn engine(version: &str, target: &str, rest: &[u8]) -> Vec<u8> {
    let mut section = vec![0, version.len() as u8];
    section.extend(version.as_bytes());
    section.push(target.len() as u8);
    section.extend(target.as_bytes());
    section.extend(rest);
    section
}

/// A module of engine `engine` (any number), whose code is `size` bytes that depend on `seed`.
pub fn artifact(engine_number: u8, seed: u32, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let text: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    elf(200, 1, &engine("48", "x86_64-unknown-linux-gnu", &[engine_number]), &text)
}

/// Runs `test` with payloads as a new store keeps them, and all inside sled.
pub fn with_both_limits(test: impl Fn(&Settings)) {
    for inline_limit in [Settings::default().inline_limit, InlineLimit::UNLIMITED] {
        eprintln!("--- inline limit {inline_limit:?}");
        test(&Settings { inline_limit, ..Settings::default() });
    }
}

pub fn open(dir: &Path, settings: &Settings) -> Store {
    StoreDir::open_or_create(dir, settings).unwrap();
    Store::open(dir).unwrap()
}

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn publish(store: &Store, name: &str, bytes: &[u8]) -> Published {
    try_publish(store, name, bytes, false).unwrap()
}

pub fn try_publish(
    store: &Store,
    name: &str,
    bytes: &[u8],
    make_default: bool,
) -> wasmfs_store::Result<Published> {
    let staged = store.stage(bytes)?;
    let request = Publish { make_default, ..Publish::new(Key::new(name)?, staged) };
    store.publish(vec![request], false)?.0.remove(0)
}

/// All bytes of a version, by its inode number.
pub fn read(store: &Store, inode: Inode) -> wasmfs_store::Result<Vec<u8>> {
    match store.inode(inode)? {
        Some(wasmfs_store::InodeRecord::Version(version)) => {
            store.read(&version, 0, version.size as usize)
        }
        other => panic!("inode {inode} is {other:?}"),
    }
}
