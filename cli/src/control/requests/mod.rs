//! Every request of the control API, each with what it asks, does and answers.
//!
//! A file a concern: what the store is asked, how it is changed, what is published, what is
//! collected, and what is asked of the server itself. They use `place.rs` alone.

mod changes;
mod collect;
mod publish;
mod questions;
mod serving;

pub use changes::{Alias, Committed, Pin, Remove, Rollback, SetDefault, VersionOf};
pub use collect::{AskedPolicy, Collect, Fates, Tidy};
pub use publish::{MAX_BATCH, Outcomes, Publishing};
pub use questions::{
    Engine, Engines, KeyOf, Keys, Latest, Payload, Records, Users, VersionAt, Versions,
    read_records,
};
pub use serving::{Mount, Reload, StatusRequest};
