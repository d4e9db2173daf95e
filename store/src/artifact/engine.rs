//! Engines: who compiled an artifact.
//!
//! The section `.wasmtime.engine` is a byte 0, a length byte, the version
//! string, then a postcard record `{target, shared_flags, isa_flags, tunables,
//! features}` (wasmtime 48, `engine/serialization.rs`: `Metadata`). Its sha256
//! is the engine's fingerprint: equal for all that one engine compiles, and
//! different wherever wasmtime itself would refuse to load.

use serde::{Deserialize, Serialize};

use crate::types::Sha;

use super::compiler::{Compiler, printable};
use super::settings::Setting;

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
    #[must_use]
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

/// An engine as far as it can be understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Who it is.
    #[serde(flatten)]
    pub description: EngineDescription,
    /// Its settings; nothing if its version's layout is not known.
    pub settings: Option<Vec<Setting>>,
}

/// Decodes the engine's section as far as it can be understood; what can't be
/// is `""` or [`Compiler::Unknown`], never an error.
#[must_use]
pub fn decode(section: &[u8]) -> Engine {
    let mut description = EngineDescription {
        fingerprint: Sha::of(section),
        wasmtime: String::new(),
        target: String::new(),
        compiler: Compiler::Unknown,
        pulley: false,
    };
    let [0, len, rest @ ..] = section else { return Engine { description, settings: None } };
    let Some((version, metadata)) = rest.split_at_checked(usize::from(*len)) else {
        return Engine { description, settings: None };
    };
    description.wasmtime = printable(&String::from_utf8_lossy(version));
    let Ok((target, rest)) = postcard::take_from_bytes::<String>(metadata) else {
        return Engine { description, settings: None };
    };
    description.target = printable(&target);
    description.pulley = target.starts_with("pulley");
    let settings = super::settings::decode(&description.wasmtime, &description.target, rest);
    if let Some(settings) = &settings {
        description.compiler = settings.compiler;
    }
    Engine { description, settings: settings.map(|decoded| decoded.settings) }
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
            assert_eq!(decode(section).description.compiler, Compiler::Unknown);
            assert_eq!(decode(section).settings, None);
        }
        assert_eq!(decode(b"\0\x0248").description.wasmtime, "48");
    }
}
