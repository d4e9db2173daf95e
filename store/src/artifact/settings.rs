//! An engine's settings: what `.wasmtime.engine` says after the version and the target.
//!
//! postcard writes no names: [`super::layouts`] has them. What doesn't decode to its last byte is
//! not understood, and says so.

use serde::{Deserialize, Serialize};

use super::compiler::{Compiler, printable};
use super::layouts::{
    KNOWN_WASMTIME, SIGNALS, TUNABLES, ValueKind, WINCH_CALLABLE, default_collector,
    default_features, default_flag, feature_bit, feature_bools,
};

/// What a setting is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// A setting of Cranelift: `opt_level`.
    Flag,
    /// Something the processor must have: `has_avx2`.
    Cpu,
    /// A setting of wasmtime: `consume_fuel`.
    Tunable,
    /// A WebAssembly proposal: `gc`.
    Feature,
}

/// A setting of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What it is about.
    pub group: Group,
    /// wasmtime's own name for it, the newest if it was renamed.
    pub name: String,
    /// Its value: `on`, `off`, a word or a number.
    pub value: String,
    /// What an engine of this version and compiler has by itself, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

impl Setting {
    /// Whether it differs from the default.
    #[must_use]
    pub fn is_unusual(&self) -> bool {
        self.default.as_ref().is_some_and(|default| *default != self.value)
    }

    /// What people call it.
    #[must_use]
    pub fn words(&self) -> &str {
        let known = WORDS.iter().find(|(name, _)| *name == self.name);
        known.map_or(&self.name, |(_, words)| words)
    }
}

/// Names that say too little by themselves.
const WORDS: &[(&str, &str)] = &[
    ("opt_level", "optimization level"),
    ("collector", "garbage collector"),
    ("consume_fuel", "fuel"),
    ("operator_cost", "fuel costs"),
    ("epoch_interruption", "epoch interruption"),
    ("debug_native", "native debug information"),
    ("debug_guest", "guest debugging"),
    ("debug_symbols", "native symbols"),
    ("parse_wasm_debuginfo", "wasm debug information"),
    ("generate_address_map", "address map"),
    ("relaxed_simd_deterministic", "deterministic relaxed SIMD"),
    ("enable_nan_canonicalization", "NaN canonicalization"),
    ("signals_based_traps", "traps by signals"),
    ("memory_init_cow", "copy-on-write memory images"),
    ("memory_reservation", "memory reservation"),
    ("memory_guard_size", "memory guard size"),
    ("memory_reservation_for_growth", "memory reservation for growth"),
    ("concurrency_support", "component concurrency"),
];

/// Settings, and the compiler that goes with them.
pub(super) struct Settings {
    pub(super) compiler: Compiler,
    pub(super) settings: Vec<Setting>,
}

/// Decodes what stands after the target, for a version whose layout is known.
pub(super) fn decode(version: &str, target: &str, rest: &[u8]) -> Option<Settings> {
    let major: u32 = version.split('.').next()?.parse().ok()?;
    if !KNOWN_WASMTIME.contains(&major) {
        return None;
    }
    let mut reader = Reader(rest);
    let flags: Flags = reader.take()?;
    let cpu: Flags = reader.take()?;
    let mut tunables = Vec::new();
    for field in TUNABLES.iter().filter(|field| field.majors.contains(&major)) {
        tunables.push((field, reader.value(field.kind)?));
    }
    let features = features(major, &mut reader)?;
    if !reader.0.is_empty() {
        return None;
    }
    let winch = tunables.iter().find(|(field, _)| field.name == WINCH_CALLABLE)?;
    let compiler = if winch.1 == "on" { Compiler::Winch } else { Compiler::Cranelift };
    let mut settings = Vec::new();
    let mut add = |group, name: String, value, default: Option<&str>| {
        settings.push(Setting { group, name, value, default: default.map(str::to_owned) });
    };
    for (name, value) in flags {
        let default = default_flag(&name, major, compiler);
        add(Group::Flag, printable(&name), value.text(), default);
    }
    for (name, value) in cpu {
        add(Group::Cpu, printable(&name), value.text(), None);
    }
    for (field, value) in tunables.into_iter().filter(|(field, _)| field.name != WINCH_CALLABLE) {
        let default = match field.kind {
            // Pulley and 32-bit machines have others, which nobody measured.
            ValueKind::Bytes if !is_64_bit(target) => None,
            ValueKind::Bool if field.name == SIGNALS && !is_64_bit(target) => None,
            ValueKind::Collector => Some(default_collector(major, compiler)),
            _ => field.default,
        };
        add(Group::Tunable, field.name.to_owned(), value, default);
    }
    let measured = target.starts_with("x86_64");
    let defaults = default_features(major, compiler).filter(|_| measured);
    for (name, on, bit) in features {
        let default = defaults.map(|bits| on_off(bits & (1 << bit) != 0));
        add(Group::Feature, name, on_off(on).to_owned(), default);
    }
    Some(Settings { compiler, settings })
}

/// Reads postcard, a value at a time.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        let (value, rest) = postcard::take_from_bytes(self.0).ok()?;
        self.0 = rest;
        Some(value)
    }

    fn value(&mut self, kind: ValueKind) -> Option<String> {
        let word = |words: &[&str], index: u32| Some((*words.get(index as usize)?).to_owned());
        match kind {
            ValueKind::Bool => Some(on_off(self.take()?).to_owned()),
            ValueKind::Number => Some(self.take::<u64>()?.to_string()),
            ValueKind::Bytes => Some(bytes(self.take()?)),
            ValueKind::Counter => {
                let counter = self.take::<Option<u32>>()?;
                Some(counter.map_or("off".to_owned(), |n| n.to_string()))
            }
            ValueKind::Collector => match self.take::<Option<u32>>()? {
                None => Some("none".to_owned()),
                Some(index) => word(&["drc", "null", "copying"], index),
            },
            ValueKind::IntraModuleInlining => word(&["yes", "no", "when using gc"], self.take()?),
            ValueKind::Inlining => word(
                &[
                    "yes",
                    "between modules, and inside with gc",
                    "between modules",
                    "intrinsics",
                    "no",
                ],
                self.take()?,
            ),
            // 0 is a table of costs, as long as that version has operators; it is not decoded.
            ValueKind::OperatorCost => (self.take::<u32>()? == 1).then(|| "default".to_owned()),
        }
    }
}

/// A compiler setting as wasmtime stores it (`FlagValue`, wasmtime-environ
/// 48, `module_artifacts.rs`).
#[derive(Deserialize)]
enum FlagValue {
    Enum(String),
    Num(u8),
    Bool(bool),
}

type Flags = Vec<(String, FlagValue)>;

impl FlagValue {
    fn text(self) -> String {
        match self {
            FlagValue::Enum(word) => printable(&word),
            FlagValue::Num(number) => number.to_string(),
            FlagValue::Bool(on) => on_off(on).to_owned(),
        }
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A size in the largest unit that it is a whole number of.
fn bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(bits, _)| size != 0 && size.is_multiple_of(1 << bits));
    whole.map_or(format!("{size} B"), |(bits, unit)| format!("{} {unit}", size >> bits))
}

/// Whether code for this target is native, with 64-bit addresses.
fn is_64_bit(target: &str) -> bool {
    ["x86_64", "aarch64", "riscv64", "s390x"].iter().any(|arch| target.starts_with(arch))
}

/// The features, each with whether it is on and its bit.
fn features(major: u32, reader: &mut Reader<'_>) -> Option<Vec<(String, bool, u32)>> {
    if let Some(names) = feature_bools(major) {
        let named = (0..).zip(&names);
        return named.map(|(i, name)| Some(((*name).to_owned(), reader.take()?, i))).collect();
    }
    let bits: u64 = reader.take()?;
    let all = (0..64).map(|bit| (feature_bit(major, bit), bits & (1 << bit) != 0, bit));
    let shown = all.filter(|(name, on, _)| name.is_some() || *on);
    Some(
        shown
            .map(|(name, on, bit)| (name.map_or(format!("bit {bit}"), str::to_owned), on, bit))
            .collect(),
    )
}
