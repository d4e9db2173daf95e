//! Engines: who compiled an artifact.
//!
//! The section `.wasmtime.engine` is a byte 0, a length byte, the version
//! string, then a postcard record `{target, shared_flags, isa_flags, tunables,
//! features}` (wasmtime 48, `engine/serialization.rs`: `Metadata`). Its sha256
//! is the engine's fingerprint: equal for all that one engine compiles, and
//! different wherever wasmtime itself would refuse to load.

use serde::{Deserialize, Serialize};

use crate::sha::Sha;

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

/// What an artifact says of the engine that compiled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineDescription {
    /// sha256 of the section `.wasmtime.engine`.
    pub fingerprint: Sha,
    /// The version string: `29.0.1`, `48`; custom or empty strings occur.
    pub wasmtime: String,
    /// The target triple, or `""` where it can't be read.
    pub target: String,
    /// Cranelift or Winch, where the version's layout is known.
    pub compiler: Compiler,
    /// Whether it is Pulley bytecode rather than native code.
    #[serde(default)]
    pub pulley: bool,
}

impl EngineDescription {
    /// The engine's name in the mount, with `digits` hexadecimal digits of the
    /// fingerprint: `wasmtime-48-x86_64-3d181f2b`. Always one valid path component.
    pub fn label(&self, digits: usize) -> String {
        let clean = |text: &str, empty: &str| {
            let text: String = text
                .chars()
                .take(40)
                .map(|c| if c.is_ascii_alphanumeric() || "._+".contains(c) { c } else { '_' })
                .collect();
            if text.is_empty() { empty.to_owned() } else { text }
        };
        let version = clean(&self.wasmtime, "unversioned");
        let arch = clean(self.target.split('-').next().unwrap_or(""), "unknown");
        let hex = self.fingerprint.hex();
        format!("wasmtime-{version}-{arch}-{}", &hex[..digits.min(hex.len())])
    }
}

/// Where `winch_callable` stands among the tunables of a major version: how
/// many booleans come before it, and after which of them the operators' cost
/// stands, if it does (wasmtime-environ, `tunables.rs`, of 29.0.1, 36.0.20,
/// 44.0.3, 47.0.4, 48.0.8 and 50.0.1; artifacts of both compilers of the CLI
/// 36.0.9 and 42 to 49 bear it out).
struct TunablesLayout {
    bools_before_winch: usize,
    cost_after: Option<usize>,
}

fn layout(version: &str) -> Option<TunablesLayout> {
    let major: u32 = version.split('.').next()?.parse().ok()?;
    match major {
        29..=36 => Some(TunablesLayout { bools_before_winch: 10, cost_after: None }),
        42 => Some(TunablesLayout { bools_before_winch: 11, cost_after: None }),
        43..=46 => Some(TunablesLayout { bools_before_winch: 11, cost_after: Some(4) }),
        47..=50 => Some(TunablesLayout { bools_before_winch: 12, cost_after: Some(5) }),
        _ => None,
    }
}

/// Decodes the engine's section as far as it can be understood; what can't be
/// is `""` or [`Compiler::Unknown`], never an error.
pub(crate) fn decode(section: &[u8]) -> EngineDescription {
    let mut description = EngineDescription {
        fingerprint: Sha::default(),
        wasmtime: String::new(),
        target: String::new(),
        compiler: Compiler::Unknown,
        pulley: false,
    };
    let [0, len, rest @ ..] = section else { return description };
    let Some((version, metadata)) = rest.split_at_checked(usize::from(*len)) else {
        return description;
    };
    description.wasmtime = printable(&String::from_utf8_lossy(version));
    let Ok((target, rest)) = postcard::take_from_bytes::<String>(metadata) else {
        return description;
    };
    description.target = printable(&target);
    if let Some(layout) = layout(&description.wasmtime)
        && let Some(winch) = winch_callable(rest, &layout)
    {
        description.compiler = if winch { Compiler::Winch } else { Compiler::Cranelift };
    }
    description
}

/// What an artifact says, as something that can be stored and shown: of
/// reasonable length, and without control characters.
fn printable(text: &str) -> String {
    text.chars().take(128).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A compiler setting, as wasmtime stores it (`FlagValue`, wasmtime-environ
/// `module_artifacts.rs`); only its extent matters here.
#[derive(Deserialize)]
#[expect(dead_code, reason = "decoded to be skipped")]
enum FlagValue {
    Enum(String),
    Num(u8),
    Bool(bool),
}

type Flags = Vec<(String, FlagValue)>;

fn winch_callable(rest: &[u8], layout: &TunablesLayout) -> Option<bool> {
    let (_flags, mut rest) = postcard::take_from_bytes::<(Flags, Flags)>(rest).ok()?;
    // collector: Option<unit enum>, then three sizes.
    (_, rest) = postcard::take_from_bytes::<(Option<u32>, u64, u64, u64)>(rest).ok()?;
    for index in 0..layout.bools_before_winch {
        (_, rest) = postcard::take_from_bytes::<bool>(rest).ok()?;
        if layout.cost_after == Some(index + 1) {
            // OperatorCostStrategy: 0 is a table of costs, which is not decoded; 1 is the default.
            let (variant, after) = postcard::take_from_bytes::<u32>(rest).ok()?;
            if variant != 1 {
                return None;
            }
            rest = after;
        }
    }
    Some(postcard::take_from_bytes::<bool>(rest).ok()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(version: &str, target: &str) -> EngineDescription {
        EngineDescription {
            fingerprint: Sha([0x3d; 32]),
            wasmtime: version.into(),
            target: target.into(),
            compiler: Compiler::Unknown,
            pulley: false,
        }
    }

    #[test]
    fn a_label_is_always_one_component() {
        let label = |v, t| description(v, t).label(8);
        assert_eq!(label("48", "x86_64-unknown-linux-gnu"), "wasmtime-48-x86_64-3d3d3d3d");
        assert_eq!(label("", ""), "wasmtime-unversioned-unknown-3d3d3d3d");
        assert_eq!(label("../x\0/ü", "a/b"), "wasmtime-.._x___-a_b-3d3d3d3d");
        assert_eq!(description("1", "x").label(64).len(), "wasmtime-1-x-".len() + 64);
    }

    #[test]
    fn what_is_not_understood_is_unknown_and_never_an_error() {
        for section in
            [&b""[..], b"\0", b"\0\x05ab", b"\x01\0", b"\0\x0248", b"\0\x0248\xff\xff\xff"]
        {
            assert_eq!(decode(section).compiler, Compiler::Unknown);
        }
        assert_eq!(decode(b"\0\x0248").wasmtime, "48");
    }
}
