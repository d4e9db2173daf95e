//! The layouts of engines' settings, as tables: which setting stands where in which major version
//! of wasmtime, and what it is unless somebody asked for something else.
//!
//! Sources: wasmtime-environ's `tunables.rs` and wasmparser's `features.rs` of each of 29 to 50.
//! CONTRIBUTING.md says how a new version is added. A catalogue has what an earlier table made of
//! an engine: whoever changes a table raises `LAYOUT` in `catalogue/tables/records.rs`.

use std::ops::RangeInclusive;

use super::compiler::Compiler;

/// The major versions of wasmtime whose settings can be decoded.
pub const KNOWN_WASMTIME: RangeInclusive<u32> = 29..=LAST;
const LAST: u32 = 50;
pub(super) const WINCH_CALLABLE: &str = "winch_callable";
pub(super) const SIGNALS: &str = "signals_based_traps";

#[derive(Clone, Copy, PartialEq)]
pub(super) enum ValueKind {
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
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: ValueKind,
    pub(super) majors: RangeInclusive<u32>,
    /// Its default on a 64-bit machine.
    pub(super) default: Option<&'static str>,
}

const fn field(
    name: &'static str,
    kind: ValueKind,
    majors: RangeInclusive<u32>,
    default: &'static str,
) -> Field {
    Field { name, kind, majors, default: Some(default) }
}

const ALL: RangeInclusive<u32> = KNOWN_WASMTIME;

pub(super) const TUNABLES: &[Field] = &[
    field("collector", ValueKind::Collector, ALL, ""),
    field("memory_reservation", ValueKind::Bytes, ALL, "4 GiB"),
    field("memory_guard_size", ValueKind::Bytes, ALL, "32 MiB"),
    field("memory_reservation_for_growth", ValueKind::Bytes, ALL, "2 GiB"),
    // `generate_native_debuginfo` before 39.
    field("debug_native", ValueKind::Bool, ALL, "off"),
    field("debug_guest", ValueKind::Bool, 39..=LAST, "off"),
    field("debug_symbols", ValueKind::Bool, 47..=LAST, "on"),
    // Follows an environment variable unless it is set.
    Field { name: "parse_wasm_debuginfo", kind: ValueKind::Bool, majors: ALL, default: None },
    field("consume_fuel", ValueKind::Bool, ALL, "off"),
    field("operator_cost", ValueKind::OperatorCost, 43..=LAST, "default"),
    field("epoch_interruption", ValueKind::Bool, ALL, "off"),
    field("memory_may_move", ValueKind::Bool, ALL, "on"),
    field("guard_before_linear_memory", ValueKind::Bool, ALL, "on"),
    field("table_lazy_init", ValueKind::Bool, ALL, "on"),
    field("generate_address_map", ValueKind::Bool, ALL, "on"),
    field("debug_adapter_modules", ValueKind::Bool, ALL, "off"),
    field("relaxed_simd_deterministic", ValueKind::Bool, ALL, "off"),
    field(WINCH_CALLABLE, ValueKind::Bool, ALL, "off"),
    field(SIGNALS, ValueKind::Bool, ALL, "on"),
    field("memory_init_cow", ValueKind::Bool, ALL, "on"),
    field("inlining", ValueKind::Bool, 36..=44, "off"),
    field("inlining_intra_module", ValueKind::IntraModuleInlining, 36..=44, "when using gc"),
    field("inlining", ValueKind::Inlining, 45..=LAST, "no"),
    field("inlining_small_callee_size", ValueKind::Number, 36..=LAST, "50"),
    field("inlining_sum_size_threshold", ValueKind::Number, 36..=LAST, "2000"),
    field("concurrency_support", ValueKind::Bool, 42..=LAST, "on"),
    field("recording", ValueKind::Bool, 43..=LAST, "off"),
    field("asan_stack_switching", ValueKind::Bool, 50..=LAST, "off"),
    field("gc_zeal_alloc_counter", ValueKind::Counter, 45..=LAST, "off"),
    field("gc_heap_reservation", ValueKind::Bytes, 45..=LAST, "4 GiB"),
    field("gc_heap_guard_size", ValueKind::Bytes, 45..=LAST, "32 MiB"),
    field("gc_heap_reservation_for_growth", ValueKind::Bytes, 45..=LAST, "2 GiB"),
    field("gc_heap_initial_size", ValueKind::Bytes, 47..=LAST, "0 B"),
    field("gc_heap_may_move", ValueKind::Bool, 45..=LAST, "on"),
    field("metadata_for_internal_asserts", ValueKind::Bool, 46..=LAST, "off"),
    field("metadata_for_gc_heap_corruption", ValueKind::Bool, 46..=LAST, "on"),
    field("branch_hinting", ValueKind::Bool, 46..=LAST, "off"),
];

/// What wasmtime's default crate features give (measured: the CLI of 36 and 42 to 49).
pub(super) fn default_collector(major: u32, compiler: Compiler) -> &'static str {
    match (compiler, major) {
        (Compiler::Winch, ..49) => "none",
        (_, ..46) => "drc",
        _ => "copying",
    }
}

/// What wasmtime sets of Cranelift's flags by itself (measured: the CLI of 36 and 42 to 49).
pub(super) fn default_flag(name: &str, major: u32, compiler: Compiler) -> Option<&'static str> {
    let winch = compiler == Compiler::Winch;
    match name {
        // A build of wasmtime without Cranelift's optimizations.
        "opt_level" | "enable_verifier" if winch && (37..42).contains(&major) => None,
        "opt_level" => Some(if winch && major >= 42 { "none" } else { "speed" }),
        "enable_verifier" => Some(if winch && major >= 42 { "on" } else { "off" }),
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

/// The features of versions that store each as a boolean (wasmtime,
/// `engine/serialization.rs`).
pub(super) fn feature_bools(major: u32) -> Option<Vec<&'static str>> {
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
pub(super) fn feature_bit(major: u32, bit: u32) -> Option<&'static str> {
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
pub(super) fn default_features(major: u32, compiler: Compiler) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::{Compiler, LAST, default_features};

    #[test]
    fn the_newest_version_has_default_features() {
        assert!(default_features(LAST, Compiler::Cranelift).is_some());
    }
}
