use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::{BLOCK, BLOCK_OF_FORMAT_1};
use crate::history::Change;
use crate::{Error, FORMAT, Settings, Sha, Store};

/// Something that passes for a source, of so many bytes.
fn bytes(size: usize) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    bytes.extend(
        (bytes.len()..size).map(|at| (at as u32).wrapping_mul(0x9e37_79b1).to_be_bytes()[0]),
    );
    bytes
}

/// A store with a payload whose blocks are of `block` bytes.
fn store_with(dir: &std::path::Path, bytes: &[u8], block: u64) -> (Store, Sha) {
    let store = Store::open_or_create(dir).unwrap();
    let upload = store.stage_source(bytes).unwrap().upload;
    let hashes = bytes.chunks(block as usize).map(Sha256::digest);
    let blocks = BASE64.encode(hashes.collect::<Vec<_>>().concat());
    let (sha256, size, kind) = (upload.sha256, upload.size, upload.kind);
    let change = Change::Payload { sha256, size, kind, inline: false, blocks };
    let (mut writer, mut planned) = store.begin().unwrap();
    planned.add(&writer, change).unwrap();
    store.payloads.keep_as_objects(&[&upload]).unwrap();
    store.commit(&mut writer, planned).unwrap();
    drop(writer);
    (store, sha256)
}

#[test]
fn payloads_of_either_block_size_are_read_and_checked() {
    // Around the sizes at which the two have as many hashes, or records, or a full one.
    let per_record = super::HASHES_PER_RECORD as u64;
    let sizes = [BLOCK, BLOCK + 1, BLOCK_OF_FORMAT_1, BLOCK_OF_FORMAT_1 + 1, 1_000_000];
    let full = [per_record * BLOCK, per_record * BLOCK + 1, per_record * BLOCK_OF_FORMAT_1 + 1];
    for size in sizes.into_iter().chain(full) {
        for block in [BLOCK, BLOCK_OF_FORMAT_1] {
            let dir = tempfile::tempdir().unwrap();
            let good = bytes(size as usize);
            let (store, sha256) = store_with(dir.path(), &good, block);
            let read = |at: u64, len: usize| store.read_payload(&sha256, at, len);
            // Windows that begin and end anywhere, and some that go on from the last.
            for at in [0, 100_000, 5, 36_869, 131_072, 131_073, size - 1, size, 65_536] {
                let expected = good.get(at as usize..).unwrap_or_default();
                let expected = &expected[..expected.len().min(131_072)];
                assert!(read(at, 131_072).unwrap().unwrap() == expected, "{at} of {size}");
            }
            let object = store.payloads.object(&sha256);
            fs::set_permissions(&object, fs::Permissions::from_mode(0o600)).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&object).unwrap();
            let last = size - 1;
            file.write_all_at(&[!good[last as usize]], last).unwrap();
            store.payloads.reader.forget(&sha256);
            let start = last / block * block;
            match read(last, 1) {
                Err(Error::PayloadDamaged { at, .. }) => assert_eq!((at, size), (start, size)),
                other => panic!("{other:?}"),
            }
            if start > 0 {
                assert!(read(start - 1, 1).is_ok(), "{size}, blocks of {block}");
            }
        }
    }
}

#[test]
fn a_store_of_format_1_becomes_one_of_this_format_when_something_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let good = bytes(300_000);
    let (store, sha256) = store_with(dir.path(), &good, BLOCK_OF_FORMAT_1);
    store.close().unwrap();
    let settings = dir.path().join("settings.json");
    fs::write(&settings, "{\"format\": 1, \"inline_limit\": 9}").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.read_payload(&sha256, 0, 300_000).unwrap().unwrap() == good);
    assert_eq!(crate::settings::read_settings(&settings).unwrap().format, 1);
    store.close().unwrap();
    let (store, other) = store_with(dir.path(), &bytes(200_000), BLOCK);
    let expected = Settings { inline_limit: crate::InlineLimit::Bytes(9), ..Settings::default() };
    assert_eq!(crate::settings::read_settings(&settings).unwrap(), expected);
    assert_eq!(expected.format, FORMAT);
    assert!(store.read_payload(&sha256, 0, 300_000).unwrap().unwrap() == good);
    assert!(store.read_payload(&other, 0, 200_000).unwrap().unwrap() == bytes(200_000));
}
