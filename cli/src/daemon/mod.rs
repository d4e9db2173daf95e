//! The processes behind a mount: the keeper's and the worker's.

pub mod keeper;
pub mod worker;
