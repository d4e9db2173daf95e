//! Modules to publish: made here as WebAssembly text, of the same layout for
//! every seed.

use std::fmt::Write;

/// Functions `f0` … in a module.
pub const FUNCTIONS: u32 = 64;

/// A module whose every function and every byte of data depends on `seed`,
/// and whose layout doesn't: 64 functions over many pages of code, and 1 MiB
/// of data that a host maps from the file.
pub fn wat(seed: u32) -> String {
    let mut text = String::from("(module\n(memory (export \"memory\") 32)\n");
    for i in 0..FUNCTIONS {
        let _ = writeln!(text, "(func (export \"f{i}\") (param i32) (result i32) local.get 0");
        for step in 0..160u32 {
            // Constants of the same width whatever the seed is.
            let constant = 0x4000_0000
                | (seed.wrapping_mul(2_654_435_761) ^ (i * 8191 + step * 131)) & 0x3fff_ffff;
            let operation = ["i32.add", "i32.xor", "i32.mul"][(step % 3) as usize];
            // A sum that an optimizing compiler works out, so that other levels give other code.
            let folded = if step % 16 == 0 { "i32.const 0x40000001 i32.add" } else { "" };
            let _ = writeln!(text, "i32.const {constant} {folded} {operation}");
        }
        text.push_str(")\n");
    }
    text.push_str(
        "(func (export \"sum\") (param $to i32) (result i32) (local $at i32) (local $sum i32)
           (loop $next
             (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31))
                                      (i32.load (local.get $at))))
             (local.set $at (i32.add (local.get $at) (i32.const 4)))
             (br_if $next (i32.lt_u (local.get $at) (local.get $to))))
           (local.get $sum))
         (func (export \"poke\") (param i32) (result i32)
           (i32.store (local.get 0) (i32.const 0x5eed)) (i32.const 0))
         (func (export \"peek\") (param i32) (result i32) (i32.load (local.get 0)))\n",
    );
    text.push_str("(data (i32.const 0) \"");
    let mut state = seed | 1;
    for _ in 0..(1 << 20) / 4 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for byte in state.to_le_bytes() {
            let _ = write!(text, "\\{byte:02x}");
        }
    }
    text.push_str("\"))\n");
    text
}

/// The end of the data, for `sum`.
pub const DATA_END: u32 = 1 << 20;
