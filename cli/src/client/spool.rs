//! Bytes that are to be handed over, and can be read again should the server
//! go away half-way.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What was compiled, or came from a pipe, one after the other in a file without
/// a name, which is gone when this process is: a large batch doesn't fit into memory.
#[derive(Default)]
pub struct SpoolFile(Option<(Arc<File>, u64)>);

impl SpoolFile {
    /// Adds all that a reader gives.
    pub fn add(&mut self, mut from: impl Read) -> io::Result<Section> {
        let (file, start) = match self.0.take() {
            Some(open) => open,
            None => (Arc::new(tempfile::tempfile()?), 0),
        };
        let mut end = start;
        let mut buf = vec![0; 256 << 10];
        let result = loop {
            match from.read(&mut buf) {
                Ok(0) => break Ok(()),
                Ok(n) => {
                    file.write_all_at(&buf[..n], end)?;
                    end += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.0 = Some((file.clone(), end));
        result.map(|()| Section { file, at: start, end })
    }
}

/// A part of the spool file, to be read from its start by each clone.
#[derive(Clone, Debug)]
pub struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Section {
    /// How many bytes are left.
    pub fn len(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len()).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..left], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
