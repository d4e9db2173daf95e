//! Artifacts: what the bytes that wasmtime compiled say of themselves, and of their engine.
//!
//! It reads without wasmtime, and any bytes whatever. [`inspect()`] and [`decode()`] are the ways
//! in. A new wasmtime version is a change of `layouts.rs`, and of `settings.rs` if a setting has
//! values of a new kind. It uses [`crate::Sha`] and nothing else of the store.

mod compiler;
mod differences;
mod engine;
mod inspect;
mod layouts;
mod settings;

pub use compiler::Compiler;
pub(crate) use compiler::printable;
pub use differences::Difference;
pub use engine::{Engine, EngineDescription, decode};
pub(crate) use inspect::MAX_ENGINE_SECTION;
pub use inspect::{Artifact, ArtifactKind, NotAnArtifact, inspect};
pub use layouts::KNOWN_WASMTIME;
pub use settings::{Group, Setting};
