//! Names that are more than names.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use wasmfs_tests::output;

use crate::{module, text, with_attacker};

fn is_harmless(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let bad = |c: char| c != '\n' && c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    !text.contains(bad)
}

#[test]
fn nothing_that_is_printed_reaches_the_terminal_raw() {
    with_attacker(|env, arena| {
        let module = module(env, 0);
        env.run(&["publish", text(&module), "--key", "k"]);
        env.run(&["export", text(&env.path("a.tar"))]);
        let hostile =
            OsStr::from_bytes(b"x\x1b[2J\x1b]0;owned\x07\xc2\x9b31m\xff\xe2\x80\xae\nwasmfs: fine");
        let dir = arena.join(hostile);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(hostile), b"\x7fELF\x1b[2J").unwrap();
        fs::copy(&module, dir.join("m.wat")).unwrap();
        std::os::unix::fs::symlink("/", dir.join("link\x1b[2J")).unwrap();
        // An archive that says of itself what it likes.
        let mut tar = fs::read(env.path("a.tar")).unwrap();
        let name = b"wasmfs/\x1b[2Jowned\0";
        tar[..name.len()].copy_from_slice(name);
        let sum: u32 = tar[..148].iter().chain(&tar[156..512]).map(|&b| u32::from(b)).sum::<u32>()
            + 8 * u32::from(b' ');
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let archive = env.path("hostile.tar");
        fs::write(&archive, &tar).unwrap();
        let file = dir.join(hostile);
        let mount = dir.join("mount");
        let commands: &[&[&OsStr]] = &[
            &[OsStr::new("import"), dir.as_os_str()],
            &[OsStr::new("import"), dir.as_os_str(), OsStr::new("--json")],
            &[OsStr::new("import"), archive.as_os_str()],
            &[OsStr::new("publish"), file.as_os_str()],
            &[OsStr::new("publish"), file.as_os_str(), OsStr::new("--json")],
            &[OsStr::new("show"), hostile],
            &[OsStr::new("link"), dir.as_os_str()],
            &[OsStr::new("mount"), mount.as_os_str()],
            &[OsStr::new("unmount"), mount.as_os_str()],
            &[OsStr::new("--store"), dir.as_os_str(), OsStr::new("ls")],
            &[OsStr::new("--store"), file.as_os_str(), OsStr::new("verify")],
            &[OsStr::new("export"), file.as_os_str()],
            &[
                OsStr::new("capture"),
                OsStr::new("--env"),
                OsStr::new("X"),
                OsStr::new("--"),
                file.as_os_str(),
            ],
        ];
        for args in commands {
            let said = output(env.wasmfs().env("WASMFS_LOG", "debug").args(*args));
            assert!(
                is_harmless(&said.stdout),
                "{args:?}: {:?}",
                String::from_utf8_lossy(&said.stdout)
            );
            assert!(
                is_harmless(&said.stderr),
                "{args:?}: {:?}",
                String::from_utf8_lossy(&said.stderr)
            );
            let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(!stderr.contains("\nwasmfs: fine"), "{args:?}: {stderr}");
        }
    });
}

#[test]
fn a_request_says_what_it_says() {
    with_attacker(|env, _| {
        env.publish(&module(env, 0), "k", &[]);
        env.mount();
        let ask = |request: &str| {
            let mut stream = UnixStream::connect(env.store().join("control.sock")).unwrap();
            write!(stream, "{request}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let list = ask("GET /v1 HTTP/1.1").to_lowercase();
        let protocol = list.lines().find(|line| line.starts_with("wasmfs-protocol")).unwrap();
        assert!(ask(&format!("GET /v1/keys?prefix=k HTTP/1.1\r\n{protocol}")).contains("200 OK"));
        for (request, says) in [
            (format!("GET /v1/keys?prefix=%ff HTTP/1.1\r\n{protocol}"), "utf-8"),
            (format!("GET /v1/keys?prefix=k HTTP/1.1\r\n{protocol}\r\n{protocol}"), "two headers"),
            (
                format!("GET /v1/keys?prefix=k HTTP/1.1\r\n{protocol}\r\nwasmfs-protocol: 1"),
                "speaks protocol",
            ),
        ] {
            let answer = ask(&request);
            assert!(answer.contains("400 Bad Request") && answer.contains(says), "{answer}");
        }
        env.unmount();
    });
}
