//! Backings: what the bytes of a mount come from when it is not the store, block by block.
//!
//! Payloads in sealed memory ([`Memory`]), and files that the kernel reads by itself ([`Opener`]).
//! Both need a process that outlives this one, or has a right that it lacks: [`PayloadKeeper`] and
//! [`Registrar`], which `supervise` brings. It uses the store and the journal; FUSE is unknown to
//! it, but for the replies to an open.

mod hugepages;
mod memory;
mod passthrough;
mod verity;

pub use memory::Usage;
pub(crate) use memory::{
    Claim, InMemory, Memory, PayloadKeeper, allow_descriptors, read as read_memory,
};
pub(crate) use passthrough::{MountInode, OpenRequest, Opener, Registered, Registrar};
