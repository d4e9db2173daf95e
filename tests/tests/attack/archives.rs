//! Archives of somebody who knows the format.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wasmfs_store::Sha;
use wasmfs_tests::{Environment, output};

use crate::{module, text, with_attacker};

/// A line of a history, with the right checksum.
fn line(seq: u64, mut change: Value) -> String {
    let entry = change.as_object_mut().unwrap();
    entry.insert("seq".into(), seq.into());
    entry.insert("after".into(), (seq - 1).into());
    entry.insert("time".into(), 1_700_000_000_000_000_000u64.into());
    let text = change.to_string();
    format!("{{\"sum\":\"{}\",\"entry\":{text}}}\n", &Sha::of(text.as_bytes()).hex()[..16])
}

/// What is in an archive: its entries' names, types and contents.
type Entries = Vec<(String, tar::EntryType, Vec<u8>)>;

fn read(archive: &Path) -> Entries {
    let mut archive = tar::Archive::new(File::open(archive).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().display().to_string();
        (name, entry.header().entry_type(), content)
    });
    entries.collect()
}

fn write(path: &Path, entries: &Entries) {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(if kind.is_file() { content.len() as u64 } else { 0 });
        header.set_entry_type(*kind);
        header.set_mode(0o400);
        if kind.is_symlink() {
            let target = String::from_utf8_lossy(content).into_owned();
            tar.append_link(&mut header, name, target).unwrap();
        } else {
            tar.append_data(&mut header, name, &content[..]).unwrap();
        }
    }
    tar.into_inner().unwrap();
}

/// The lines of the history of an archive.
fn history(entries: &Entries) -> Vec<Value> {
    let text = String::from_utf8(entries.last().unwrap().2.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"].clone()).collect()
}

/// The archive with another history.
fn with_history(entries: &Entries, changes: Vec<Value>) -> Entries {
    let lines = (1..).zip(changes).map(|(seq, mut change)| {
        for name in ["seq", "after", "time"] {
            change.as_object_mut().unwrap().remove(name);
        }
        line(seq, change)
    });
    let mut entries = entries.clone();
    entries.last_mut().unwrap().2 = lines.collect::<String>().into_bytes();
    entries
}

/// All names in a store, but for those of the server.
fn left_in(store: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(store).into_iter().map(Result::unwrap);
    files.filter(|file| file.file_type().is_file()).map(|file| file.path().to_owned()).collect()
}

/// What is left of a store that nothing came into.
fn check_nothing_is_left(store: &Path) {
    if store.exists() {
        for file in left_in(store) {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(["settings.json", "lock"].contains(&name), "{} is left", file.display());
        }
    }
}

fn exported(env: &Environment) -> Entries {
    env.run(&["publish", text(&module(env, 0)), "--key", "dir/key"]);
    env.run(&["engines", "alias", "prod", env.json(&["engines"])[0]["label"].as_str().unwrap()]);
    env.run(&["export", text(&env.path("good.tar"))]);
    read(&env.path("good.tar"))
}

/// Changes the first line of this kind.
fn changed(changes: &[Value], op: &str, field: &str, value: Value) -> Vec<Value> {
    let mut changes = changes.to_vec();
    let change = changes.iter_mut().find(|change| change["op"] == op).unwrap();
    change[field] = value;
    changes
}

/// Histories that break a rule each, and every line of which has the right checksum.
fn senseless(changes: &[Value]) -> Vec<(String, Vec<Value>)> {
    let mut all = Vec::new();
    let long = "x".repeat(2000);
    for key in ["", "../../x", "/etc/x", "a//b", ".wasmfs/x", "a\u{1b}[2J", "a/./b", &long] {
        all.push((format!("key {key:.20}"), changed(changes, "publish", "key", json!(key))));
    }
    for (op, field, value) in [
        ("publish", "inode", json!(1)),
        ("publish", "inode", json!(0)),
        ("publish", "inode", json!(u64::MAX)),
        ("publish", "version", json!(0)),
        ("publish", "engine", json!(0)),
        ("publish", "version", json!(u64::MAX)),
        ("publish", "engine", json!(77)),
        ("engine", "label", json!("wasmtime-48-x86_64-00000000")),
        ("publish", "sha256", json!("0".repeat(64))),
        ("publish", "directories", json!([{"view": "Keys", "path": "../x", "inode": 900}])),
        ("publish", "directories", json!([{"view": "Keys", "path": "dir", "inode": 2}])),
        ("engine", "label", json!("../../x")),
        ("engine", "label", json!("")),
        ("engine", "inode", json!(3)),
        ("engine", "number", json!(0)),
        ("alias", "name", json!("../x")),
        ("alias", "inode", json!(4)),
        ("alias", "engine", json!(77)),
        ("payload", "size", json!(0)),
        ("payload", "size", json!(1u64 << 40)),
        ("payload", "blocks32k", json!("")),
        ("payload", "blocks32k", json!("A".repeat(43) + "=")),
        ("payload", "kind", json!("component")),
    ] {
        let name = format!("{op} {field} {value:.60}");
        all.push((name, changed(changes, op, field, value)));
    }
    // The same inode number twice, and the same version.
    let again = |version: u64, inode: u64| {
        let mut publish = changes.iter().find(|c| c["op"] == "publish").unwrap().clone();
        let own = publish["inode"].as_u64().unwrap();
        publish["version"] = json!(version);
        publish["inode"] = json!(if inode == 0 { own } else { inode });
        publish.as_object_mut().unwrap().remove("directories");
        [changes, &[publish]].concat()
    };
    all.push(("an inode number twice".into(), again(2, 0)));
    all.push(("a version twice".into(), again(1, 5000)));
    all.push(("nothing".into(), Vec::new()));
    // What is in use is given up.
    let sha256 = changes.iter().find(|c| c["op"] == "publish").unwrap()["sha256"].clone();
    let gone = json!({"key": "dir/key", "version": 9, "inode": 900});
    let collect = json!({"op": "collect", "versions": [gone], "payloads": [sha256]});
    all.push(("collected in use".into(), [changes, &[collect]].concat()));
    let source = changes.iter().find(|c| c["op"] == "origin").unwrap()["source"].clone();
    let collect = json!({"op": "collect", "versions": [], "payloads": [source]});
    all.push(("a source collected in use".into(), [changes, &[collect]].concat()));
    let unknown = json!("0".repeat(64));
    all.push(("a source of nothing".into(), changed(changes, "origin", "source", unknown)));
    // A default engine that there is none of.
    let default = json!({"op": "default", "keys": ["dir/key"], "engine": 6});
    all.push(("a default of no engine".into(), [changes, &[default]].concat()));
    // A key that is also a directory of another.
    let mut above = again(1, 5000);
    above.last_mut().unwrap()["key"] = json!("dir/key/below");
    above.last_mut().unwrap()["directories"] = json!([
        {"view": "Keys", "path": "dir/key", "inode": 6000},
        {"view": "Versions", "path": "dir/key/below", "inode": 6001},
        {"view": {"Engine": 1}, "path": "dir/key", "inode": 6002},
    ]);
    all.push(("a key in a key".into(), above));
    all
}

#[test]
fn a_history_that_makes_no_sense_is_refused_and_leaves_nothing() {
    with_attacker(|env, _| {
        let good = exported(env);
        let changes = history(&good);
        for (number, (name, changes)) in senseless(&changes).into_iter().enumerate() {
            let (archive, store) = (env.path("bad.tar"), env.path(format!("store{number}")));
            write(&archive, &with_history(&good, changes));
            let stderr = env.fail(1, &["--store", text(&store), "import", text(&archive)]);
            assert!(stderr.contains("hint:"), "{name}: {stderr}");
            check_nothing_is_left(&store);
            // Into a store that has something already.
            let before = env.run(&["ls"]);
            env.fail(1, &["import", text(&archive)]);
            assert_eq!(env.run(&["ls"]), before, "{name}");
        }
        // As it was written, it is taken.
        write(&env.path("same.tar"), &with_history(&good, changes));
        env.run(&["--store", text(&env.path("same")), "import", text(&env.path("same.tar"))]);
        env.run(&["--store", text(&env.path("same")), "verify"]);
    });
}

/// A history that was compacted says which numbers are given next.
#[test]
fn numbers_are_given_once_after_an_import_too() {
    with_attacker(|env, _| {
        exported(env);
        // The last number that was given is a version's.
        env.publish(&module(env, 1), "dir/key", &[]);
        let store = wasmfs_store::Store::open(&env.store()).unwrap();
        store.compact(store.last_change(), true).unwrap().unwrap();
        store.close().unwrap();
        env.run(&["export", text(&env.path("compact.tar"))]);
        let good = read(&env.path("compact.tar"));
        let text_of = String::from_utf8(good.last().unwrap().2.clone()).unwrap();
        let mut lines: Vec<String> = text_of.lines().map(|line| format!("{line}\n")).collect();
        for (number, (field, value)) in
            [("next_inode", 16), ("next_inode", 18)].into_iter().enumerate()
        {
            let mut entry = serde_json::from_str::<Value>(text_of.lines().next().unwrap()).unwrap()
                ["entry"]
                .clone();
            assert_eq!(entry["op"], "snapshot");
            entry[field] = json!(value);
            let entry = entry.to_string();
            let sum = &Sha::of(entry.as_bytes()).hex()[..16];
            lines[0] = format!("{{\"sum\":\"{sum}\",\"entry\":{entry}}}\n");
            let mut bad = good.clone();
            bad.last_mut().unwrap().2 = lines.concat().into_bytes();
            let (archive, store) = (env.path("bad.tar"), env.path(format!("store{number}")));
            write(&archive, &bad);
            let stderr = env.fail(1, &["--store", text(&store), "import", text(&archive)]);
            assert!(stderr.contains("would be given again"), "{field}: {stderr}");
            check_nothing_is_left(&store);
        }
        let store = env.path("good");
        env.run(&["--store", text(&store), "import", text(&env.path("compact.tar"))]);
        env.run(&["--store", text(&store), "verify"]);
    });
}

#[test]
fn verify_finds_what_makes_no_sense_and_repair_leaves_it_out() {
    with_attacker(|env, _| {
        let good = exported(env);
        let changes = history(&good);
        let mut publish = changes.iter().find(|c| c["op"] == "publish").unwrap().clone();
        publish["key"] = json!("../../x");
        publish["inode"] = json!(5000);
        publish.as_object_mut().unwrap().remove("directories");
        let bad = with_history(&good, [&changes[..], &[publish]].concat());
        fs::write(env.store().join("history"), &bad.last().unwrap().2).unwrap();
        fs::remove_file(env.store().join("state.json")).unwrap();
        let report = output(env.wasmfs().args(["verify", "--json"]));
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!(
            (&report["sound"], &report["findings"][0]["kind"]),
            (&json!(false), &json!("rules"))
        );
        let _ = output(env.wasmfs().args(["verify", "--repair"]));
        env.run(&["verify"]);
        assert_eq!(env.run(&["ls"]).lines().count(), 1);
        env.run(&["gc"]);
        env.run(&["link", text(&env.path("links"))]);
    });
}

#[test]
fn entries_of_an_archive_are_files_where_they_belong() {
    with_attacker(|env, _| {
        let good = exported(env);
        let victim = env.file("victim", "root's");
        let history = good.len() - 1;
        let object = good.iter().position(|(name, ..)| name.contains("objects")).unwrap();
        let link = |at: usize| {
            let mut entries = good.clone();
            let target = text(&victim).as_bytes().to_vec();
            entries[at] = (entries[at].0.clone(), tar::EntryType::Symlink, target);
            entries
        };
        let named = |at: usize, name: &str| {
            let mut entries = good.clone();
            entries[at].0 = name.into();
            entries
        };
        let cases = [
            ("a link for a history", link(history)),
            ("a link for a payload", link(object)),
            ("a link for the settings", link(0)),
            ("no payload's name", named(object, "wasmfs/objects/ab/x")),
            ("another directory", named(object, "wasmfs/incoming/x")),
            ("a file of the store's", named(object, "wasmfs/lock")),
            ("no settings first", good[1..].to_vec()),
            ("no payload", [&good[..object], &good[object + 1..]].concat()),
        ];
        for (number, (name, entries)) in cases.iter().enumerate() {
            let (archive, store) = (env.path("bad.tar"), env.path(format!("store{number}")));
            write(&archive, entries);
            let stderr = env.fail(1, &["--store", text(&store), "import", text(&archive)]);
            assert!(stderr.contains("not a complete archive"), "{name}: {stderr}");
            check_nothing_is_left(&store);
        }
        assert_eq!(fs::read(&victim).unwrap(), b"root's");
    });
}

/// An artifact that is said to be another engine's.
#[test]
fn an_artifact_is_of_the_engine_that_made_it() {
    with_attacker(|env, _| {
        let good = exported(env);
        let mut changes = history(&good);
        let mut other = changes.iter().find(|c| c["op"] == "engine").unwrap().clone();
        let section = [&b"\0\x0248"[..], b"\x01x"].concat();
        let fingerprint = Sha::of(&section).hex();
        other["section"] = json!(base64(&section));
        other["description"]["fingerprint"] = json!(fingerprint);
        other["label"] = json!(format!("wasmtime-48-x-{}", &fingerprint[..8]));
        (other["number"], other["inode"]) = (json!(2), json!(800));
        let at = changes.iter().position(|c| c["op"] == "publish").unwrap();
        changes[at]["engine"] = json!(2);
        changes[at]["directories"] = json!([
            {"view": "Keys", "path": "dir", "inode": 801},
            {"view": "Versions", "path": "dir", "inode": 802},
            {"view": "Versions", "path": "dir/key", "inode": 803},
            {"view": {"Engine": 2}, "path": "dir", "inode": 804},
        ]);
        changes[at]["inode"] = json!(805);
        changes.insert(at, other);
        changes.retain(|change| change["op"] != "alias");
        write(&env.path("bad.tar"), &with_history(&good, changes));
        let store = env.path("store");
        let stderr = env.fail(1, &["--store", text(&store), "import", text(&env.path("bad.tar"))]);
        assert!(stderr.contains("is of another engine than it says"), "{stderr}");
        check_nothing_is_left(&store);
    });
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert!(bytes.len().is_multiple_of(3));
    let digits = bytes.chunks(3).flat_map(|three| {
        let number = three.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[number >> shift & 63]))
    });
    digits.collect()
}

/// Runs a command, and gives its raw status and the most memory that it had, in KiB.
#[allow(clippy::zombie_processes, reason = "wait4 waits, and tells what the child used")]
fn run_measured(command: &mut std::process::Command) -> (i32, i64) {
    let child = command.spawn().unwrap();
    let mut status = 0;
    // SAFETY: all zeros are a value of this type, which is numbers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that outlive the call; nobody else waits for the child.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    assert_eq!(waited, child.id() as i32);
    (status, usage.ru_maxrss)
}

/// A header that says that its name is very long.
#[test]
fn a_long_name_is_refused_before_it_is_read() {
    with_attacker(|env, _| {
        for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let path = env.path("long.tar.zst");
            let mut zstd = zstd::Encoder::new(File::create(&path).unwrap(), 3).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_path("././@LongLink").unwrap();
            header.set_entry_type(kind);
            header.set_size(1 << 30);
            header.set_cksum();
            zstd.write_all(header.as_bytes()).unwrap();
            std::io::copy(&mut std::io::repeat(b'a').take(1 << 30), &mut zstd).unwrap();
            zstd.finish().unwrap();
            let mut import = env.wasmfs();
            let import = import.args(["import", text(&path)]).stderr(std::process::Stdio::null());
            let (status, memory) = run_measured(import);
            assert!(status != 0 && memory < 300 << 10, "{kind:?}: {memory} KiB");
        }
    });
}

/// Appends zeros to a tar file that is compressed, as an entry of this name.
fn bomb(path: &Path, start: &Entries, name: &str, head: &[u8], size: u64) {
    let file = File::create(path).unwrap();
    let mut zstd = zstd::Encoder::new(file, 3).unwrap();
    let mut plain = Vec::new();
    {
        let mut tar = tar::Builder::new(&mut plain);
        for (name, _, content) in start {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, &content[..]).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        tar.get_mut().extend(header.as_bytes());
    }
    // What the builder ended with is not the end yet.
    zstd.write_all(&plain).unwrap();
    zstd.write_all(head).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(size - head.len() as u64), &mut zstd).unwrap();
    zstd.finish().unwrap();
}

#[test]
fn an_archive_takes_no_more_than_it_may() {
    with_attacker(|env, _| {
        let good = exported(env);
        let object = good.iter().position(|(name, ..)| name.contains("objects")).unwrap();
        // On a disk of its own: it must not be filled.
        let disk = env.path("disk");
        fs::create_dir(&disk).unwrap();
        let mounted = rustix::mount::mount(
            "none",
            &disk,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(c"size=200m,mode=0700"),
        );
        mounted.unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let store = disk.join("store");
            let archive = env.path("bomb.tar.zst");
            let zeros = "wasmfs/objects/".to_owned()
                + "ab/ab34567890123456789012345678901234567890123456789012345678901234";
            for (name, entry, head, size) in [
                ("zeros", zeros.as_str(), &b""[..], 1u64 << 30),
                ("an ELF file of zeros", &zeros, b"\x7fELF", 1 << 30),
                ("a small ELF file of zeros", &zeros, b"\x7fELF", 150 << 20),
                ("a history of one line", "wasmfs/history", b"{", 1 << 30),
                ("a short history of one line", "wasmfs/history", b"{", 150 << 20),
            ] {
                let start = if entry == zeros { &good[..1] } else { &good[..=object] };
                bomb(&archive, &start.to_vec(), entry, head, size);
                let mut import = env.command("sh");
                let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", 700_000);
                import.args(["-c", &limit, text(&env.binary("wasmfs"))]);
                import.args(["--store", text(&store), "import", text(&archive)]);
                let output = output(&mut import);
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
                assert!(stderr.contains("hint:"), "{name}: {stderr}");
                check_nothing_is_left(&store);
                let free = rustix::fs::statvfs(&disk).unwrap();
                assert!(free.f_bavail * free.f_frsize > 190 << 20, "{name}");
            }
        }));
        rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::DETACH).unwrap();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What a killed import leaves is gone at once, not after a while.
#[test]
fn what_a_killed_import_leaves_is_swept() {
    with_attacker(|env, _| {
        let good = exported(env);
        assert!(good.len() > 2);
        // It reads its archive from a pipe that never ends.
        let mut import = env.wasmfs();
        import.args(["import", "-"]).stdin(std::process::Stdio::piped());
        let mut import = import.spawn().unwrap();
        let whole = fs::read(env.path("good.tar")).unwrap();
        import.stdin.as_mut().unwrap().write_all(&whole[..whole.len() / 2]).unwrap();
        let temporary = || {
            let names = fs::read_dir(env.store()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with(".wasmfs-")).count()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while temporary() == 0 {
            assert!(std::time::Instant::now() < deadline);
        }
        // Others leave it alone as long as it lives.
        env.run(&["gc"]);
        assert_eq!(temporary(), 1);
        import.kill().unwrap();
        import.wait().unwrap();
        env.run(&["gc"]);
        assert_eq!(temporary(), 0);
        env.run(&["verify"]);
    });
}
