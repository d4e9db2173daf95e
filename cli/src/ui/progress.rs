//! Bars for what takes long.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `bytes`, if somebody watches and there is something to see.
pub fn bar(bytes: u64, shown: bool) -> ProgressBar {
    counting(bytes, shown, "{bar:30} {decimal_bytes}/{decimal_total_bytes} {wide_msg}")
}

/// A bar over `things`, if somebody watches.
pub fn count(things: u64) -> ProgressBar {
    counting(things, true, "{bar:30} {pos}/{len} {wide_msg}")
}

fn counting(length: u64, shown: bool, template: &str) -> ProgressBar {
    if !shown || !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}
