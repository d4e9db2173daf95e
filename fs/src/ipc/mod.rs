//! What processes say to each other: sockets in the store's directory, and the channel between
//! keeper and worker with its messages and descriptors.
//!
//! It knows what is said, and not what follows from it. Whoever changes a message so that the other
//! side would misunderstand it raises [`PROTOCOL`].

mod descriptors;
mod protocol;
mod socket;

pub use descriptors::close_on_exec;
pub(crate) use descriptors::keep_only;
pub use protocol::KeeperStatus;
pub(crate) use protocol::{
    Channel, MAX_DESCRIPTORS, Message, MountRecord, PROTOCOL, hand_over_held, now, packet_pair,
    pairs, protocol, unexpected,
};
pub use rustix::net::SocketType;
pub use socket::reach;
pub(crate) use socket::{accept, check_peer, listen};
