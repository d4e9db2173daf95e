pub mod gc;
pub(crate) mod invalidate;
pub(crate) mod mounts;
