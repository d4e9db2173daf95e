pub mod archive;
pub mod repair;
pub mod verify;
