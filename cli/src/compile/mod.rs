pub(crate) mod external;
pub(crate) mod in_process;
pub(crate) mod interrupt;
