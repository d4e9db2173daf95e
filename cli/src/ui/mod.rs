pub(crate) mod diagnostics;
pub(crate) mod output;
