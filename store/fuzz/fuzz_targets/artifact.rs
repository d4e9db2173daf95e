//! Whatever bytes somebody publishes: see `tests/support/fuzz.rs`.
#![no_main]

#[path = "../../tests/support/fuzz.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    checks::artifact(bytes);
    checks::key(bytes);
});
