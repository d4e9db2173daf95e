pub(crate) mod engines;
pub(crate) mod open;
pub(crate) mod payloads;
pub(crate) mod publish;
pub(crate) mod queries;
pub(crate) mod recovery;
pub(crate) mod rollback;
pub mod tree;
