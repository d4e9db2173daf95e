//! What is printed of a version that was published.

use anyhow::Result;
use wasmfs_store::{Published, Status};

use super::output;

/// Prints what came of a publish; import and rollback print the same.
pub fn print_published(published: &Published) -> Result<()> {
    let v = &published.version;
    let unchanged = if published.status == Status::Unchanged { "  unchanged" } else { "" };
    let line = [
        format!("{}@{}", v.key, v.version),
        v.engine.clone(),
        v.sha256.hex(),
        output::size(v.size) + unchanged,
    ];
    output::table(&[line])?;
    if !v.served_by_plain_name {
        let (key, engine) = (&v.key, &published.default_engine);
        match published.plain_name_serves {
            Some(other) => output::line(format_args!(
                "  hosts that open {key} still get @{other}, of engine {engine}"
            ))?,
            None => output::line(format_args!(
                "  {key} leads to no version: its default engine {engine} has none left"
            ))?,
        }
        output::line(format_args!("  this version is served at {}", published.path))?;
        output::line(format_args!("  `wasmfs default {key} {}` moves {key} to it", v.engine))?;
    }
    Ok(())
}
