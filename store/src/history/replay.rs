//! Reading the history as its owner: what the catalogue lacks is handed on, and an end that was
//! never acknowledged is cut off.

use std::io::{BufRead, BufReader, Seek, SeekFrom};

use super::change::{Change, LogEntry};
use super::codec::{BadLine, decode, newer};
use super::log::History;
use crate::error::{IoContext, Result};
use crate::types::Sequence;

impl History {
    /// Reads every line from byte `from`, whose predecessor has sequence number
    /// `seq`, and hands each to `apply` with the length of the file up to its end.
    /// A tail that was never acknowledged is cut off; lines up to `acknowledged`
    /// must be there.
    pub(crate) fn replay(
        &mut self,
        from: u64,
        seq: Sequence,
        acknowledged: Sequence,
        mut apply: impl FnMut(&LogEntry, u64) -> Result<()>,
    ) -> Result<()> {
        (self.len, self.seq) = (from, seq);
        self.file.seek(SeekFrom::Start(from)).at("reading", &self.path)?;
        let file = self.file.try_clone().at("reading", &self.path)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        let mut unreadable: Option<String> = None;
        let mut in_snapshot = false;
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).at("reading", &self.path)? == 0 {
                break;
            }
            if self.read_only && !line.ends_with(b"\n") {
                // Its writer is not done.
                break;
            }
            match (decode(&line), &unreadable) {
                (Ok(entry), None)
                    if entry.seq == self.seq.next() || self.len == 0 && entry.starts_snapshot() =>
                {
                    self.len += line.len() as u64;
                    self.seq = entry.seq;
                    match entry.change {
                        Change::Snapshot { .. } => in_snapshot = true,
                        Change::SnapshotEnd { .. } => in_snapshot = false,
                        _ => {}
                    }
                    apply(&entry, self.len)?;
                }
                // A whole line where it can't belong is no unfinished end.
                (Ok(entry), None) => {
                    return Err(
                        self.damaged(format!("line {} follows line {}", entry.seq, self.seq))
                    );
                }
                (Err(BadLine::Unknown(reason)), _) => {
                    return Err(self.damaged(newer(&reason)));
                }
                (Err(BadLine::Unreadable(reason)), None) => unreadable = Some(reason),
                // A readable line that counts on what can't be read: it was acknowledged.
                (Ok(entry), Some(reason)) if entry.after > self.seq => {
                    return Err(self.damaged(reason.clone()));
                }
                (_, Some(_)) => {}
            }
        }
        if in_snapshot {
            // It was put in place whole.
            let reason = unreadable.unwrap_or_else(|| "it ends there".into());
            return Err(self.damaged(format!("{reason}; a snapshot has no end")));
        }
        if self.seq < acknowledged {
            let reason = unreadable.unwrap_or_else(|| "it ends there".into());
            return Err(self.damaged(format!("{reason}; line {acknowledged} was acknowledged")));
        }
        if let Some(reason) = unreadable
            && !self.read_only
        {
            log::warn!(
                "{}: cutting off an unfinished end at byte {} ({reason})",
                self.path.display(),
                self.len
            );
            if let Err(e) = self.truncate() {
                log::error!("{}: {e}", self.path.display());
                self.poisoned = true;
            }
        }
        Ok(())
    }
}
