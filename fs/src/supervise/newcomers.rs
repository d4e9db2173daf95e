//! Processes that want to become the keeper, and have not shown yet that they are one.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::ipc::{Channel, Message, accept, check_peer};

/// How long a newcomer may take to say what it is.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);
/// How many may do so at a time.
const MAX_NEWCOMERS: usize = 16;

/// Connections to the worker's socket on which nothing was said yet. A keeper begins by saying who
/// it is; until then the keeper that is there stays.
#[derive(Default)]
pub(super) struct Newcomers(Vec<(Channel, Instant)>);

impl Newcomers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What to wait for, in the order in which [`Newcomers::heard`] takes what happened.
    pub(super) fn polled(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.0.iter().map(|(new, _)| PollFd::from_borrowed_fd(new.as_fd(), PollFlags::IN))
    }

    /// Lets in whoever waits.
    pub(super) fn accept(&mut self, door: &OwnedFd) {
        let new = accept(door).and_then(|new| check_peer(new.as_fd()).map(|_| new));
        match new {
            Ok(new) if self.0.len() < MAX_NEWCOMERS => {
                self.0.push((Channel::from(new), Instant::now()));
            }
            Ok(_) => log::warn!("too many processes want to become the keeper"),
            Err(e) => log::warn!("a process that wants to become the keeper was refused: {e}"),
        }
    }

    /// Hears those that said something, and gives those that are keepers. Others are sent away, and
    /// so is who says nothing for long.
    pub(super) fn heard(&mut self, mut happened: impl Iterator<Item = bool>) -> Vec<Channel> {
        let mut proven = Vec::new();
        for (new, since) in std::mem::take(&mut self.0) {
            if happened.next() == Some(true) {
                match new.receive() {
                    Ok(Some((Message::Kept(_), descriptors))) if descriptors.is_empty() => {
                        proven.push(new);
                    }
                    Ok(None) => {}
                    Ok(Some(_)) => log::warn!("what wants to become the keeper is none"),
                    Err(e) => log::warn!("what wants to become the keeper is none: {e}"),
                }
            } else if since.elapsed() < PROOF_TIMEOUT {
                self.0.push((new, since));
            } else {
                log::warn!("what wants to become the keeper says nothing");
            }
        }
        proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{KeeperStatus, packet_pair};

    #[test]
    fn only_a_keeper_is_taken_for_one() {
        let mut newcomers = Newcomers::default();
        let mut others = Vec::new();
        for text in [&b"garbage"[..], b"", b"\"Ready\"", b"{\"Kept\":{}}"] {
            let (ours, theirs) = packet_pair().unwrap();
            rustix::io::write(&theirs, text).unwrap();
            newcomers.0.push((Channel::from(ours), Instant::now()));
            others.push(theirs);
        }
        let (ours, theirs) = packet_pair().unwrap();
        let keeper = Channel::from(theirs);
        keeper.send(&Message::Kept(KeeperStatus::of_new("1")), &[]).unwrap();
        newcomers.0.push((Channel::from(ours), Instant::now()));
        let (silent, _theirs) = packet_pair().unwrap();
        newcomers.0.push((Channel::from(silent), Instant::now()));
        let happened = [true, true, true, true, true, false];
        assert_eq!(newcomers.heard(happened.into_iter()).len(), 1);
        assert_eq!(newcomers.0.len(), 1);
        newcomers.0[0].1 = Instant::now() - 2 * PROOF_TIMEOUT;
        assert!(newcomers.heard(std::iter::once(false)).is_empty());
        assert!(newcomers.is_empty());
    }
}
