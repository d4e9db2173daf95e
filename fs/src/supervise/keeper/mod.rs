pub(crate) mod events;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod run;
