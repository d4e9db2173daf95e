//! Verifying a store: history, catalogue and payloads against each other.
//!
//! The history is the truth that the rest is checked against: a catalogue of
//! its own is made from it, beside, and compared record by record with the
//! one in use, which may belong to a server that goes on meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::catalogue::records::*;
use crate::catalogue::{Catalogue, Records, be_u64, decode, from_history, quietly, scratch};
use crate::error::{Error, IoContext, Result};
use crate::history::log::History;
use crate::payload::blocks::BlockChecker;
use crate::payload::staging::{PayloadOf, Payloads, sha_of_key};
use crate::store::open::{HISTORY, Store};
use crate::types::sha::Sha;

/// Records in one page.
const PAGE: usize = 2000;
/// How often what differs is looked at again, since commits go on meanwhile.
const LOOKS: usize = 5;
/// How many records that differ are looked at again.
const AGAIN: usize = 200;
/// How often verification starts over when the history is compacted under it.
const STARTS: usize = 3;

/// A record of the catalogue: key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// The catalogue and payloads in use, wherever they are.
pub trait Live {
    /// What asking can fail with.
    type Error: std::error::Error;

    /// The records after a key, in order, some at a time; none at the end. Not how much of the
    /// history is applied, nor payloads.
    fn page(&self, after: Option<&[u8]>) -> std::result::Result<Vec<Record>, Self::Error>;

    /// Part of a payload that is kept inside the catalogue; nothing at its end.
    fn read(&self, sha256: &Sha, offset: u64) -> std::result::Result<Vec<u8>, Self::Error>;
}

impl Live for Store {
    type Error = Error;

    fn page(&self, after: Option<&[u8]>) -> Result<Vec<Record>> {
        let catalogue = self.catalogue()?;
        // sled panics over what it can't read.
        let page = quietly(|| Ok(Live::page(&*catalogue, after)));
        page.unwrap_or_else(|panic| Err(Error::Inconsistent(panic)))
    }

    fn read(&self, sha256: &Sha, offset: u64) -> Result<Vec<u8>> {
        let bytes = self.read_payload(sha256, offset, 1 << 20)?;
        bytes.ok_or(Error::NoPayload(*sha256))
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A line of the history can't be read.
    History,
    /// The catalogue can't be opened, or differs from the history.
    Catalogue,
    /// Bytes differ from what was published.
    PayloadDamaged,
    /// Bytes are not there.
    PayloadMissing,
    /// They could not be read, which says nothing of what they are.
    PayloadUnreadable,
    /// Somebody else could read or change what is private.
    Permissions,
    /// A file that nothing needs, as a crash leaves it. No harm; `gc` removes it.
    Orphan,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// Where.
    pub place: String,
    /// More of it.
    pub detail: String,
    /// The versions that need it: `KEY@VERSION`.
    pub versions: Vec<String>,
    /// What repair did about it.
    pub repaired: Option<String>,
    /// Whether something is gone that only a backup can bring back.
    pub lost: bool,
}

impl Finding {
    pub(crate) fn new(kind: Kind, place: impl ToString, detail: impl ToString) -> Finding {
        let (place, detail) = (place.to_string(), detail.to_string());
        Finding { kind, place, detail, versions: Vec::new(), repaired: None, lost: false }
    }
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Changes of the history.
    pub changes: u64,
    /// Records of the catalogue.
    pub records: u64,
    /// Payloads.
    pub payloads: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Whether nothing is wrong, or was put right. A file that nothing needs is nothing wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|f| f.kind == Kind::Orphan || f.repaired.is_some() && !f.lost)
    }
}

/// How a verification goes on.
pub struct Course<'a> {
    /// Told of payload bytes done, and how many there are.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Whether to leave hosts half of the time.
    pub gently: bool,
}

/// Verifies the store in `dir`. Its catalogue in use is `live`, or it can't be opened for this
/// reason. Nothing is changed.
pub fn verify<L: Live>(
    dir: &Path,
    live: std::result::Result<&L, &Error>,
    course: &mut Course<'_>,
) -> Result<Verified> {
    for _ in 1..STARTS {
        if let Some(verified) = attempt(dir, live, course)? {
            return Ok(verified);
        }
    }
    attempt(dir, live, course)?
        .ok_or_else(|| Error::Inconsistent("the history is compacted again and again".into()))
}

/// Nothing, if the history was compacted meanwhile.
fn attempt<L: Live>(
    dir: &Path,
    live: std::result::Result<&L, &Error>,
    course: &mut Course<'_>,
) -> Result<Option<Verified>> {
    let mut verified = Verified::default();
    check_permissions(dir, &mut verified)?;
    let path = dir.join(HISTORY);
    let place = scratch(dir, path.metadata().at("reading", &path)?.len())?;
    let mut history = History::look(&path)?;
    let truth = match from_history(place.path(), &mut history) {
        Ok(truth) => truth,
        Err(e @ Error::HistoryDamaged { .. }) => {
            verified.findings.push(Finding::new(Kind::History, path.display(), e));
            return Ok(Some(verified));
        }
        Err(e) => return Err(e),
    };
    verified.changes = history.lines()?;
    let payloads = Payloads::look(dir);
    check_payloads(&payloads, &truth, live.ok(), course, &mut verified)?;
    check_orphans(&payloads, &truth, &mut verified)?;
    match live {
        Ok(live) => {
            if !compare(dir, truth, live, &mut verified)? {
                return Ok(None);
            }
        }
        // It ends too early: the catalogue has more of it.
        Err(e @ Error::HistoryDamaged { path, .. }) => {
            verified.findings.push(Finding::new(Kind::History, path.display(), e));
        }
        Err(e) => {
            let place = dir.join("db");
            verified.findings.push(Finding::new(Kind::Catalogue, place.display(), e));
        }
    }
    Ok(Some(verified))
}

/// What is private, and what nobody may write, with the modes they have to have at most.
fn modes(dir: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let mut modes = vec![(dir.to_owned(), 0o700)];
    for name in ["history", "settings.json", "state.json", "db", "incoming", "objects"] {
        modes.push((dir.join(name), 0o700));
    }
    let objects = dir.join("objects");
    for directory in fs::read_dir(&objects).into_iter().flatten() {
        let directory = directory.at("reading", &objects)?.path();
        modes.push((directory.clone(), 0o700));
        for object in fs::read_dir(&directory).into_iter().flatten() {
            modes.push((object.at("reading", &directory)?.path(), 0o400));
        }
    }
    Ok(modes)
}

/// Everything of the store in `dir` that others than its owner could get at, with the mode it should have.
pub(crate) fn too_open(dir: &Path) -> Result<Vec<(PathBuf, u32)>> {
    // The way there may be a link.
    let dir = dir.canonicalize().at("reading", dir)?;
    let dir = dir.as_path();
    let owner = fs::metadata(dir).at("reading", dir)?.uid();
    let mut found = Vec::new();
    for (path, most) in modes(dir)? {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        // What only is inside a private directory may say what it likes of group and others.
        let private = path.parent() == Some(dir) && path != dir;
        let excess = mode & !most & if private { 0 } else { 0o777 };
        if excess != 0 || metadata.uid() != owner {
            found.push((path, mode & most));
        }
    }
    Ok(found)
}

fn check_permissions(dir: &Path, verified: &mut Verified) -> Result<()> {
    for (path, mode) in too_open(dir)? {
        let detail = format!("its mode should be {mode:o}, and its owner the store's");
        verified.findings.push(Finding::new(Kind::Permissions, path.display(), detail));
    }
    Ok(())
}

fn versions_with(truth: &Catalogue, sha256: &Sha) -> Result<Vec<String>> {
    let prefix = users_prefix(sha256);
    let mut versions = Vec::new();
    for entry in truth.scan(&prefix) {
        let version = truth.version_at(be_u64(&entry?.0[prefix.len()..])?)?;
        versions.push(format!("{}@{}", version.key, version.version));
    }
    Ok(versions)
}

fn check_payloads<L: Live>(
    payloads: &Payloads,
    truth: &Catalogue,
    live: Option<&L>,
    course: &mut Course<'_>,
    verified: &mut Verified,
) -> Result<()> {
    let mut last = None;
    for entry in truth.scan(b"r") {
        let user = entry?.0;
        let sha256 = sha_of_key(user.get(..33).unwrap_or_default())?;
        if last != Some(sha256) && truth.payload(&sha256)?.is_none() {
            let versions = versions_with(truth, &sha256)?;
            let place = format!("payload {sha256}");
            let finding = Finding::new(Kind::PayloadMissing, place, "nothing is known of it");
            verified.findings.push(Finding { versions, ..finding });
        }
        last = Some(sha256);
    }
    let mut total = 0;
    for entry in truth.scan(b"p") {
        total += decode::<PayloadRecord>(&entry?.1)?.size;
    }
    for entry in truth.scan(b"p") {
        let (key, value) = entry?;
        let sha256 = sha_of_key(&key)?;
        let payload = PayloadOf::new(&sha256, &decode(&value)?);
        let before = verified.bytes;
        let start = Instant::now();
        let mut pace = Pace { gently: course.gently, since: start };
        let progress = &mut |done: u64| {
            (course.progress)(before + done, total);
            pace.rest();
        };
        let found = if payload.inline {
            live.map_or(Ok(None), |live| check_inside(truth, live, &payload, progress))?
        } else {
            payloads.check_object(truth, &payload, progress)?
        };
        if let Some((kind, detail)) = found
            && !is_gone(&sha256, live)
        {
            let place = match payload.inline {
                true => format!("payload {sha256} in the catalogue"),
                false => payloads.object(&sha256).display().to_string(),
            };
            let versions = versions_with(truth, &sha256)?;
            verified.findings.push(Finding { versions, ..Finding::new(kind, place, detail) });
        }
        verified.payloads += 1;
        verified.bytes += payload.size;
    }
    Ok(())
}

/// Whether a payload was collected since the history was read: no version needs it any more.
fn is_gone<L: Live>(sha256: &Sha, live: Option<&L>) -> bool {
    let users = users_prefix(sha256);
    let page = live.and_then(|live| live.page(Some(&users)).ok());
    page.is_some_and(|page| !page.first().is_some_and(|(key, _)| key.starts_with(&users)))
}

type Found = Option<(Kind, String)>;

fn check_inside<L: Live>(
    truth: &Catalogue,
    live: &L,
    payload: &PayloadOf,
    progress: &mut dyn FnMut(u64),
) -> Result<Found> {
    let mut checker = BlockChecker::new(truth, payload);
    let mut at = 0;
    while at < payload.size {
        // Whoever keeps it checks it as well, and refuses what is damaged.
        let bytes = match live.read(&payload.sha256, at) {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) => return Ok(Some((Kind::PayloadMissing, "it ends early".into()))),
            Err(e) => return Ok(Some((Kind::PayloadDamaged, e.to_string()))),
        };
        if let Some(found) = checker.take(&bytes)? {
            return Ok(Some((Kind::PayloadDamaged, found)));
        }
        at += bytes.len() as u64;
        progress(at);
    }
    Ok(checker.finish()?.map(|found| (Kind::PayloadDamaged, found)))
}

fn check_orphans(payloads: &Payloads, truth: &Catalogue, verified: &mut Verified) -> Result<()> {
    payloads.each_object_directory(|directory| {
        for entry in fs::read_dir(directory).at("reading", directory)? {
            let entry = entry.at("reading", directory)?;
            let age = entry.metadata().and_then(|m| m.modified()).ok();
            let age = age.and_then(|time| time.elapsed().ok()).unwrap_or_default();
            let sha256 = entry.file_name().to_string_lossy().parse::<Sha>();
            let needed = match &sha256 {
                Ok(sha256) => truth.payload(sha256)?.is_some_and(|record| !record.inline),
                Err(_) => false,
            };
            // What is just being published is there before its line.
            if !needed && age > Duration::from_secs(60) {
                let detail = "no payload of the history is in it";
                let place = entry.path();
                verified.findings.push(Finding::new(Kind::Orphan, place.display(), detail));
            }
        }
        Ok(())
    })
}

/// Compares the catalogue in use with the truth; false if the history was compacted meanwhile.
fn compare<L: Live>(
    dir: &Path,
    truth: Arc<Catalogue>,
    live: &L,
    verified: &mut Verified,
) -> Result<bool> {
    // Those that are looked at again; the others are counted.
    let mut differing: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut others = 0u64;
    let mut note = |key: &[u8]| match differing.len() < AGAIN {
        true => drop(differing.insert(key.to_vec())),
        false => others += 1,
    };
    let mut ours = Pages { after: None, page: Vec::new().into_iter() };
    let mut theirs = Pages { after: None, page: Vec::new().into_iter() };
    let mut our = ours.next(&*truth)?;
    let mut their = match theirs.next(live) {
        Ok(their) => their,
        Err(e) => return unreadable(dir, &e, verified),
    };
    while our.is_some() || their.is_some() {
        let order = match (&our, &their) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (None, _) => std::cmp::Ordering::Greater,
            (_, None) => std::cmp::Ordering::Less,
        };
        if order.is_eq() && our != their || order.is_gt() {
            their.iter().for_each(|(key, _)| note(key));
        } else if order.is_lt() && !our.as_ref().is_some_and(is_inside) {
            our.iter().for_each(|(key, _)| note(key));
        }
        if order.is_le() {
            our = ours.next(&*truth)?;
        }
        if order.is_ge() {
            verified.records += 1;
            their = match theirs.next(live) {
                Ok(their) => their,
                Err(e) => return unreadable(dir, &e, verified),
            };
        }
    }
    // What was committed meanwhile is in the history by now.
    for _ in 0..LOOKS {
        if differing.is_empty() && others == 0 {
            return Ok(true);
        }
        if differing.is_empty() {
            // So much was committed that it is quicker to start over.
            return Ok(false);
        }
        let mut history = History::look(&dir.join(HISTORY))?;
        match crate::catalogue::catch_up(&truth, &mut history, 0) {
            Ok(()) => {}
            Err(Error::Inconsistent(_)) => return Ok(false),
            Err(e) => return Err(e),
        }
        for key in differing.clone() {
            let mut before = key.clone();
            before.pop();
            let mut found = None;
            let mut after = Some(before);
            while let Some(at) = after.take() {
                let page = match live.page(Some(&at)) {
                    Ok(page) => page,
                    Err(e) => return unreadable(dir, &e, verified),
                };
                match page.last() {
                    Some((last, _)) if *last < key => after = Some(last.clone()),
                    _ => found = page.into_iter().find(|(at, _)| *at == key).map(|(_, v)| v),
                }
            }
            if truth.get(&key)?.map(|value| value.to_vec()) == found {
                differing.remove(&key);
            }
        }
    }
    if let Some(key) = differing.first() {
        let detail = format!(
            "{} records differ from the history; the first is {:?}",
            differing.len() as u64 + others,
            String::from_utf8_lossy(key)
        );
        let place = dir.join("db");
        verified.findings.push(Finding::new(Kind::Catalogue, place.display(), detail));
    }
    Ok(true)
}

/// Notes that the catalogue in use can't be read.
fn unreadable(dir: &Path, e: &dyn std::fmt::Display, verified: &mut Verified) -> Result<bool> {
    let place = dir.join("db");
    let detail = format!("it can't be read: {e}");
    verified.findings.push(Finding::new(Kind::Catalogue, place.display(), detail));
    Ok(true)
}

/// Whether a record is that of a payload kept inside the catalogue: lost with an old one, it is
/// missing in the new, and was found to be.
fn is_inside((key, value): &Record) -> bool {
    key.starts_with(b"p") && decode::<PayloadRecord>(value).is_ok_and(|record| record.inline)
}

/// Goes through records page by page.
struct Pages {
    after: Option<Vec<u8>>,
    page: std::vec::IntoIter<Record>,
}

impl Pages {
    fn next<L: Live>(&mut self, live: &L) -> std::result::Result<Option<Record>, L::Error> {
        if self.page.len() == 0 {
            self.page = live.page(self.after.as_deref())?.into_iter();
        }
        let next = self.page.next();
        if let Some((key, _)) = &next {
            self.after = Some(key.clone());
        }
        Ok(next)
    }
}

impl Live for Catalogue {
    type Error = Error;

    fn page(&self, after: Option<&[u8]>) -> Result<Vec<Record>> {
        let from = after.map_or_else(Vec::new, |after| [after, b"\0"].concat());
        Catalogue::page(self, from, PAGE)
    }

    fn read(&self, sha256: &Sha, _offset: u64) -> Result<Vec<u8>> {
        Err(Error::NoPayload(*sha256))
    }
}

/// Rests as long as it works, so that hosts have half of the disk.
struct Pace {
    gently: bool,
    since: Instant,
}

impl Pace {
    fn rest(&mut self) {
        if self.gently {
            std::thread::sleep(self.since.elapsed().min(Duration::from_millis(100)));
        }
        self.since = Instant::now();
    }
}

/// Whether an error says that bytes can't be read, rather than that they are wrong.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
}
