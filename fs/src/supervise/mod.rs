pub(crate) mod handover;
pub(crate) mod keeper;
pub(crate) mod worker;
