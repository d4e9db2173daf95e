pub(crate) mod key;
pub(crate) mod sha;
