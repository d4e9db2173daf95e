//! The channel between keeper and worker: messages over a SOCK_SEQPACKET
//! socket, JSON with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use wasmfs_store::{Inode, Sha};

use crate::backing::InMemory;
use crate::journal::Suspect;
use crate::mount::Options;

/// The version of this protocol. A keeper lives on while its workers are
/// replaced by newer ones, so a change that either side would misunderstand raises it.
pub(crate) const PROTOCOL: u32 = 2;

/// The version that serving mounts of these options takes: 2 if files are passed through or in
/// memory.
pub(crate) fn protocol<'a>(mut mounts: impl Iterator<Item = &'a Options>) -> u32 {
    if mounts.any(|options| options.passthrough || options.in_memory.is_some()) { 2 } else { 1 }
}

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// The most descriptors in a message.
pub(crate) const MAX_DESCRIPTORS: usize = 64;

/// What a keeper says of itself, for `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeeperStatus {
    /// As the kernel numbers processes in the keeper's namespace.
    pub pid: u32,
    /// The version of wasmfs it runs.
    pub version: String,
    /// When it started, in nanoseconds since 1970.
    pub since: u64,
    /// How often it has replaced the worker, by itself or for `reload`.
    pub replacements: u64,
    /// How long the last replacement left requests waiting, in microseconds:
    /// from the end of one worker to the readiness of the next.
    pub last_pause_us: Option<u64>,
    /// Why the last reload came to nothing after all, if it did.
    pub reload_failed: Option<String>,
}

impl KeeperStatus {
    /// That of a keeper which begins now, and has replaced nobody yet.
    pub(crate) fn of_new(version: &str) -> KeeperStatus {
        KeeperStatus {
            pid: std::process::id(),
            version: version.to_owned(),
            since: now(),
            replacements: 0,
            last_pause_us: None,
            reload_failed: None,
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

/// What a mount is, apart from its descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    pub(crate) mount_point: PathBuf,
    #[serde(flatten)]
    pub(crate) options: Options,
    /// The device number; for FUSE the minor is the connection's name under
    /// `/sys/fs/fuse/connections`.
    pub(crate) device: (u32, u32),
    /// The kernel's FUSE_INIT request.
    pub(crate) init: Vec<u8>,
    /// How many filesystems may lie one upon the other; 0 if nothing is passed through.
    #[serde(default)]
    pub(crate) stack_depth: u32,
    /// What was answered, once it was.
    pub(crate) reply: Option<Vec<u8>>,
}

/// Everything that keeper and worker say to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The first message, either way: what goes with being in charge. With the
    /// store's lock, the control socket's listener and the journal; `connections`
    /// messages of that kind follow.
    #[serde(rename = "Charge")]
    Handover {
        protocol: u32,
        connections: usize,
        replacements: u64,
        last_pause_us: Option<u64>,
        suspects: Vec<Suspect>,
        /// Whether another worker serves meanwhile: then there is time to look at everything.
        successor: bool,
    },
    /// A mount, with its `/dev/fuse`; for the request of this number, if there was one.
    Connection { record: MountRecord, request: Option<u64> },

    /// Payloads that are in memory, each with its file, to be held.
    Held { payloads: Vec<InMemory> },

    // From the keeper.
    /// Nobody else serves: open the store and serve.
    Start { suspects: Vec<Suspect>, kept: KeeperStatus },
    /// Who keeps this worker.
    Kept(KeeperStatus),
    /// The reply to FUSE_INIT is out.
    InitAnswered { connection: u32 },
    /// A mount that was asked for can't be had, for a reason in the caller's words.
    MountFailed { request: u64, why: String },
    /// What is registered for an inode, or why nothing is.
    Backed { connection: u32, inode: Inode, id: std::result::Result<u32, String> },
    /// A reload is not possible, for a reason in the caller's words.
    ReloadFailed { why: String },
    /// End the commands under way, for a successor; serve the mounts until killed.
    Stop,
    /// The last mount is gone: close the store and end.
    End,

    // From the worker.
    /// It could serve: store and mounts suit it.
    Prepared,
    /// What to answer to FUSE_INIT.
    InitReply {
        connection: u32,
        reply: Vec<u8>,
        /// The request for this mount, if there was one.
        #[serde(default)]
        request: Option<u64>,
    },
    /// It serves what it was given.
    Ready,
    /// A mount is gone.
    Gone,
    /// These payloads need not be held any more.
    LetGo { payloads: Vec<Sha> },
    /// It ends before it was ready, for a reason in the caller's words.
    Failed { why: String },
    /// Mount, please.
    Mount {
        request: u64,
        mount_point: PathBuf,
        #[serde(flatten)]
        options: Options,
    },
    /// Register a file, which comes with it, for an inode of a mount, please.
    Back { connection: u32, inode: Inode },
    /// Take the registration for an inode back, please: nobody knows the inode any more.
    Unback { connection: u32, inode: Inode },
    /// Replace this worker by what is on disk now, please.
    Reload,
    /// The commands have ended.
    Stopped,
    /// To a keeper: another one has taken over.
    Released,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Channel {
        Channel(socket)
    }
}

/// Two connected sockets that keep messages apart.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Channel {
    /// Sends a message. Never waits: whoever doesn't read what little is sent is lost.
    pub(crate) fn send(&self, message: &Message, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
            return Err(io::Error::other("too many descriptors for a message"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, flags)?;
        Ok(())
    }

    /// Waits for a message; `None` when the other end is closed.
    pub(crate) fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags) {
                // Said once, if the other end left something unread; what it had sent comes after.
                Err(rustix::io::Errno::CONNRESET) => {}
                received => break received?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        // They are this process's from here on, and closed should the message be refused.
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                descriptors.extend(sent);
            }
        }
        let cut = received.flags & (ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if !cut.is_empty() {
            let what = match cut.contains(ReturnFlags::TRUNC) {
                true => "a message is too long",
                false => "descriptors of a message were lost",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Some((serde_json::from_slice(&text[..received.bytes])?, descriptors)))
    }
}

/// Gives payloads that are in memory to whoever is at the other end, as many at once as go.
pub(crate) fn hand_over_held<F: AsFd>(channel: &Channel, held: &[(InMemory, F)]) -> io::Result<()> {
    for some in held.chunks(MAX_DESCRIPTORS) {
        let payloads = some.iter().map(|(payload, _)| *payload).collect();
        let files: Vec<_> = some.iter().map(|(_, file)| file.as_fd()).collect();
        channel.send(&Message::Held { payloads }, &files)?;
    }
    Ok(())
}

/// Payloads, each with the file that came for it.
pub(crate) fn pairs(
    payloads: Vec<InMemory>,
    files: Vec<OwnedFd>,
) -> io::Result<Vec<(InMemory, OwnedFd)>> {
    if payloads.len() != files.len() {
        let what = format!("{} payloads came with {} files", payloads.len(), files.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(payloads.into_iter().zip(files).collect())
}

/// A message that doesn't belong where it came.
pub(crate) fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an unexpected message: {message:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cross_with_their_descriptors() {
        let (a, b) = packet_pair().unwrap();
        let (a, b) = (Channel::from(a), Channel::from(b));
        let init = vec![7; 104];
        let record = MountRecord {
            mount_point: format!("/{}", "long/".repeat(800)).into(),
            options: Options { allow_other: true, ..Options::default() },
            device: (0, 77),
            init,
            stack_depth: 0,
            reply: None,
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        a.send(&Message::Connection { record: record.clone(), request: Some(3) }, &[null.as_fd()])
            .unwrap();
        a.send(&Message::Ready, &[]).unwrap();
        drop(a);
        match b.receive().unwrap() {
            Some((Message::Connection { record: got, request: Some(3) }, fds)) => {
                assert_eq!((got, fds.len()), (record, 1));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(b.receive().unwrap(), Some((Message::Ready, fds)) if fds.is_empty()));
        assert!(b.receive().unwrap().is_none());
        assert!(b.send(&Message::Ready, &[]).is_err());
    }

    #[test]
    fn what_was_cut_off_is_an_error() {
        let (a, b) = packet_pair().unwrap();
        // A whole message, and more than anybody has room for after it.
        let mut long = serde_json::to_vec(&Message::Ready).unwrap();
        long.resize(MAX_MESSAGE + 1, b' ');
        rustix::io::write(&a, &long).unwrap();
        let e = Channel::from(b).receive().unwrap_err();
        assert_eq!(e.to_string(), "a message is too long");

        let (a, b) = packet_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let many = vec![null.as_fd(); MAX_DESCRIPTORS + 4];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
        let text = serde_json::to_vec(&Message::Ready).unwrap();
        sendmsg(&a, &[IoSlice::new(&text)], &mut ancillary, SendFlags::empty()).unwrap();
        let e = Channel::from(b).receive().unwrap_err();
        assert_eq!(e.to_string(), "descriptors of a message were lost");
    }

    #[test]
    fn payloads_without_files_are_an_error() {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        assert!(pairs(Vec::new(), vec![null()]).is_err());
        assert!(pairs(Vec::new(), Vec::new()).unwrap().is_empty());
    }
}
