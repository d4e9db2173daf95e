//! Compiling: in this process, or with a wasmtime of the host's own.

mod external;
mod in_process;
mod interrupt;

pub use in_process::{CompileArgs, Compiler, is_source, to_binary};
pub use interrupt::Interrupts;
