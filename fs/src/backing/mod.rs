pub(crate) mod hugepages;
pub(crate) mod memory;
pub(crate) mod passthrough;
pub(crate) mod verity;
