pub(crate) mod adapter;
pub(crate) mod handshake;
pub(crate) mod operation;
