//! What comes into a store from elsewhere: artifacts of a cache directory, archives, and the links
//! that lead back.

pub mod link_dir;
pub mod links;
pub mod restore;
pub mod scan;
