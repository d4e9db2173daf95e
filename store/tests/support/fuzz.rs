//! What must hold of whatever bytes somebody brings: for `store/fuzz/` and for `tests/fuzz.rs`.

use std::io::Cursor;

use wasmfs_store::Key;
use wasmfs_store::artifact::{decode, inspect};

/// An engine that anything can be compared with.
const OTHER: &[u8] = b"\0\x0248\x18x86_64-unknown-linux-gnu\0\0";

/// Bytes that are published as an artifact.
pub fn artifact(bytes: &[u8]) {
    // As a whole file.
    if let Ok(artifact) = inspect(Cursor::new(bytes)) {
        section(&artifact.section);
    }
    // As the section alone, which a file's headers would rarely let through.
    section(bytes);
}

/// Reading a section never panics, and what is read is fit to be stored and shown.
fn section(section: &[u8]) {
    let engine = decode(section);
    let label = engine.description.label(8);
    assert!(!label.is_empty() && label.len() < 256);
    assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b)));
    for text in [&engine.description.wasmtime, &engine.description.target] {
        assert!(!text.contains(char::is_control));
    }
    for setting in engine.settings.iter().flatten() {
        assert!(!setting.value.contains(char::is_control), "{setting:?}");
        assert!(!setting.name.contains(char::is_control), "{setting:?}");
    }
    let other = decode(OTHER);
    let found = engine.differences(&other);
    assert_eq!(found.is_empty(), section == OTHER);
}

/// A name that is given for a key.
pub fn key(bytes: &[u8]) {
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Ok(key) = Key::new(name)
    {
        assert_eq!(key.as_str(), name);
        let (directory, last) = key.split();
        assert!(!last.is_empty() && !last.contains('/') && !last.contains('\0'));
        assert!(name == last || name == format!("{directory}/{last}"));
    }
}
