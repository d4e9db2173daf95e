//! `wasmfs recompile`.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;
use serde::Serialize;
use wasmfs_store::{
    Key, KeyInfo, Publish, Published, Sha, Source, Staging, Store, StoreDir, Version,
};

use crate::client::{Batch, StoreClient};
use crate::compile::{CompileArgs, Compiler};
use crate::control::requests::KeyOf;
use crate::ui::output;
use crate::ui::progress;
use crate::ui::{Error, Failure, Outcome, one_line, print_failure, warn_if_not_visible};

/// Compile keys again from their sources, for another wasmtime
///
/// The sources are those that `publish` kept. Plain names stay with their engine until `wasmfs
/// default` moves them. With --default they move at once: all of them, or none if one key can't be
/// compiled.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wasmfs recompile [OPTIONS] KEY... [-- FLAGS...]\n       wasmfs recompile [OPTIONS] --all [-- FLAGS...]"
)]
#[command(after_help = "Examples:
  wasmfs recompile --all --with /opt/wasmtime-48/wasmtime
  wasmfs recompile app.cwasm --compiler winch")]
pub struct Args {
    /// The keys
    #[arg(required_unless_present = "all", value_name = "KEY")]
    keys: Vec<Key>,
    /// Every key
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    #[command(flatten)]
    compile: CompileArgs,
    /// Refuse artifacts of other engines; ENGINE is an alias, a label, or the start of a
    /// fingerprint
    #[arg(long)]
    engine: Option<String>,
    /// Move the plain names, if everything can be compiled
    #[arg(long)]
    default: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of one key.
#[derive(Serialize)]
struct Report {
    key: Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<Published>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// What to compile for a key.
struct Job {
    version: Version,
    source: Sha,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    if args.compile.with.is_none() && !args.compile.flags.is_empty() {
        let message = "flags after `--` are those of the command that --with names";
        return Err(Error::usage(message, "name it, or leave them out").into());
    }
    let compiler = args.compile.compiler()?;
    let store = &StoreDir::open(store)?;
    let client = StoreClient::open_in(store)?;
    client.named_engine(args.engine.as_deref())?;
    let jobs = jobs(&client, &args)?;
    // Compiling takes long; the store is nobody's meanwhile.
    client.close()?;
    if jobs.is_empty() {
        return Err(Error::NoKeys.into());
    }
    let work = Work {
        store,
        args: &args,
        compiler,
        staging: Staging::beside(store)?,
        opening: Mutex::default(),
    };
    let mut items = work.compile_all(&jobs);
    let move_names = args.default && items.iter().all(Result::is_ok);
    let mut batch = Batch::into(store, move_names);
    for item in items.iter_mut().flatten() {
        item.make_default = move_names;
    }
    items.into_iter().for_each(|item| batch.add(item));
    let (results, visible) = batch.finish();
    report(&args, jobs, results, visible)
}

/// What there is to compile.
fn jobs(client: &StoreClient, args: &Args) -> Result<Vec<(Key, Result<Job>)>> {
    let job = |info: KeyInfo| (info.key.clone(), source_of(&info));
    if args.all {
        return client.keys("").map(|info| info.map(job)).collect();
    }
    args.keys.iter().map(|key| Ok(job(client.ask(KeyOf { key: key.clone() })?))).collect()
}

/// The version that the plain name serves, or the newest if it serves none, and its source.
/// Never that of another version, which is another program.
fn source_of(info: &KeyInfo) -> Result<Job> {
    let newest = || info.engines.iter().max_by_key(|version| version.version);
    let of = info.serves.as_ref().or_else(newest);
    let job = of.and_then(|of| Some(Job { version: of.version, source: of.source? }));
    Ok(job.ok_or(Error::NoSource)?)
}

/// What compiling takes.
struct Work<'a> {
    store: &'a StoreDir,
    args: &'a Args,
    compiler: Compiler,
    staging: Staging,
    opening: Mutex<()>,
}

impl Work<'_> {
    /// Compiles every job, several at a time.
    fn compile_all(&self, jobs: &[(Key, Result<Job>)]) -> Vec<Result<Publish>> {
        let progress = progress::count(jobs.len() as u64);
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Publish>)>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.compiler.jobs().min(jobs.len()) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some((key, job)) = jobs.get(number) else { break };
                        progress.set_message(one_line(key.as_str()));
                        let item = match job {
                            Ok(job) => self.compile(key, job, number, &progress),
                            Err(e) => Err(Failure::of(e).into()),
                        };
                        progress.inc(1);
                        done.lock().unwrap_or_else(|e| e.into_inner()).push((number, item));
                    }
                });
            }
        });
        progress.finish_and_clear();
        let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, item)| item).collect()
    }

    fn compile(
        &self,
        key: &Key,
        job: &Job,
        number: usize,
        progress: &ProgressBar,
    ) -> Result<Publish> {
        let source = match Store::read_object(self.store, &job.source)? {
            Some(source) => source,
            None => {
                // One at a time: they would wait for each other's store.
                let _alone = self.opening.lock().unwrap_or_else(|e| e.into_inner());
                let client = StoreClient::open_in(self.store)?;
                let source = client.payload(&job.source)?;
                client.close()?;
                source
            }
        };
        let say = |line: &str| progress.suspend(|| output::note(format_args!("{key}: {line}")));
        let artifact = self.compiler.compile(&format!("{number}-{key}"), &source, say)?;
        let staged = self.staging.stage(artifact)?;
        Ok(Publish {
            engine: self.args.engine.clone(),
            source: Some(Source::Stored(job.source)),
            producer: Some(self.compiler.producer()),
            recompiled_from: Some(job.version),
            ..Publish::new(key.clone(), staged)
        })
    }
}

fn report(
    args: &Args,
    jobs: Vec<(Key, Result<Job>)>,
    results: Vec<Result<Published, Failure>>,
    visible: bool,
) -> Result<Outcome> {
    let mut reports = Vec::new();
    for ((key, _), result) in jobs.into_iter().zip(results) {
        let mut report = Report { key, published: None, code: None, error: None, hint: None };
        match result {
            Ok(published) => report.published = Some(published),
            Err(Failure { code, message, hint, .. }) => {
                (report.code, report.error, report.hint) = (Some(code), Some(message), hint);
            }
        }
        reports.push(report);
    }
    if args.json {
        output::json(&reports)?;
    }
    let good = reports.iter().filter_map(|report| report.published.as_ref());
    if !args.json {
        let rows = good.clone().map(|published| {
            let v = &published.version;
            [format!("{}@{}", v.key, v.version), v.engine.clone(), output::size(v.size)]
        });
        output::table(&rows.collect::<Vec<_>>())?;
    }
    let (good, all) = (good.count(), reports.len());
    for report in &reports {
        if let Some(error) = &report.error {
            let message = format!("{}: {error}", report.key);
            print_failure(&message, report.hint.as_deref());
        }
    }
    if args.default && good < all {
        output::note(format_args!(
            "wasmfs: no plain name was moved, since not everything was compiled"
        ));
    } else if !args.json && !args.default && good > 0 {
        output::line(format_args!(
            "plain names stay with their engines until `wasmfs default` moves them"
        ))?;
    }
    warn_if_not_visible(visible);
    Ok(match good {
        _ if good == all => Outcome::Done,
        0 => Outcome::Failed,
        _ => Outcome::Partly,
    })
}
