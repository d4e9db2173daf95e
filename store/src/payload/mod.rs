pub(crate) mod blocks;
pub(crate) mod reader;
pub(crate) mod staging;
