//! Checking every payload, and files that no payload is in.

use std::time::{Duration, Instant};

use super::findings::{Finding, FindingKind, Verified};
use super::live::Live;
use crate::catalogue::tables::{PAYLOADS, USERS};
use crate::catalogue::{Catalogue, Records};
use crate::disk::clock::now;
use crate::error::Result;
use crate::payload::{BlockChecker, ObjectFault, Objects, PayloadInfo};
use crate::types::Sha;

/// A younger object file may be of a payload that is just being published.
const ORPHAN_AGE: Duration = Duration::from_secs(60);
/// How long a check rests at once, at most.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// How a verification goes on.
pub struct Course<'a> {
    /// Told of payload bytes done, and how many there are.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Whether to leave hosts half of the time.
    pub gently: bool,
}

fn versions_with(truth: &Catalogue, sha256: &Sha) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for inode in truth.users(sha256)? {
        let version = truth.version_at(inode)?;
        versions.push(format!("{}@{}", version.key, version.version));
    }
    Ok(versions)
}

pub(super) fn check_payloads<L: Live>(
    objects: &Objects,
    truth: &Catalogue,
    live: Option<&L>,
    course: &mut Course<'_>,
    verified: &mut Verified,
) -> Result<()> {
    let mut last = None;
    for row in truth.scan(&USERS.all()) {
        let (sha256, _) = row?.key()?;
        if last != Some(sha256) && truth.payload(&sha256)?.is_none() {
            let versions = versions_with(truth, &sha256)?;
            let place = format!("payload {sha256}");
            let finding =
                Finding::new(FindingKind::PayloadMissing, place, "nothing is known of it");
            verified.findings.push(Finding { versions, ..finding });
        }
        last = Some(sha256);
    }
    let mut total = 0;
    for row in truth.scan(&PAYLOADS.all()) {
        total += row?.value()?.size;
    }
    for row in truth.scan(&PAYLOADS.all()) {
        let row = row?;
        let sha256 = row.key()?;
        let payload = PayloadInfo::new(&sha256, &row.value()?);
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
            objects.check(truth, &payload, progress)?.map(kind_of)
        };
        if let Some((kind, detail)) = found
            && !is_gone(&sha256, live)
        {
            let place = match payload.inline {
                true => format!("payload {sha256} in the catalogue"),
                false => objects.path(&sha256).display().to_string(),
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
    let users = USERS.of(sha256);
    let page = live.and_then(|live| live.page(Some(&users.just_before())).ok());
    page.is_some_and(|page| !page.first().is_some_and(|(key, _)| users.has(key)))
}

type Found = Option<(FindingKind, String)>;

fn kind_of(fault: ObjectFault) -> (FindingKind, String) {
    match fault {
        ObjectFault::Damaged(found) => (FindingKind::PayloadDamaged, found),
        ObjectFault::Missing(found) => (FindingKind::PayloadMissing, found),
        ObjectFault::Unreadable(found) => (FindingKind::PayloadUnreadable, found),
    }
}

fn check_inside<L: Live>(
    truth: &Catalogue,
    live: &L,
    payload: &PayloadInfo,
    progress: &mut dyn FnMut(u64),
) -> Result<Found> {
    let mut checker = BlockChecker::new(truth, payload);
    let mut at = 0;
    while at < payload.size {
        // Keeping it checks it as well, and refuses what is damaged.
        let bytes = match live.read(&payload.sha256, at) {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) => return Ok(Some((FindingKind::PayloadMissing, "it ends early".into()))),
            Err(e) => return Ok(Some((FindingKind::PayloadDamaged, e.to_string()))),
        };
        if let Some(found) = checker.take(&bytes)? {
            return Ok(Some((FindingKind::PayloadDamaged, found)));
        }
        at += bytes.len() as u64;
        progress(at);
    }
    Ok(checker.finish()?.map(|found| (FindingKind::PayloadDamaged, found)))
}

pub(super) fn check_orphans(
    objects: &Objects,
    truth: &Catalogue,
    verified: &mut Verified,
) -> Result<()> {
    objects.each_directory(|directory| {
        for (name, _) in directory.entries()? {
            let written = directory.metadata(&name)?.map_or(0, |found| found.st_mtime);
            let age = now() / 1_000_000_000;
            let age = Duration::from_secs(age.saturating_sub(written.unsigned_abs()));
            let sha256 = name.to_string_lossy().parse::<Sha>();
            let needed = match &sha256 {
                Ok(sha256) => truth.payload(sha256)?.is_some_and(|record| !record.inline),
                Err(_) => false,
            };
            // What is just being published is there before its line.
            if !needed && age > ORPHAN_AGE {
                let detail = "no payload of the history is in it";
                let place = directory.named(&name);
                verified.findings.push(Finding::new(FindingKind::Orphan, place.display(), detail));
            }
        }
        Ok(())
    })
}

/// Rests as long as it works, so that hosts have half of the disk.
struct Pace {
    gently: bool,
    since: Instant,
}

impl Pace {
    fn rest(&mut self) {
        if self.gently {
            std::thread::sleep(self.since.elapsed().min(LONGEST_REST));
        }
        self.since = Instant::now();
    }
}
