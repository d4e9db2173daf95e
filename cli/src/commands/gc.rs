//! `wasmfs gc`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use wasmfs_fs::gc::{Collection, Kept, Tidied};
use wasmfs_fs::mount::{MountUser, mount_users};
use wasmfs_store::{Candidate, Collected, Fate, Inode, Key, Sha, Version};

use crate::args::{KeyVersion, has_key};
use crate::client::StoreClient;
use crate::control::MountStatus;
use crate::control::requests::{AskedPolicy, Collect, Fates, Tidy, Users, VersionOf};
use crate::ui::output;
use crate::ui::{Error, Outcome};

/// Collect versions that nothing needs, and free their space
///
/// It collects versions that were superseded or removed, and sources that no other version was
/// compiled from. What a process has open or mapped stays. The newest version of each key and
/// engine stays, and so does what is pinned. The defaults of --keep and --older-than are in
/// settings.json, under `collect`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs gc --dry-run
  wasmfs gc --keep 3 --older-than 30d
  wasmfs gc --why app.cwasm@2")]
pub struct Args {
    /// Keep this many versions of each key and engine, the newest included [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
    /// Keep what was superseded or removed within this time: 30d, 12h
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Only say what would be collected
    #[arg(long)]
    dry_run: bool,
    /// Only say what keeps the versions of a key, one version, or a payload by its sha256
    #[arg(long, value_name = "KEY[@VERSION]|SHA256", conflicts_with = "dry_run")]
    why: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An age on the command line.
fn age(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text)
        .map_err(|_| "an age is a number with a unit, such as 30d or 12h")
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    collected: Collected,
    versions: Vec<Candidate>,
    in_use: Vec<Candidate>,
    unanswered: bool,
    tidied: Tidied,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let policy = AskedPolicy { keep: args.keep, older_than: args.older_than };
    let client = StoreClient::open(store)?;
    if let Some(what) = &args.why {
        return why(&client, what, policy, args.json);
    }
    let mut request = Collect::new(policy, args.dry_run);
    let mut report = Report {
        dry_run: args.dry_run,
        collected: Collected::default(),
        versions: Vec::new(),
        in_use: Vec::new(),
        unanswered: false,
        tidied: Tidied::default(),
    };
    loop {
        let Collection { collected, versions, in_use, unanswered, next } =
            client.ask(request.clone())?;
        report.unanswered |= unanswered;
        report.collected.add(&collected);
        report.versions.extend(versions);
        report.in_use.extend(in_use);
        request.after = next;
        if request.after.is_none() {
            break;
        }
    }
    if report.unanswered && args.json {
        // The error is what is printed then.
        return Err(Error::LookupUnanswered.into());
    }
    let mut tidied = Ok(Tidied::default());
    if !args.dry_run && !report.unanswered {
        tidied = client.ask(Tidy {});
    }
    // With --json nothing but the error is printed.
    let tidied = match tidied {
        Err(e) if args.json => return Err(e),
        tidied => tidied.map(|done| report.tidied = done),
    };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    tidied?;
    client.close()?;
    if report.unanswered {
        return Err(Error::LookupUnanswered.into());
    }
    Ok(Outcome::Done)
}

fn print(report: &Report) -> Result<()> {
    let Report { dry_run, collected, versions, in_use, tidied, .. } = report;
    if *dry_run {
        for Candidate { key, version, size, removed, .. } in versions {
            let how = if *removed { "removed" } else { "superseded" };
            output::line(format_args!("{key}@{version}: {how}, {}", output::size(*size)))?;
        }
    }
    for Candidate { key, version, .. } in in_use {
        output::line(format_args!("{key}@{version} stays: it is in use"))?;
    }
    let mut total = collected.clone();
    total.add(&tidied.orphans);
    let done = if *dry_run { "would collect" } else { "collected" };
    output::line(format_args!(
        "{done} {} and {}, {}",
        output::count(total.versions, "version"),
        output::count(total.payloads, "payload"),
        output::size(total.bytes)
    ))?;
    for (what, compacted) in [("history", &tidied.compacted), ("catalogue", &tidied.shrunk)] {
        if let Some(compacted) = compacted {
            output::line(format_args!(
                "the {what} was compacted from {} to {}",
                output::size(compacted.before),
                output::size(compacted.after)
            ))?;
        }
    }
    Ok(())
}

/// A version, and what keeps it.
#[derive(Serialize)]
struct Why {
    #[serde(flatten)]
    kept: Kept,
    /// The processes that use it, as far as the caller may see them.
    used_by: Vec<Process>,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    command: String,
    how: &'static str,
}

fn why(client: &StoreClient, what: &str, policy: AskedPolicy, json: bool) -> Result<Outcome> {
    let mut versions = Vec::new();
    let is_key = match Key::new(what) {
        Ok(key) => has_key(client, &key)?,
        Err(_) => false,
    };
    match what.parse::<Sha>() {
        Ok(sha256) if !is_key => {
            let mut users: BTreeMap<Key, BTreeSet<Version>> = BTreeMap::new();
            for (key, version) in client.ask(Users { sha256 })? {
                users.entry(key).or_default().insert(version);
            }
            for (key, wanted) in users {
                let kept = client.ask(Fates::new(key.clone(), policy))?.into_iter();
                versions.extend(kept.filter(|kept| wanted.contains(&kept.candidate.version)));
            }
        }
        _ => {
            let of = what.parse::<KeyVersion>().map_err(|e| {
                Error::usage(e.to_string(), "name a key of `wasmfs ls`, or a sha256")
            })?;
            let of = of.resolve(client)?;
            versions = of_key(client, of, policy)?;
        }
    }
    let mounts = client.mounts()?;
    let found: Vec<_> = versions
        .into_iter()
        .map(|kept| {
            // Only what nothing else keeps is kept by whoever uses it.
            let asked = if kept.in_use { &mounts[..] } else { &[] };
            Why { used_by: users(asked, Inode(kept.candidate.inode.get())), kept }
        })
        .collect();
    if json {
        output::json(&found)?;
        return Ok(Outcome::Done);
    }
    if found.is_empty() {
        output::line(format_args!("no version has it; the next `wasmfs gc` collects it"))?;
    }
    for Why { kept: Kept { candidate, in_use }, used_by } in &found {
        let reason = match candidate.fate {
            Fate::Current => "it is the newest of its engine",
            Fate::Pinned => "it is pinned",
            Fate::Newest => "it is among the newest, by the policy",
            Fate::Recent => "it was superseded or removed too recently, by the policy",
            Fate::Free if *in_use => "it is in use",
            Fate::Free => "nothing keeps it; the next `wasmfs gc` collects it",
        };
        output::line(format_args!("{}@{}: {reason}", candidate.key, candidate.version))?;
        for Process { pid, command, how } in used_by {
            output::line(format_args!("  process {pid} ({command}) has it {how}"))?;
        }
        if *in_use && used_by.is_empty() {
            output::line(format_args!("  by a process that only root can see, or for a moment"))?;
        }
    }
    Ok(Outcome::Done)
}

fn of_key(client: &StoreClient, of: VersionOf, policy: AskedPolicy) -> Result<Vec<Kept>> {
    let mut kept = client.ask(Fates::new(of.key.clone(), policy))?;
    if let Some(version) = of.version {
        kept.retain(|kept| kept.candidate.version == version);
        if kept.is_empty() {
            return Err(wasmfs_store::Error::NoVersion { key: of.key, version }.into());
        }
    }
    if kept.is_empty() {
        return Err(wasmfs_store::Error::NoKey(of.key).into());
    }
    Ok(kept)
}

fn users(mounts: &[MountStatus], inode: Inode) -> Vec<Process> {
    let holders = mounts.iter().flat_map(|mount| mount_users((0, mount.connection), Some(inode)));
    holders.map(|MountUser { pid, command, how, .. }| Process { pid, command, how }).collect()
}
