pub(crate) mod keeper;
pub(crate) mod worker;
