pub(crate) mod descriptors;
pub(crate) mod protocol;
pub(crate) mod socket;
