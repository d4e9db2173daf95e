//! Maintenance: verification, repair, archives.
//!
//! [`verify()`] looks at a store whoever has it open, [`repair()`] and [`restore()`] have it for
//! themselves, [`export()`] reads beside its owner. They use every other folder, and nothing uses
//! them.

mod archive;
mod compare;
mod export;
mod findings;
mod live;
mod payloads;
mod permissions;
mod repair;
mod rescue;
mod rescuer;
mod restore;
mod rules;
mod verify;

pub use archive::{Archived, Progress};
pub use export::export;
pub use findings::{Finding, FindingKind, Verified};
pub use live::{Live, Record};
pub use payloads::Course;
pub use permissions::{foreign_parts, take_back};
pub use repair::repair;
pub use restore::{is_empty, restore};
pub use verify::verify;
