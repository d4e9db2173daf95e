//! Collection by the policy of the store's settings, when nothing else happens.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use wasmfs_store::{Collected, Inode, Policy, Sequence};

use super::gc::Collection;
use super::mounts::Mounts;
use crate::error::chain;

/// How long nothing may happen before the policy is carried out, and how far apart its two looks
/// are.
const QUIET_TIME: Duration = Duration::from_secs(60);
/// Requests a minute that are as good as nothing: somebody who looks around.
const FEW_REQUESTS: u64 = 100;
/// How often the policy is carried out.
const POLICY_INTERVAL: Duration = Duration::from_secs(3600);

/// Carries out the policy of the store's settings, when nothing else happens.
pub(crate) fn start(mounts: &Arc<Mounts>, policy: Policy) -> std::io::Result<()> {
    let mounts = Arc::downgrade(mounts);
    let run = move || carry_out(&mounts, &policy);
    std::thread::Builder::new().name("policy".into()).spawn(run).map(drop)
}

/// How much has happened.
#[derive(Clone, Copy)]
struct Activity {
    requests: u64,
    changes: Sequence,
}

impl Activity {
    fn is_near(self, before: Activity) -> bool {
        self.changes == before.changes && self.requests - before.requests < FEW_REQUESTS
    }
}

fn carry_out(mounts: &Weak<Mounts>, policy: &Policy) {
    let mut activity = None;
    let mut last_run: Option<Instant> = None;
    loop {
        std::thread::sleep(QUIET_TIME);
        let Some(now) = mounts.upgrade().map(|mounts| activity_of(&mounts)) else { return };
        let quiet = activity.is_some_and(|before| now.is_near(before));
        activity = Some(now);
        if !quiet || last_run.is_some_and(|last| last.elapsed() < POLICY_INTERVAL) {
            continue;
        }
        last_run = Some(Instant::now());
        match look_twice(mounts, policy) {
            Ok(None) => {}
            Ok(Some(Collected { versions, payloads, bytes })) => {
                log::info!(
                    "collected {versions} versions and {payloads} payloads of {bytes} bytes"
                );
            }
            Err(e) => log::error!("collecting: {}", chain(&e)),
        }
    }
}

/// Gives up what is unused now and a minute later; nothing if there is nothing. Whoever ends the
/// server need not wait for this longer than for one portion.
fn look_twice(mounts: &Weak<Mounts>, policy: &Policy) -> wasmfs_store::Result<Option<Collected>> {
    let mut unused = HashSet::new();
    each_portion(mounts, policy, true, None, |looked| {
        unused.extend(looked.versions.iter().map(|version| version.inode));
    })?;
    if unused.is_empty() {
        return Ok(None);
    }
    std::thread::sleep(QUIET_TIME);
    let mut total = Collected::default();
    each_portion(mounts, policy, false, Some(&unused), |done| total.add(&done.collected))?;
    let Some(mounts) = mounts.upgrade() else { return Ok(None) };
    total.add(&mounts.tidy()?.orphans);
    Ok(Some(total))
}

fn each_portion(
    mounts: &Weak<Mounts>,
    policy: &Policy,
    dry_run: bool,
    among: Option<&HashSet<Inode>>,
    mut each: impl FnMut(&Collection),
) -> wasmfs_store::Result<()> {
    let mut after: Option<String> = None;
    while let Some(mounts) = mounts.upgrade() {
        let portion = mounts.collect(policy, after.as_deref(), dry_run, among)?;
        each(&portion);
        after = portion.next;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

/// How much has happened since this process began to serve.
fn activity_of(mounts: &Mounts) -> Activity {
    Activity { requests: mounts.request_total(), changes: mounts.store().last_change() }
}
