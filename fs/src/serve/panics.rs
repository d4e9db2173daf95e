//! What a panic does to a process that serves.

use wasmfs_store::{is_database_panic, panics_are_caught};

/// Makes a panic in any thread end the process, with its message and backtrace
/// in the log: a server that lost one thread would leave a mount that hangs.
/// Call it once the store is open, since opening a damaged database panics and is
/// recovered from.
///
/// If it was the database that panicked, `distrust` is called before the end; it must
/// not wait for anything.
pub fn abort_on_panic(distrust: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        if panics_are_caught() {
            return log::error!("{panic}");
        }
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        log::error!("{panic}\n{backtrace}");
        if is_database_panic() {
            distrust();
        }
        std::process::abort();
    }));
}
