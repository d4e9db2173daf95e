//! Every error there is: its code, what it says, and its hint.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use wasmfs_fs::Error as FsError;
use wasmfs_store::artifact::{Difference, NotAnArtifact};
use wasmfs_store::{Error as StoreError, InvalidKey, Key, KeyError, Sha, Version};

use super::{Error, Failure};

fn key() -> Key {
    Key::new("app.cwasm").unwrap()
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(13)
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(2)
}

/// One of every variant.
fn of_the_store() -> Vec<StoreError> {
    let dir = || Path::new("/home/u/.local/share/wasmfs").to_owned();
    let difference = |wanted: &str| {
        let (what, left, right) = ("compiler".into(), "Winch".into(), wanted.to_owned());
        Difference { what, left, right }
    };
    let json = || serde_json::from_str::<Vec<u32>>("[1, x]").unwrap_err();
    vec![
        StoreError::Io { action: "writing", path: dir().join("history"), source: denied() },
        StoreError::Input(ErrorKind::UnexpectedEof.into()),
        StoreError::Output(io::Error::from_raw_os_error(28)),
        StoreError::NotAnArchive("its history is empty".into()),
        StoreError::ArchiveCutShort,
        StoreError::ChangedUnderExport,
        StoreError::StoreNotEmpty(dir()),
        StoreError::InUse { dir: dir(), pid: Some(4711) },
        StoreError::NoStore(dir()),
        StoreError::NotAStore { dir: dir(), found: "notes.txt".into() },
        StoreError::UnsafeTempDir("/home/u/tmp".into()),
        StoreError::NotAFile(dir().join("db/conf")),
        StoreError::ForeignPart { path: dir().join("db"), owner: 1000 },
        StoreError::NewerArchive { found: 3, supported: 2 },
        StoreError::ForeignLink { path: "/srv/shared/store".into(), owner: 1000 },
        StoreError::LinkAtEnd { path: dir(), target: "/data/wasmfs".into() },
        StoreError::ForeignParent {
            dir: "/home/u/.local".into(),
            parent: "/home/u".into(),
            owner: 1000,
        },
        StoreError::WrongOwner { dir: dir(), owner: 1000, uid: 0 },
        StoreError::NewerFormat { dir: dir(), found: 3, supported: 2 },
        StoreError::Settings { path: dir().join("settings.json"), source: json() },
        StoreError::Key(InvalidKey { name: "a/../b".into(), rule: KeyError::Dots }),
        StoreError::KeyConflict { key: Key::new("a/b").unwrap(), other: "a".into() },
        StoreError::NotAnArtifact(NotAnArtifact::Empty),
        StoreError::CannotStage { dir: dir().join("incoming"), source: denied() },
        StoreError::StagedGone("0123456789abcdef.0".into()),
        StoreError::UnfitStaged {
            name: "0123456789abcdef.0".into(),
            reason: "its size is not the one that the command announced",
        },
        StoreError::NotWasm,
        StoreError::NoEngine("prod".into()),
        StoreError::AmbiguousEngine("3d181f".into()),
        StoreError::NoAlias("prod".into()),
        StoreError::AliasName { name: ".x".into(), rule: "an alias doesn't start with '.' or '-'" },
        StoreError::OtherEngine {
            wanted: "prod".into(),
            differences: vec![difference("Cranelift")],
        },
        StoreError::NotOfEngine { key: key(), engine: "wasmtime-48-x86_64-3d181f2b".into() },
        StoreError::Overtaken { key: key(), version: Version(3), source_known: true },
        StoreError::HeldBack,
        StoreError::NoPayload(Sha::of(b"")),
        StoreError::NoKey(key()),
        StoreError::KeyRemoved(key()),
        StoreError::VersionRemoved { key: key(), version: Version(2) },
        StoreError::NotServed(key()),
        StoreError::NoVersion { key: key(), version: Version(9) },
        StoreError::NoEarlierVersion(key()),
        StoreError::DiskFull { dir: dir(), needed: 9_000_000, available: 4096 },
        StoreError::HistoryDamaged {
            path: dir().join("history"),
            offset: 4711,
            reason: "its checksum is wrong".into(),
        },
        StoreError::HistoryPoisoned,
        StoreError::NoCatalogue,
        StoreError::Catalogue("a page of the database can't be read".into()),
        StoreError::Inconsistent("inode 17 belongs to no version".into()),
        StoreError::PayloadDamaged { sha256: Sha::of(b"").hex(), reason: "block 3 differs".into() },
    ]
}

fn of_the_mount() -> Vec<FsError> {
    let place = || Path::new("/home/u/.cache/wasm-modules").to_owned();
    vec![
        FsError::NotFound,
        FsError::Hidden,
        FsError::NotADirectory,
        FsError::IsADirectory,
        FsError::NotALink,
        FsError::NameTooLong,
        FsError::NoAttribute,
        FsError::MountPointNotEmpty { mount_point: place(), found: "notes.txt".into() },
        FsError::MountPointNotADirectory(place()),
        FsError::AlreadyMounted(place()),
        FsError::MountedElsewhere(place()),
        FsError::Ending,
        FsError::NotMounted(place()),
        FsError::AllowOtherForbidden,
        FsError::NoPassthrough("only root can have files registered for it".into()),
        FsError::OldKeeper,
        FsError::ForeignMount { mount_point: place(), owner: 1000 },
        FsError::OtherStoresMount { mount_point: place(), store: "/srv/wasmfs".into() },
        FsError::MountPointMoved(place()),
        FsError::MountPointInUse(place()),
        FsError::ForeignServer { path: "/srv/wasmfs/control.sock".into(), owner: 1000 },
        FsError::Busy(place()),
        FsError::NoFusermount(missing()),
        FsError::Fusermount("fusermount3: mount failed: Operation not permitted".into()),
        FsError::NoFuseDevice(denied()),
        FsError::Io { action: "making", path: place(), source: denied() },
        FsError::Session(io::Error::from_raw_os_error(32)),
        FsError::OtherAgreement("flags"),
        FsError::Channel(io::Error::from_raw_os_error(32)),
        FsError::Unguarded,
        FsError::Reloading,
        FsError::NoResend,
        FsError::WorkerDied("signal 9".into()),
    ]
}

fn of_commands() -> Vec<Error> {
    let path = || Path::new("/usr/bin/wasmtime").to_owned();
    let status = ExitStatus::from_raw(1 << 8);
    let log = || Path::new("/home/u/.local/share/wasmfs/wasmfs.log").to_owned();
    vec![
        Error::usage("no file is named", "`wasmfs publish FILE...`"),
        Error::CannotOpen(missing()),
        Error::FileIsADirectory,
        Error::FileChanging,
        Error::UnreadableDirectory { dir: "cache".into(), source: denied() },
        Error::FileExists("backup.tar".into()),
        Error::LinksLeadNowhere,
        Error::LinkNotSeen,
        Error::LinkFileChanged,
        Error::CompiledAlready,
        Error::NoSource,
        Error::NoKeys,
        Error::CannotCompile("unexpected end of file at 8".into()),
        Error::CannotRunCompiler { path: path(), source: missing() },
        Error::NotACompiler { path: path(), status, said: ": unknown option".into() },
        Error::CompilerFailed { path: path(), status },
        Error::CompilerWroteNothing { path: path(), source: missing() },
        Error::Interrupted,
        Error::CannotRunCommand { program: "yowasp".into(), source: missing() },
        Error::UnknownTarget("foo".into()),
        Error::NoNamespace("making a namespace: Operation not permitted (os error 1)".into()),
        Error::NotPinned { key: key(), version: Version(2) },
        Error::LookupUnanswered,
        Error::RepairMounted,
        Error::MountedDifferently("/home/u/.cache/wasm-modules".into()),
        Error::KeeperEnded { status, log: log() },
        Error::NotServing("/home/u/.local/share/wasmfs".into()),
        Error::ServerEnded,
        Error::ReloadFailed(": it can't read the store".into()),
        Error::ServerLost,
        Error::ServerUnreachable,
        Error::ServerSilent { seconds: 60, log: log() },
        Error::OtherProtocol { server: "4".into(), command: "5".into() },
        Error::UnknownRequest("GET /v2/keys".into()),
        Error::Malformed { what: "request", reason: "missing field `key`".into() },
        Error::RequestTooLarge("more than 268435456 bytes of JSON".into()),
    ]
}

/// Every error as a failure, by code; and whether each code of a crate has one.
fn all() -> BTreeMap<String, Failure> {
    let mut found = BTreeMap::new();
    let mut add = |codes: &[&str], failures: Vec<Failure>| {
        let mut told: Vec<_> = failures.iter().map(|failure| failure.code.clone()).collect();
        told.sort();
        let mut all: Vec<_> = codes.iter().map(|code| (*code).to_owned()).collect();
        all.sort();
        assert_eq!(told, all, "every variant has one example");
        for failure in failures {
            let code = failure.code.clone();
            assert!(code == "io" || !found.contains_key(&code), "{code} is two errors'");
            found.entry(code).or_insert(failure);
        }
    };
    let store = of_the_store().into_iter().map(|e| Failure::of(&e.into())).collect();
    add(StoreError::CODES, store);
    let mut fs_codes = FsError::CODES.to_vec();
    // These are only what another error is told by.
    fs_codes.retain(|code| !["store", "explained"].contains(code));
    add(&fs_codes, of_the_mount().iter().map(Failure::of_mount).collect());
    add(Error::CODES, of_commands().into_iter().map(Failure::from).collect());
    found
}

#[test]
fn every_error_has_a_code_a_message_and_mostly_a_hint() {
    for (code, Failure { message, hint, .. }) in all() {
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
        assert!(!message.is_empty() && !message.ends_with('.'), "{code}: {message}");
        assert!(!message.contains("code: "), "{code}: {message}");
        assert!(hint.is_none_or(|hint| !hint.is_empty() && !hint.ends_with('.')), "{code}");
    }
}

#[test]
fn a_code_crosses_to_another_process_and_back() {
    for failure in all().into_values() {
        let there = Failure::decode(&failure.encode());
        assert_eq!((&there.code, &there.message), (&failure.code, &failure.message));
        assert_eq!(Failure::of(&anyhow::Error::from(there).context("asking")).code, failure.code);
    }
    // What an older program says has no code.
    let old = Failure::decode("{\"message\": \"there is no key x\", \"hint\": null}");
    assert_eq!((&*old.code, &*old.message), ("unknown", "there is no key x"));
    assert_eq!(Failure::decode("boo").message, "boo");
}

/// `make snapshots` writes the page anew.
#[test]
fn the_page_of_errors_has_all_of_them() {
    let mut text =
        "| code | message, for example | hint, for example |\n| --- | --- | --- |\n".to_owned();
    for (code, Failure { message, hint, .. }) in all() {
        let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
        let hint = hint.map_or("".into(), |hint| cell(&hint));
        text += &format!("| `{code}` | {} | {hint} |\n", cell(&message));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ERRORS.md");
    let start = "<!-- generated: `make snapshots` writes it anew -->\n";
    let page = fs::read_to_string(&path).unwrap();
    let (before, written) = page.split_once(start).unwrap();
    if std::env::var_os("WASMFS_UPDATE").is_some() {
        fs::write(&path, [before, start, &text].concat()).unwrap();
    } else {
        assert!(written == text, "docs/ERRORS.md is not as it was generated: `make snapshots`");
    }
}
