pub(crate) mod collect;
pub(crate) mod compact;
