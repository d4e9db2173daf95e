//! Handing a batch over and publishing it with one commit, however often the
//! server goes away meanwhile.

use std::fs::File;
use std::io::Read;

use anyhow::Result;
use indicatif::ProgressBar;
use wasmfs_store::{Key, Published, Sha, Version};

use super::access::{Access, HandedSource, Item};
use super::spool::Section;
use super::stable_file::{FilePlace, StableFile};
use crate::control::PublishOptions;
use crate::control::was_lost;
use crate::ui::Failure;

/// How often a batch is handed over while servers go away.
const BATCH_ATTEMPTS: u32 = 5;

/// An artifact that is ready to be handed over. No file is held open meanwhile:
/// there may be more than a process may open.
pub struct Input {
    /// Under which key.
    pub key: Key,
    /// What to hand over.
    pub bytes: Bytes,
    /// What it was compiled from.
    pub source: Option<SourceBytes>,
    /// What compiled it.
    pub producer: Option<String>,
    /// The version whose source it was compiled from, if that was the store's.
    pub recompiled_from: Option<Version>,
}

/// The bytes of an artifact.
pub enum Bytes {
    /// In a file of somebody else's.
    File(FilePlace),
    /// Kept by this process.
    Kept(Section),
}

/// The WebAssembly that an artifact was compiled from.
pub enum SourceBytes {
    /// Kept by this process.
    Kept(Section),
    /// In the store.
    Stored(Sha),
}

impl Input {
    /// An artifact of which nothing else is known.
    pub fn new(key: Key, bytes: Bytes) -> Input {
        Input { key, bytes, source: None, producer: None, recompiled_from: None }
    }

    /// How many bytes are kept by this process.
    pub fn len(&self) -> u64 {
        match &self.bytes {
            Bytes::Kept(section) => section.len(),
            Bytes::File(_) => 0,
        }
    }
}

impl Bytes {
    /// Hands them to `take`. A file that changes meanwhile is refused.
    fn give<T>(
        &self,
        take: impl FnOnce(Box<dyn Read + Send + Sync + Unpin>) -> Result<T>,
    ) -> Result<T> {
        match self {
            Bytes::Kept(section) => take(Box::new(section.clone())),
            Bytes::File(place) => {
                let file = StableFile::open(place)?;
                let reader: File = file.reader()?;
                let taken = take(Box::new(reader))?;
                file.check()?;
                Ok(taken)
            }
        }
    }
}

/// What came of each input, and whether the kernel knows.
pub type Outcomes = (Vec<Result<Published, Failure>>, bool);

/// Publishes `inputs` with one commit; one that is an error stays one.
pub fn publish(
    access: &mut Access,
    inputs: &[Result<Input>],
    options: &PublishOptions,
    progress: &ProgressBar,
) -> Result<Outcomes> {
    let mut attempt = 1;
    loop {
        match hand_over(access, inputs, options, progress) {
            // What was handed over is gone, or published: the successor knows.
            Err(e) if was_lost(&e) && attempt < BATCH_ATTEMPTS => {
                attempt += 1;
                access.reach_again()?;
            }
            result => return result,
        }
    }
}

/// Hands every input over and publishes them. An error that is no input's own
/// means that the server went away, or a commit that failed.
fn hand_over(
    access: &Access,
    inputs: &[Result<Input>],
    options: &PublishOptions,
    progress: &ProgressBar,
) -> Result<Outcomes> {
    let mut results: Vec<Option<Result<Published, Failure>>> = Vec::new();
    let mut batch = Vec::new();
    progress.set_position(0);
    for input in inputs {
        let handed = match input {
            Ok(input) => {
                progress.set_message(input.key.to_string());
                item(access, input, progress)
            }
            Err(error) => {
                results.push(Some(Err(Failure::of(error))));
                continue;
            }
        };
        match handed {
            Ok(item) => {
                batch.push(item);
                results.push(None);
            }
            Err(error) if was_lost(&error) => return Err(error),
            Err(error) => results.push(Some(Err(Failure::of(&error)))),
        }
    }
    progress.set_message("committing");
    let mut answers = Vec::new().into_iter();
    let mut visible = true;
    if options.together && results.iter().any(Option::is_some) {
        answers =
            vec![Err(Failure::of(&wasmfs_store::Error::HeldBack.into())); batch.len()].into_iter();
    } else if !batch.is_empty() {
        let count = batch.len();
        let published = match access.publish(batch, options) {
            Ok(answer) => {
                visible = answer.visible;
                answer.results
            }
            Err(error) if was_lost(&error) => return Err(error),
            Err(error) => vec![Err(Failure::of(&error)); count],
        };
        answers = published.into_iter();
    }
    let none = || Err(Failure::new("the server gave no answer", "`wasmfs log` shows what went in"));
    let all = results.into_iter().map(|own| own.or_else(|| answers.next()).unwrap_or_else(none));
    Ok((all.collect(), visible))
}

fn item(access: &Access, input: &Input, progress: &ProgressBar) -> Result<Item> {
    let artifact = input.bytes.give(|bytes| access.hand_over(progress.wrap_read(bytes)))?;
    let source = match &input.source {
        None => None,
        Some(SourceBytes::Kept(section)) => Some(access.hand_over_source(section.clone())?),
        Some(SourceBytes::Stored(sha256)) => Some(HandedSource::Stored(*sha256)),
    };
    Ok(Item {
        key: input.key.clone(),
        artifact,
        source,
        producer: input.producer.clone(),
        recompiled_from: input.recompiled_from,
    })
}
