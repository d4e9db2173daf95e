//! Reading what an artifact says of itself, without wasmtime.

mod differences;
pub(crate) mod engine;
pub(crate) mod inspect;
mod settings;

pub use differences::Difference;
pub use engine::{Compiler, Engine, EngineDescription, decode};
pub use inspect::{Artifact, ArtifactKind, NotAnArtifact, inspect};
pub use settings::{Group, Setting};
