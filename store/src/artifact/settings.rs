//! An engine's settings: what `.wasmtime.engine` says after the version and
//! the target, as far as the layout of that version is known.
//!
//! postcard writes no names, so the layouts are here, as tables: which
//! setting stands where in which major versions (wasmtime-environ,
//! `tunables.rs`, and wasmparser, `features.rs`, of each of 29 to 50).
//! Whatever doesn't decode to its last byte is not understood, and says so. A
//! catalogue has what an earlier table made of an engine: who changes a table raises
//! `LAYOUT` in `catalogue/records.rs`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::engine::Compiler;

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
    /// Whether somebody asked for it to be so.
    pub fn is_unusual(&self) -> bool {
        self.default.as_ref().is_some_and(|default| *default != self.value)
    }

    /// What people call it.
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
    if !KNOWN.contains(&major) {
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
        add(Group::Flag, super::engine::printable(&name), value.text(), default);
    }
    for (name, value) in cpu {
        add(Group::Cpu, super::engine::printable(&name), value.text(), None);
    }
    for (field, value) in tunables.into_iter().filter(|(field, _)| field.name != WINCH_CALLABLE) {
        let default = match field.kind {
            // Pulley and 32-bit machines have others, which nobody measured.
            Kind::Bytes if !is_64_bit(target) => None,
            Kind::Bool if field.name == SIGNALS && !is_64_bit(target) => None,
            Kind::Collector => Some(default_collector(major, compiler)),
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

    fn value(&mut self, kind: Kind) -> Option<String> {
        let word = |words: &[&str], index: u32| Some((*words.get(index as usize)?).to_owned());
        match kind {
            Kind::Bool => Some(on_off(self.take()?).to_owned()),
            Kind::Number => Some(self.take::<u64>()?.to_string()),
            Kind::Bytes => Some(bytes(self.take()?)),
            Kind::Counter => {
                let counter = self.take::<Option<u32>>()?;
                Some(counter.map_or("off".to_owned(), |n| n.to_string()))
            }
            Kind::Collector => match self.take::<Option<u32>>()? {
                None => Some("none".to_owned()),
                Some(index) => word(&["drc", "null", "copying"], index),
            },
            Kind::IntraModuleInlining => word(&["yes", "no", "when using gc"], self.take()?),
            Kind::Inlining => word(
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
            Kind::OperatorCost => (self.take::<u32>()? == 1).then(|| "default".to_owned()),
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
            FlagValue::Enum(word) => super::engine::printable(&word),
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

/// The major versions whose layout is in the tables.
const KNOWN: RangeInclusive<u32> = 29..=50;
const WINCH_CALLABLE: &str = "winch_callable";
const SIGNALS: &str = "signals_based_traps";

/// Whether code for this target is native, with 64-bit addresses.
fn is_64_bit(target: &str) -> bool {
    ["x86_64", "aarch64", "riscv64", "s390x"].iter().any(|arch| target.starts_with(arch))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bool,
    Number,
    Bytes,
    /// `Option<NonZeroU32>`
    Counter,
    Collector,
    IntraModuleInlining,
    Inlining,
    OperatorCost,
}

/// A field of `Tunables`, in the order of the struct.
struct Field {
    name: &'static str,
    kind: Kind,
    majors: RangeInclusive<u32>,
    /// Its default on a 64-bit machine.
    default: Option<&'static str>,
}

const fn field(
    name: &'static str,
    kind: Kind,
    majors: RangeInclusive<u32>,
    default: &'static str,
) -> Field {
    Field { name, kind, majors, default: Some(default) }
}

const ALL: RangeInclusive<u32> = KNOWN;

const TUNABLES: &[Field] = &[
    field("collector", Kind::Collector, ALL, ""),
    field("memory_reservation", Kind::Bytes, ALL, "4 GiB"),
    field("memory_guard_size", Kind::Bytes, ALL, "32 MiB"),
    field("memory_reservation_for_growth", Kind::Bytes, ALL, "2 GiB"),
    // `generate_native_debuginfo` before 39.
    field("debug_native", Kind::Bool, ALL, "off"),
    field("debug_guest", Kind::Bool, 39..=50, "off"),
    field("debug_symbols", Kind::Bool, 47..=50, "on"),
    // Follows an environment variable unless it is set.
    Field { name: "parse_wasm_debuginfo", kind: Kind::Bool, majors: ALL, default: None },
    field("consume_fuel", Kind::Bool, ALL, "off"),
    field("operator_cost", Kind::OperatorCost, 43..=50, "default"),
    field("epoch_interruption", Kind::Bool, ALL, "off"),
    field("memory_may_move", Kind::Bool, ALL, "on"),
    field("guard_before_linear_memory", Kind::Bool, ALL, "on"),
    field("table_lazy_init", Kind::Bool, ALL, "on"),
    field("generate_address_map", Kind::Bool, ALL, "on"),
    field("debug_adapter_modules", Kind::Bool, ALL, "off"),
    field("relaxed_simd_deterministic", Kind::Bool, ALL, "off"),
    field(WINCH_CALLABLE, Kind::Bool, ALL, "off"),
    field(SIGNALS, Kind::Bool, ALL, "on"),
    field("memory_init_cow", Kind::Bool, ALL, "on"),
    field("inlining", Kind::Bool, 36..=44, "off"),
    field("inlining_intra_module", Kind::IntraModuleInlining, 36..=44, "when using gc"),
    field("inlining", Kind::Inlining, 45..=50, "no"),
    field("inlining_small_callee_size", Kind::Number, 36..=50, "50"),
    field("inlining_sum_size_threshold", Kind::Number, 36..=50, "2000"),
    field("concurrency_support", Kind::Bool, 42..=50, "on"),
    field("recording", Kind::Bool, 43..=50, "off"),
    field("asan_stack_switching", Kind::Bool, 50..=50, "off"),
    field("gc_zeal_alloc_counter", Kind::Counter, 45..=50, "off"),
    field("gc_heap_reservation", Kind::Bytes, 45..=50, "4 GiB"),
    field("gc_heap_guard_size", Kind::Bytes, 45..=50, "32 MiB"),
    field("gc_heap_reservation_for_growth", Kind::Bytes, 45..=50, "2 GiB"),
    field("gc_heap_initial_size", Kind::Bytes, 47..=50, "0 B"),
    field("gc_heap_may_move", Kind::Bool, 45..=50, "on"),
    field("metadata_for_internal_asserts", Kind::Bool, 46..=50, "off"),
    field("metadata_for_gc_heap_corruption", Kind::Bool, 46..=50, "on"),
    field("branch_hinting", Kind::Bool, 46..=50, "off"),
];

/// What wasmtime's default crate features give (measured: the CLI of 36 and 42 to 49).
fn default_collector(major: u32, compiler: Compiler) -> &'static str {
    match (compiler, major) {
        (Compiler::Winch, ..49) => "none",
        (_, ..46) => "drc",
        _ => "copying",
    }
}

/// What wasmtime sets of Cranelift's flags by itself (measured: the CLI of 36 and 42 to 49).
fn default_flag(name: &str, major: u32, compiler: Compiler) -> Option<&'static str> {
    let winch = compiler == Compiler::Winch;
    match name {
        // A build of wasmtime without Cranelift's optimizations.
        "opt_level" | "enable_verifier" if winch && (37..42).contains(&major) => None,
        "opt_level" => Some(if winch && major >= 42 { "none" } else { "speed" }),
        "enable_verifier" => Some(on_off(winch && major >= 42)),
        _ => FLAGS.iter().find(|(known, _)| *known == name).map(|(_, default)| *default),
    }
}

const FLAGS: &[(&str, &str)] = &[
    ("regalloc_algorithm", "backtracking"),
    ("bb_padding_log2_minus_one", "0"),
    ("log2_min_function_alignment", "0"),
    ("regalloc_checker", "off"),
    ("enable_alias_analysis", "on"),
    ("enable_pcc", "off"),
    ("is_pic", "off"),
    ("enable_nan_canonicalization", "off"),
    ("enable_pinned_reg", "off"),
    ("unwind_info", "on"),
    ("preserve_frame_pointers", "on"),
    ("machine_code_cfg_info", "off"),
    ("enable_heap_access_spectre_mitigation", "on"),
    ("enable_table_access_spectre_mitigation", "on"),
    ("enable_incremental_compilation_cache_checks", "off"),
];

/// The features, each with whether it is on and its bit.
fn features(major: u32, reader: &mut Reader<'_>) -> Option<Vec<(String, bool, u32)>> {
    if let Some(names) = feature_bools(major) {
        let named = names.iter().enumerate();
        return named
            .map(|(i, name)| Some(((*name).to_owned(), reader.take()?, i as u32)))
            .collect();
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

/// The features of versions that store each as a boolean (wasmtime,
/// `engine/serialization.rs`).
fn feature_bools(major: u32) -> Option<Vec<&'static str>> {
    const FIRST: [&str; 15] = [
        "reference_types",
        "multi_value",
        "bulk_memory",
        "component_model",
        "simd",
        "tail_call",
        "threads",
        "multi_memory",
        "exceptions",
        "memory64",
        "relaxed_simd",
        "extended_const",
        "function_references",
        "gc",
        "custom_page_sizes",
    ];
    let more: &[&str] = match major {
        29 => &["cm_more_flags", "cm_multiple_returns", "gc_types", "wide_arithmetic"],
        30 => &["cm_more_flags", "cm_multiple_returns", "cm_async", "gc_types", "wide_arithmetic"],
        31 => &["cm_async", "gc_types", "wide_arithmetic", "stack_switching"],
        32 => &[
            "cm_async",
            "cm_async_builtins",
            "cm_async_stackful",
            "gc_types",
            "wide_arithmetic",
            "stack_switching",
        ],
        _ => return None,
    };
    Some([&FIRST, more].concat())
}

/// The name of a bit of wasmparser's `WasmFeatures`, as of the version that a
/// major version of wasmtime uses (0.229 in 33 to 0.261 in 50).
fn feature_bit(major: u32, bit: u32) -> Option<&'static str> {
    const FIXED: [&str; 30] = [
        "mutable_global",
        "saturating_float_to_int",
        "sign_extension",
        "reference_types",
        "multi_value",
        "bulk_memory",
        "simd",
        "relaxed_simd",
        "threads",
        "shared_everything_threads",
        "tail_call",
        "floats",
        "multi_memory",
        "exceptions",
        "memory64",
        "extended_const",
        "component_model",
        "function_references",
        "memory_control",
        "gc",
        "custom_page_sizes",
        "cm_values",
        "cm_nested_names",
        "legacy_exceptions",
        "gc_types",
        "stack_switching",
        "wide_arithmetic",
        "cm_async",
        "cm_async_stackful",
        "cm_more_async_builtins",
    ];
    // `cm_threading` came in between with 37.
    const LATER: [(&str, u32); 14] = [
        ("cm_threading", 37),
        ("cm_error_context", 33),
        ("cm_fixed_length_lists", 34),
        ("cm_gc", 34),
        ("call_indirect_overlong", 34),
        ("bulk_memory_opt", 34),
        ("custom_descriptors", 40),
        ("compact_imports", 42),
        ("cm_map", 42),
        ("cm64", 45),
        ("cm_implements", 46),
        ("cm_canon_names", 48),
        ("cm_forward", 50),
        ("cm_accessors", 50),
    ];
    let index = bit as usize;
    if let Some(name) = FIXED.get(index) {
        return Some(name);
    }
    let index = index - FIXED.len() + usize::from(major < 37);
    LATER.get(index).filter(|(_, since)| major >= *since).map(|(name, _)| *name)
}

/// The features of an engine that nobody configured (measured: wheel 29, the
/// CLI of 36 and 42 to 49, wheel 50).
fn default_features(major: u32, compiler: Compiler) -> Option<u64> {
    Some(match (compiler, major) {
        (Compiler::Cranelift, 29) => 0x2_0cff,
        (Compiler::Cranelift, 36) => 0x6_0101_ddff,
        (Compiler::Cranelift, 42..=45) => 0xc_0101_ddff,
        (Compiler::Cranelift, 46) => 0xc_0901_ddff,
        (Compiler::Cranelift, 47..=48) => 0xc_090b_fdff,
        (Compiler::Cranelift, 49..=50) => 0xc_0d0b_fdff,
        (Compiler::Winch, 36) => 0x6_0001_d97f,
        (Compiler::Winch, 42..=47) => 0xc_0001_d97f,
        (Compiler::Winch, 48) => 0xc_0801_d97f,
        (Compiler::Winch, 49) => 0xc_0d01_f97f,
        _ => return None,
    })
}
