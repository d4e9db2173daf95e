//! `wasmfs verify`.

use std::cell::RefCell;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use wasmfs_store::maintenance::{
    Course, Finding, FindingKind, Live, Record, Verified, foreign_parts, take_back, verify,
};
use wasmfs_store::{Error as StoreError, Sha, Store, StoreDir};

use crate::client::StoreClient;
use crate::control::requests::{Payload, Records, read_records};
use crate::ui::output;
use crate::ui::progress;
use crate::ui::{Error, Failure, Outcome};

/// Check the whole store: history, catalogue, and every byte
///
/// It works while the store is mounted, and uses at most half of the disk's time. --repair needs
/// the store unmounted, and deletes nothing: it rebuilds the catalogue from the history, moves
/// damaged payloads to quarantine/, and lists what only a backup can bring back. The exit status is
/// 0 if the store is sound or repaired, 1 if it is damaged, and 2 if it is repaired but something
/// is lost.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs verify
  wasmfs verify --repair")]
pub struct Args {
    /// Repair what can be repaired
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    sound: bool,
    #[serde(flatten)]
    verified: Verified,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    // Whoever is served comes first.
    let _ = rustix::process::nice(10);
    let bar = progress::bar(0, true);
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let store = &StoreDir::open_to_verify(store)?;
    let taken_back = if args.repair { take_back(store)? } else { Vec::new() };
    let foreign = foreign_parts(store)?;
    if !foreign.is_empty() {
        // Whoever owns it can have it be anything: nothing else is looked at.
        let findings = if args.repair { taken_back } else { foreign };
        return report(Verified { findings, ..Verified::default() }, args);
    }
    let opened = match StoreClient::open_in(store) {
        Ok(client) => Ok(client),
        Err(e) => Err(damage(e)?),
    };
    if args.repair && opened.as_ref().is_ok_and(StoreClient::is_served) {
        return Err(Error::RepairMounted.into());
    }
    let gently = opened.as_ref().is_ok_and(StoreClient::is_served);
    let mut course = Course { progress: &mut progress, gently };
    let mut verified = match opened {
        Ok(client) => {
            let asking = Asking { client, failed: RefCell::new(None) };
            let verified = verify(store, Ok(&asking), &mut course);
            let Asking { client, failed } = asking;
            // A damaged catalogue can make closing fail; opening rebuilds it.
            let closed = client.close();
            let verified = verified.inspect(|_| drop(closed))?;
            // What could not be asked for is not damaged.
            match failed.into_inner() {
                Some(failed) => return Err(failed.into()),
                None => verified,
            }
        }
        Err(damage) => verify::<Store>(store, Err(&damage), &mut course)?,
    };
    bar.finish_and_clear();
    let found_sound = verified.is_sound();
    if args.repair && !found_sound {
        wasmfs_store::maintenance::repair(store, &mut verified)?;
    }
    verified.findings.splice(0..0, taken_back);
    report(verified, args)
}

fn report(verified: Verified, args: Args) -> Result<Outcome> {
    let report = Report { sound: verified.is_sound(), verified };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(match (report.sound, args.repair) {
        (true, _) => Outcome::Done,
        (false, true) if is_all_done(&report.verified) => Outcome::Partly,
        (false, false) => {
            output::note(format_args!(
                "hint: `wasmfs verify --repair` repairs what can be, while the store is not mounted"
            ));
            Outcome::Failed
        }
        (false, true) => Outcome::Failed,
    })
}

/// Whether only what is lost is left.
fn is_all_done(verified: &Verified) -> bool {
    verified.findings.iter().all(|f| f.kind == FindingKind::Orphan || f.repaired.is_some())
}

/// Why a store can't be opened, if that is something to be repaired; else the error.
fn damage(error: anyhow::Error) -> Result<StoreError> {
    match error.downcast() {
        Ok(e @ (StoreError::HistoryDamaged { .. } | StoreError::Inconsistent(_))) => Ok(e),
        Ok(e) => Err(e.into()),
        Err(e) => Err(e),
    }
}

fn print(report: &Report) -> Result<()> {
    let Verified { changes, records, payloads, bytes, findings } = &report.verified;
    for Finding { place, detail, versions, repaired, lost, .. } in findings {
        output::line(format_args!("{place}: {detail}"))?;
        if !versions.is_empty() {
            output::line(format_args!("  needed by {}", versions.join(", ")))?;
        }
        if let Some(repaired) = repaired {
            output::line(format_args!("  {repaired}"))?;
        }
        if *lost {
            output::line(format_args!(
                "  what is lost can only come from a backup, or be made again"
            ))?;
        }
    }
    let size = output::size(*bytes);
    output::line(format_args!(
        "{changes} changes, {records} records, {payloads} payloads of {size}: {}",
        match (findings.len(), report.sound) {
            (0, _) => "sound".to_owned(),
            (n, true) => format!("sound but for {n} findings that do no harm or were repaired"),
            (n, false) => format!("{n} findings"),
        }
    ))
}

/// What an answer says of the data that was asked for; anything else says that it couldn't be
/// asked.
const ABOUT_DATA: [&str; 6] = [
    "payload-damaged",
    "no-payload",
    "catalogue-failed",
    "catalogue-inconsistent",
    "no-catalogue",
    "io",
];

/// The catalogue and the payloads inside it, as whoever has the store says they are.
struct Asking {
    client: StoreClient,
    /// Why it could not be asked, if it couldn't.
    failed: RefCell<Option<Failure>>,
}

impl Asking {
    /// An answer; or a failure, which is noted if it is not about the data.
    fn noted<T>(&self, answer: Result<T>) -> Result<T, Failure> {
        answer.map_err(|e| {
            let failure = Failure::of(&e);
            if !ABOUT_DATA.contains(&&*failure.code) {
                self.failed.borrow_mut().get_or_insert_with(|| failure.clone());
            }
            failure
        })
    }
}

impl Live for Asking {
    type Error = Failure;

    fn page(&self, after: Option<&[u8]>) -> Result<Vec<Record>, Failure> {
        let page = self.client.ask(Records::after(after));
        self.noted(page.and_then(|page| read_records(&page)))
    }

    fn read(&self, sha256: &Sha, offset: u64) -> Result<Vec<u8>, Failure> {
        self.noted(self.client.ask(Payload { sha256: *sha256, offset })).map(|part| part.0)
    }
}
