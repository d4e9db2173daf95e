//! The open history: its end, what is appended to it, and how it is mended after an error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::change::{Change, LogEntry};
use super::codec::decode;
use crate::disk::Dir;
use crate::disk::names::{HISTORY, NEW_HISTORY};
use crate::error::{Error, IoContext, Result};
use crate::types::{Sequence, in_memory};

/// Where a history ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Its length in bytes.
    pub(crate) len: u64,
    /// The number of its last line.
    pub(crate) seq: Sequence,
}

/// The open history file. Reading happens while opening, writing afterwards.
pub(crate) struct History {
    dir: Dir,
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// The length of all lines that are on disk, in bytes.
    pub(super) len: u64,
    /// The number of the last line on disk.
    pub(super) seq: Sequence,
    /// Set when an error leaves the end of the file uncertain.
    pub(super) poisoned: bool,
    /// Nothing is cut off: somebody else may be writing it.
    pub(super) read_only: bool,
}

impl History {
    /// Opens the history of the store in `dir`, making it if it is missing. Nothing is read yet.
    pub(crate) fn open(dir: &Dir) -> Result<History> {
        let (file, poisoned) = match dir.open_or_make(HISTORY) {
            Err(e) if e.is_read_only() => (dir.open_file(HISTORY), true),
            file => (file, false),
        };
        let path = dir.named(HISTORY);
        let (dir, file, seq) = (dir.clone(), file?, Sequence(0));
        Ok(History { dir, path, file, len: 0, seq, poisoned, read_only: false })
    }

    /// Opens the history of the store in `dir` to be read only; another process may be writing it.
    pub(crate) fn open_read_only(dir: &Dir) -> Result<History> {
        Ok(History::of(dir, dir.open_file(HISTORY)?, dir.named(HISTORY)))
    }

    /// One that is only read, in a file that is open.
    pub(crate) fn of(dir: &Dir, file: File, path: PathBuf) -> History {
        let (dir, seq) = (dir.clone(), Sequence(0));
        History { dir, path, file, len: 0, seq, poisoned: true, read_only: true }
    }

    /// How many lines there are.
    pub(crate) fn lines(&mut self) -> Result<u64> {
        self.file.seek(SeekFrom::Start(0)).at("reading", &self.path)?;
        let mut line = Vec::new();
        BufReader::new(&self.file).read_until(b'\n', &mut line).at("reading", &self.path)?;
        let first = decode(&line).map_or(1, |entry| entry.seq.get());
        Ok(self.seq.get().saturating_sub(first) + 1)
    }

    /// The end of what was read or written.
    pub(crate) fn end(&self) -> End {
        End { len: self.len, seq: self.seq }
    }

    /// Whether a line with this sequence number ends at byte `len`.
    pub(crate) fn has_line_ending_at(&mut self, len: u64, seq: Sequence) -> Result<bool> {
        if len == 0 {
            return Ok(seq == Sequence(0));
        }
        let size = self.file.metadata().at("reading", &self.path)?.len();
        if size < len {
            return Ok(false);
        }
        let start = self.start_of_line(len).at("reading", &self.path)?;
        self.file.seek(SeekFrom::Start(start)).at("reading", &self.path)?;
        let mut line = Vec::new();
        BufReader::new(&self.file).read_until(b'\n', &mut line).at("reading", &self.path)?;
        Ok(start + line.len() as u64 == len && decode(&line).is_ok_and(|entry| entry.seq == seq))
    }

    /// The end of the snapshot that the file starts with, if that stands for all lines up to
    /// number `seq` and no others.
    pub(crate) fn snapshot_of(&mut self, seq: Sequence) -> Result<Option<End>> {
        self.file.seek(SeekFrom::Start(0)).at("reading", &self.path)?;
        let mut reader = BufReader::with_capacity(1 << 16, &self.file);
        let (mut line, mut len) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).at("reading", &self.path)? > 0 {
            let Ok(entry) = decode(&line) else { return Ok(None) };
            if len == 0 && !(entry.starts_snapshot() && entry.seq == seq.next()) {
                return Ok(None);
            }
            len += line.len() as u64;
            if let Change::SnapshotEnd { .. } = entry.change {
                return Ok(Some(End { len, seq: entry.seq }));
            }
            line.clear();
        }
        Ok(None)
    }

    /// Where the line that ends at byte `end` starts.
    fn start_of_line(&self, end: u64) -> io::Result<u64> {
        let mut before = end.saturating_sub(1);
        let mut buf = [0; 4096];
        while before > 0 {
            let n = before.min(buf.len() as u64);
            let piece = &mut buf[..in_memory(n)];
            self.file.read_exact_at(piece, before - n)?;
            if let Some(at) = piece.iter().rposition(|&b| b == b'\n') {
                return Ok(before - n + at as u64 + 1);
            }
            before -= n;
        }
        Ok(0)
    }

    /// The entries after number `seq`, newest first.
    pub(crate) fn entries_after(&self, seq: Sequence) -> Result<Vec<LogEntry>> {
        let mut entries = Vec::new();
        let mut end = self.len;
        while self.seq.get() - entries.len() as u64 > seq.get() && end > 0 {
            let start = self.start_of_line(end).at("reading", &self.path)?;
            let mut line = vec![0; in_memory(end - start)];
            self.file.read_exact_at(&mut line, start).at("reading", &self.path)?;
            match decode(&line) {
                // A snapshot changes nothing that its lines stand for.
                Ok(LogEntry { change: Change::SnapshotEnd { before }, .. }) if before <= seq => {
                    break;
                }
                Ok(entry) => entries.push(entry),
                Err(bad) => {
                    let (path, reason) = (self.path.clone(), bad.reason());
                    return Err(Error::HistoryDamaged { path, offset: start, reason });
                }
            }
            end = start;
        }
        Ok(entries)
    }

    pub(super) fn damaged(&self, reason: String) -> Error {
        Error::HistoryDamaged { path: self.path.clone(), offset: self.len, reason }
    }

    pub(super) fn truncate(&self) -> Result<()> {
        self.file.set_len(self.len).at("truncating", &self.path)?;
        self.file.sync_all().at("syncing", &self.path)
    }

    /// Makes the history writable after an error that left its end uncertain: what was
    /// acknowledged goes to a new file, which is synced by itself. A failed fsync is never
    /// repeated on the same file, where it would succeed without having written.
    pub(crate) fn heal(&mut self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        let file = self.new_file()?;
        self.file.seek(SeekFrom::Start(0)).at("reading", &self.path)?;
        let copied = io::copy(&mut (&self.file).take(self.len), &mut &file);
        if copied.at("copying", &self.path)? < self.len {
            return Err(self.damaged("it is shorter than what was acknowledged".into()));
        }
        self.replace(file, self.end())?;
        log::warn!("{} was written anew after an error", self.path.display());
        Ok(())
    }

    /// Makes another file, which is to take this one's place.
    pub(crate) fn new_file(&self) -> Result<File> {
        self.dir.new_file(NEW_HISTORY)
    }

    /// Removes what [`History::new_file`] made.
    pub(crate) fn drop_new_file(&self) {
        // If it stays, the next one takes its place.
        let _ = self.dir.remove_file(NEW_HISTORY);
    }

    /// Puts `file`, which [`History::new_file`] made and which ends at `end`, in this one's place.
    pub(crate) fn replace(&mut self, file: File, End { len, seq }: End) -> Result<()> {
        file.sync_all().at("syncing", &self.dir.named(NEW_HISTORY))?;
        self.dir.rename(NEW_HISTORY, HISTORY)?;
        (self.file, self.len, self.seq) = (file, len, seq);
        // Until the name is on disk, either file may be found there.
        self.poisoned = true;
        self.dir.sync()?;
        self.poisoned = false;
        Ok(())
    }

    /// Appends `count` lines, made by [`super::line_of`], and syncs once. On success
    /// they are committed; on error none is, unless the end of the file became
    /// uncertain, and then nothing more is written until the store is opened again.
    pub(crate) fn append(&mut self, lines: &[u8], count: u64) -> Result<()> {
        if self.poisoned {
            return Err(Error::HistoryPoisoned);
        }
        let written = (&self.file)
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| (&self.file).write_all(lines));
        if let Err(source) = written {
            // What a failed write left is cut off again; if that fails, the end is uncertain.
            self.poisoned = self.truncate().is_err();
            return Err(Error::Io { action: "writing", path: self.path.clone(), source });
        }
        if let Err(source) = self.file.sync_data() {
            // After a failed fsync nobody knows what is on disk, and a second one proves nothing.
            self.poisoned = true;
            return Err(Error::Io { action: "syncing", path: self.path.clone(), source });
        }
        self.len += lines.len() as u64;
        self.seq.0 += count;
        Ok(())
    }
}
