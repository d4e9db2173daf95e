//! Printing: JSON, sizes, and columns.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use unicode_width::UnicodeWidthStr;

use super::escape;

/// Prints `value` as JSON, indented, with a newline.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", escape::json(&serde_json::to_string_pretty(value)?))?)
}

/// Prints a long list as JSON, an item as it comes. One that fails ends it: then the list is not
/// closed, so that nobody takes it for all.
pub fn json_list<T: Serialize>(
    items: impl Iterator<Item = anyhow::Result<T>>,
) -> anyhow::Result<()> {
    let mut items = items.peekable();
    // What fails before there is anything to print leaves nothing printed.
    if let Some(Err(_)) = items.peek()
        && let Some(Err(e)) = items.next()
    {
        return Err(e);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let mut separator = "[\n";
    for item in items {
        let item = escape::json(&serde_json::to_string_pretty(&item?)?);
        write!(out, "{separator}  {}", item.replace('\n', "\n  "))?;
        separator = ",\n";
    }
    writeln!(out, "{}", if separator == ",\n" { "\n]" } else { "[]" })?;
    Ok(out.flush()?)
}

/// A path in JSON, which has no bytes that are not UTF-8: they become U+FFFD.
pub fn path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(to)
}

/// Paths, likewise.
pub fn paths<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// Says something beside the output. If nobody listens, so be it.
pub fn note(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{}", escape::lines(&text.to_string()));
}

/// Prints a line. Unlike `println!` it returns an error when nobody reads any more.
pub fn line(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", escape::one_line(&text.to_string()))?)
}

/// Prints rows in columns that are as wide as they need be; the last is not padded.
pub fn table<const N: usize>(rows: &[[String; N]]) -> anyhow::Result<()> {
    let mut widths = [0; N];
    let rows: Vec<_> =
        rows.iter().map(|row| row.each_ref().map(|cell| escape::one_line(cell))).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut out = io::stdout().lock();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| {
            let padding = width.saturating_sub(cell.width());
            format!("{cell}{:padding$}", "")
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// How many rows of a long table set the width of its columns together.
const ROWS_AT_ONCE: usize = 1000;

/// Prints a long table, some rows at a time.
pub fn long_table<const N: usize>(
    rows: impl Iterator<Item = anyhow::Result<[String; N]>>,
) -> anyhow::Result<()> {
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let some: anyhow::Result<Vec<_>> = rows.by_ref().take(ROWS_AT_ONCE).collect();
        table(&some?)?;
    }
    Ok(())
}

/// A size as people read it: `3.1 MB`.
pub fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// A number of things: `1 version`, `2 versions`.
pub fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Whether the reader of standard output went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(|e| e.io_error_kind());
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}
