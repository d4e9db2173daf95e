//! The commands: a file each, with its arguments and what it does.
//!
//! A command parses nothing but its own arguments, reaches the store through `client`, and prints
//! through `ui`. None knows of `cli.rs`, which runs them.

pub mod capture;
pub mod default;
pub mod engines;
pub mod export;
pub mod gc;
pub mod import;
pub mod keeper;
pub mod link;
pub mod log;
pub mod ls;
pub mod mount;
pub mod pin;
pub mod publish;
pub mod recompile;
pub mod reload;
pub mod rm;
pub mod rollback;
pub mod show;
pub mod status;
pub mod unmount;
pub mod verify;
pub mod within;
pub mod worker;
