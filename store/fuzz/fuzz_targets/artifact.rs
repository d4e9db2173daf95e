//! Whatever bytes somebody publishes: reading them never panics, and what is
//! read is fit to be stored and shown.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use wasmfs_store::artifact::inspect;
use wasmfs_store::artifact::decode;

/// An engine that anything can be compared with.
const OTHER: &[u8] = b"\0\x0248\x18x86_64-unknown-linux-gnu\0\0";

fuzz_target!(|bytes: &[u8]| {
    // As a whole file.
    if let Ok(artifact) = inspect(Cursor::new(bytes)) {
        check(&artifact.section);
    }
    // As the section alone, which a file's headers would rarely let through.
    check(bytes);
});

fn check(section: &[u8]) {
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
