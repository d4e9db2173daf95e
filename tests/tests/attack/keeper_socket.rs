//! The socket by which a worker is found by a new keeper.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::{module, with_attacker};
use wasmfs_tests::Environment;

fn connected(env: &Environment) -> OwnedFd {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
    let path = env.store().join("keeper.sock");
    connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    socket
}

#[test]
fn whoever_is_no_keeper_does_not_become_it() {
    with_attacker(|env, _| {
        env.publish(&module(env, 0), "k", &[]);
        env.mount();
        let keeper = env.keeper_pid();
        // They stay connected, and say nothing, or what makes no sense.
        let mut held = Vec::new();
        for text in [&b""[..], b"garbage", b"\"Ready\"", b"{\"Kept\": {}}", &[b' '; 70_000]] {
            let socket = connected(env);
            if !text.is_empty() {
                let _ = rustix::io::write(socket.as_fd(), text);
            }
            held.push(socket);
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(env.json(&["status"])["unguarded"], false);
        assert_eq!(env.keeper_pid(), keeper);
        // Whoever goes at once is none either.
        (0..50).for_each(|_| drop(connected(env)));
        env.signal(env.worker_pid(), "-KILL");
        assert!(env.mounted("k").exists());
        let deadline = Instant::now() + Duration::from_secs(10);
        while env.json(&["status"])["worker"]["replacements"] != 1 {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(env.keeper_pid(), keeper);
        // A keeper is still let in.
        env.signal(keeper, "-KILL");
        while env.json(&["status"])["unguarded"] != true {
            assert!(Instant::now() < deadline);
        }
        env.run(&["mount"]);
        assert_eq!(env.json(&["status"])["unguarded"], false);
        env.unmount();
    });
}
