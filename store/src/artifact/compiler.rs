//! The compilers of wasmtime, and text of theirs.

use serde::{Deserialize, Serialize};

/// wasmtime's two compilers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compiler {
    /// The optimizing compiler.
    Cranelift,
    /// The baseline compiler.
    Winch,
    /// The layout of this version's settings is not known here.
    Unknown,
}

impl std::fmt::Display for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Compiler::Cranelift => "cranelift",
            Compiler::Winch => "winch",
            Compiler::Unknown => "unknown",
        })
    }
}

/// What an artifact says, as something that can be stored and shown: of
/// reasonable length, and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(128).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
