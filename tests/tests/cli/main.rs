//! The commands: what they print, and how they fail.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod control;
mod help;
mod json;
mod link;
mod mount;
mod printed;
mod publish;
mod rm;
mod snapshot;
mod staging;

const MODULE: &str = "(module (func (export \"answer\") (result i32) i32.const 42))";
const COMPONENT: &str = "(component (core module (func (export \"f\"))))";

fn path(file: &std::path::Path) -> &str {
    file.to_str().unwrap()
}
