pub(crate) mod links;
pub(crate) mod restore;
pub(crate) mod scan;
pub(crate) mod spool;
pub(crate) mod stable_file;
