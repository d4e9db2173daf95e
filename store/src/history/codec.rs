//! Lines of the history as text.
//!
//! `{"sum":"<16 hex digits>","entry":{…}}`, where the sum is the start of the sha256 of the entry's
//! text, and a newline.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::change::LogEntry;
use crate::error::{Error, Result};
use crate::types::Sha;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sum: String,
    #[serde(borrow)]
    entry: &'a RawValue,
}

fn checksum(text: &str) -> String {
    Sha::of(text.as_bytes()).hex()[..16].to_owned()
}

/// The line of an entry, with its newline.
pub(crate) fn line_of(entry: &LogEntry) -> Result<Vec<u8>> {
    let encode = || {
        let entry = serde_json::value::to_raw_value(entry)?;
        let mut line = serde_json::to_vec(&Line { sum: checksum(entry.get()), entry: &entry })?;
        line.push(b'\n');
        Ok(line)
    };
    encode().map_err(|e: serde_json::Error| {
        Error::Inconsistent(format!("encoding a history line: {e}"))
    })
}

/// Why a line gives no entry.
pub(crate) enum BadLine {
    /// It is not what was written: torn, or damaged.
    Unreadable(String),
    /// It is what was written, by a wasmfs that knows more.
    Unknown(String),
}

/// Reads a line, which ends with its newline.
pub(crate) fn decode(line: &[u8]) -> std::result::Result<LogEntry, BadLine> {
    let unreadable = |reason: &str| BadLine::Unreadable(reason.to_owned());
    let text = line.strip_suffix(b"\n").ok_or_else(|| unreadable("the line is cut short"))?;
    let line: Line<'_> =
        serde_json::from_slice(text).map_err(|e| BadLine::Unreadable(e.to_string()))?;
    if checksum(line.entry.get()) != line.sum {
        return Err(unreadable("the checksum doesn't match"));
    }
    serde_json::from_str(line.entry.get()).map_err(|e| BadLine::Unknown(e.to_string()))
}

/// What is said of a line that is whole and not known.
pub(super) fn newer(reason: &str) -> String {
    format!("a newer wasmfs may have written it ({reason})")
}

impl BadLine {
    /// Why, in words.
    pub(crate) fn reason(self) -> String {
        match self {
            BadLine::Unreadable(reason) | BadLine::Unknown(reason) => reason,
        }
    }
}
