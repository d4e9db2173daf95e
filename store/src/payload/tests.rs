//! `wasmfs tests`.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::blocks::differs;
use super::info::{BLOCK_SIZE, LARGE_BLOCK, PayloadInfo};
use super::objects::ObjectFault;
use crate::artifact::ArtifactKind;
use crate::catalogue::tables::{HASHES_PER_RECORD, PayloadRecord};
use crate::history::Change;
use crate::{Error, FORMAT, Sha, Store};

/// Something that passes for a source, of so many bytes; another for each `seed`.
fn bytes(size: u64, seed: u8) -> Vec<u8> {
    let mut bytes = [&b"\0asm\x01\0\0\0"[..], &[seed]].concat();
    let more = bytes.len() as u32..size as u32;
    bytes.extend(more.map(|at| at.wrapping_mul(0x9e37_79b1).to_be_bytes()[0]));
    bytes
}

/// Has the store have a payload whose blocks are large ones, or not.
fn add(store: &Store, bytes: &[u8], inline: bool, large_blocks: bool) -> Sha {
    let upload = store.stage_source(bytes).unwrap().payload;
    let (sha256, size, kind) = (upload.sha256, upload.size, upload.kind);
    let record = PayloadRecord { size, kind, inline, large_blocks };
    let block = PayloadInfo::new(&sha256, &record).block_size;
    let hashes = bytes.chunks(block as usize).map(Sha256::digest).collect::<Vec<_>>().concat();
    let mut writer = store.writer().unwrap();
    writer.add(record.change(sha256, &hashes)).unwrap();
    match inline {
        true => store.staging.keep_inline(writer.catalogue(), &[&upload]).unwrap(),
        false => store.objects.keep(&[&upload], &store.staging).unwrap(),
    }
    writer.commit().unwrap();
    sha256
}

fn damage(object: &Path, at: u64, good: &[u8]) {
    fs::set_permissions(object, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(object).unwrap();
    file.write_all_at(&[!good[at as usize]], at).unwrap();
}

/// Windows that begin and end anywhere, one after the other, and some that go on from the last.
fn check_windows(store: &Store, sha256: &Sha, good: &[u8]) {
    let size = good.len() as u64;
    let last = size - 1;
    for at in [0, 100_000, 5, 36_869, 131_072, 131_073, 65_536, 40_000, last, size, u64::MAX] {
        for len in [131_072, 4096, 1, 0, usize::MAX] {
            let expected = good.get(at as usize..).unwrap_or_default();
            let expected = &expected[..expected.len().min(len)];
            let read = store.read_payload(sha256, at, len).unwrap().unwrap();
            assert!(read == expected, "{len} bytes at {at} of {size}");
        }
    }
}

#[test]
fn payloads_of_either_block_size_are_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let record = HASHES_PER_RECORD as u64;
    let around =
        [BLOCK_SIZE, LARGE_BLOCK, record * BLOCK_SIZE].into_iter().flat_map(|at| [at, at + 1]);
    // Inside the catalogue not the largest, which takes long.
    let sizes = around.chain([9, 1_000_000, record * LARGE_BLOCK + 1]);
    let all = sizes.flat_map(|size| [(size, false), (size, true)]);
    for (size, inline) in all.filter(|(size, inline)| !inline || *size < 5_000_000) {
        for large in [false, true] {
            let good = bytes(size, 2 * u8::from(inline) + u8::from(large));
            let sha256 = add(&store, &good, inline, large);
            check_windows(&store, &sha256, &good);
            let catalogue = store.catalogue().unwrap();
            let payload = PayloadInfo::find(&catalogue, &sha256).unwrap().unwrap();
            assert!(store.objects.reader().is_whole(&catalogue, &payload).unwrap());
            if inline {
                continue;
            }
            let object = store.objects.path(&sha256);
            let check = || store.objects.check(&catalogue, &payload, &mut |_| {}).unwrap();
            assert!(check().is_none());
            let last = payload.size - 1;
            damage(&object, last, &good);
            assert!(!store.objects.reader().is_whole(&catalogue, &payload).unwrap());
            let block = if large { LARGE_BLOCK } else { BLOCK_SIZE };
            let said = differs(last / block * block);
            assert!(matches!(check(), Some(ObjectFault::Damaged(found)) if found == said));
        }
    }
}

#[test]
fn a_damaged_block_is_an_error_and_its_neighbours_are_not() {
    for large in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let good = bytes(1_000_000, 1);
        let sha256 = add(&store, &good, false, large);
        damage(&store.objects.path(&sha256), 600_000, &good);
        let block = if large { LARGE_BLOCK } else { BLOCK_SIZE };
        let start = 600_000 / block * block;
        for (at, len) in [(start, 1), (start - 1, 2), (start + block - 1, 1), (0, 1_000_000)] {
            match store.read_payload(&sha256, at, len) {
                Err(Error::PayloadDamaged { reason, .. }) => {
                    assert_eq!(reason, differs(start));
                }
                other => panic!("{len} at {at}: {other:?}"),
            }
        }
        for at in [start - 1, start + block] {
            let read = store.read_payload(&sha256, at, 1).unwrap().unwrap();
            assert_eq!(read, good[at as usize..][..1]);
        }
    }
}

#[test]
fn what_is_remembered_of_a_block_is_never_taken_for_another() {
    for inline in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let good = bytes(300_000, 1);
        for large in [true, false, true] {
            // The same payload, collected and published again meanwhile.
            let sha256 = add(&store, &good, inline, large);
            check_windows(&store, &sha256, &good);
        }
    }
}

#[test]
fn large_blocks_survive_a_snapshot_and_a_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let (old, new) = (bytes(500_000, 1), bytes(600_000, 2));
    let (first, second) = (add(&store, &old, false, true), add(&store, &new, false, false));
    store.close().unwrap();
    let history = fs::read_to_string(dir.path().join("history")).unwrap();
    let lines: Vec<_> = history.lines().filter(|line| line.contains("payload")).collect();
    // An older program refuses the second, which it can't read.
    assert!(lines[0].contains("\"blocks\":") && !lines[0].contains("\"blocks32k\":"), "{history}");
    assert!(!lines[1].contains("\"blocks\":") && lines[1].contains("\"blocks32k\":"), "{history}");
    for round in 0..2 {
        fs::remove_dir_all(dir.path().join("db")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        check_windows(&store, &first, &old);
        check_windows(&store, &second, &new);
        if round == 0 {
            assert!(store.compact(store.last_change(), true).unwrap().is_some());
        }
        store.close().unwrap();
    }
}

#[test]
fn a_payload_line_without_hashes_that_are_known_is_refused() {
    let (size, kind) = (500_000, ArtifactKind::Module);
    let record = PayloadRecord { size, kind, inline: false, large_blocks: false };
    let change = record.change(Sha([3; 32]), &[7; 32]);
    let line = serde_json::to_value(&change).unwrap();
    assert_eq!(serde_json::from_value::<Change>(line.clone()).unwrap(), change);
    let text = line.to_string();
    assert!(text.contains("\"blocks32k\""), "{text}");
    let newer = text.replace("blocks32k", "blocks8k");
    assert!(serde_json::from_str::<Change>(&newer).is_err());
}

#[test]
fn records_of_format_1_are_read_as_they_are() {
    // Size, kind, and whether it is inside the catalogue.
    for inline in [false, true] {
        let old = postcard::to_stdvec(&(500_000u64, ArtifactKind::Module, inline)).unwrap();
        let record: PayloadRecord = postcard::from_bytes(&old).unwrap();
        assert_eq!((record.size, record.inline, record.large_blocks), (500_000, inline, true));
        assert_eq!(postcard::to_stdvec(&record).unwrap(), old);
        let new = PayloadRecord { large_blocks: false, ..record };
        let read: PayloadRecord =
            postcard::from_bytes(&postcard::to_stdvec(&new).unwrap()).unwrap();
        assert_eq!(read, new);
    }
}

#[test]
fn a_store_is_of_this_format_from_the_first_payload_on_that_only_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    let old = bytes(300_000, 1);
    let sha256 = add(&store, &old, false, true);
    store.close().unwrap();
    let path = dir.path().join("settings.json");
    fs::write(&path, "{\"format\": 1, \"mine\": \"kept\"}").unwrap();
    let settings =
        || -> serde_json::Value { serde_json::from_slice(&fs::read(&path).unwrap()).unwrap() };
    let store = Store::open(dir.path()).unwrap();
    check_windows(&store, &sha256, &old);
    store.close().unwrap();
    assert_eq!(settings()["format"], 1);
    let store = Store::open(dir.path()).unwrap();
    store.raise_format().unwrap();
    let expected = serde_json::json!({"wasmfs": "store", "format": FORMAT, "mine": "kept"});
    assert_eq!(settings(), expected);
    check_windows(&store, &sha256, &old);
}
