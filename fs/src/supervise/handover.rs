//! What goes with being in charge of a store's mounts: a keeper gives it to a
//! worker, and a worker to a new keeper.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::SigSet;
use wasmfs_store::{Lock, StoreDir};

use crate::backing::InMemory;
use crate::error::{Error, IoContext, Result};
use crate::fuse::{Connection, check};
use crate::ipc::{Channel, KeeperStatus, Message, PROTOCOL, pairs, unexpected};
use crate::journal::{Journal, Suspect};

/// What a keeper gives a worker, before it is to serve.
pub struct Handover {
    pub(crate) channel: Channel,
    pub(crate) journal: Journal,
    pub(crate) lock: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) connections: Vec<Connection>,
    pub(crate) replacements: u64,
    pub(crate) last_pause_us: Option<u64>,
    pub(crate) suspects: Vec<Suspect>,
    pub(crate) keeper: Option<KeeperStatus>,
    pub(crate) held: Vec<(InMemory, OwnedFd)>,
    /// Whether another worker serves meanwhile: then there is time to look at everything.
    pub is_successor: bool,
}

impl Handover {
    /// Takes what the keeper at the other end of `socket` gives.
    pub fn take(socket: OwnedFd) -> Result<Handover> {
        // The keeper has them blocked, and what is started inherits that.
        SigSet::all().thread_unblock().map_err(|e| Error::Channel(e.into()))?;
        let channel = Channel::from(socket);
        Handover::receive(channel).map_err(Error::Channel)
    }

    pub(crate) fn receive(channel: Channel) -> io::Result<Handover> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (message, descriptors) = channel.receive()?.ok_or_else(gone)?;
        let Message::Handover {
            protocol,
            connections: count,
            replacements,
            last_pause_us,
            suspects,
            successor: is_successor,
        } = message
        else {
            return Err(unexpected(&message));
        };
        if !(1..=PROTOCOL).contains(&protocol) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it speaks protocol {protocol} of keeper and worker, this one {PROTOCOL}"),
            ));
        }
        let Ok([lock, listener, journal]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return Err(io::Error::other("descriptors are missing"));
        };
        let mut connections = Vec::new();
        while connections.len() < count {
            match channel.receive()?.ok_or_else(gone)? {
                (Message::Connection { record, .. }, mut fds) if fds.len() == 1 => {
                    connections.extend(fds.pop().map(|device| Connection { record, device }));
                }
                (message, _) => return Err(unexpected(&message)),
            }
        }
        let journal = Journal::from(journal);
        Ok(Handover {
            channel,
            journal,
            lock,
            listener,
            connections,
            replacements,
            last_pause_us,
            suspects,
            keeper: None,
            held: Vec::new(),
            is_successor,
        })
    }

    /// Checks that this build could take over the mounts.
    pub fn check(&self) -> Result<()> {
        self.connections.iter().try_for_each(|connection| check(&connection.record))
    }

    /// Says that it could serve, and waits for the word to do so; false if the
    /// keeper went away instead.
    pub fn wait(&mut self) -> Result<bool> {
        self.channel.send(&Message::Prepared, &[]).map_err(Error::Channel)?;
        loop {
            match self.channel.receive().map_err(Error::Channel)? {
                None => return Ok(false),
                Some((Message::Start { suspects, kept }, _)) => {
                    (self.suspects, self.keeper) = (suspects, Some(kept));
                    return Ok(true);
                }
                // Mounted meanwhile.
                Some((Message::Connection { record, .. }, mut fds)) if fds.len() == 1 => {
                    self.connections.extend(fds.pop().map(|device| Connection { record, device }));
                }
                Some((Message::Held { payloads }, files)) => {
                    self.held.extend(pairs(payloads, files).map_err(Error::Channel)?);
                }
                Some((message, _)) => return Err(Error::Channel(unexpected(&message))),
            }
        }
    }

    /// The right to the store in `dir`.
    pub fn lock(&self, dir: &StoreDir) -> Result<Lock> {
        let copy = self.lock.try_clone().at("duplicating the lock of", dir.path())?;
        Ok(Lock::inherited(dir, copy)?)
    }

    /// The control socket's listener.
    pub fn listener(&self) -> Result<OwnedFd> {
        self.listener.try_clone().at("duplicating the listener of", Path::new("the control socket"))
    }

    /// Tells the keeper why this worker can't serve.
    pub fn failed(&self, why: String) {
        // The keeper hears of the end in any case.
        let _ = self.channel.send(&Message::Failed { why }, &[]);
    }
}
