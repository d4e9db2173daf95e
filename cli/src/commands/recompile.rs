//! `wasmfs recompile`.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use wasmfs_store::{Key, KeyInfo, Published, Sha, Version};

use crate::client::Access;
use crate::client::batch::{self, Bytes, Input, SourceBytes};
use crate::client::spool::{Section, SpoolFile};
use crate::compile::{CompileArgs, Compiler};
use crate::control::PublishOptions;
use crate::ui::output;
use crate::ui::progress;
use crate::ui::{Failure, Outcome, print_failure, warn_if_not_visible};

/// Compile keys again from their sources, for another wasmtime
///
/// The sources are those that `publish` kept. Plain names stay with their engine until `wasmfs
/// default`, or move with --default: then all of them or, if one can't be compiled, none.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The keys
    #[arg(required_unless_present = "all", value_name = "KEY")]
    keys: Vec<Key>,
    /// Every key
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    #[command(flatten)]
    compile: CompileArgs,
    /// Refuse what is not of this engine: an alias, a label, or the start of a fingerprint
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
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// What to compile for a key.
struct Job {
    version: Version,
    sha256: Sha,
    source: Section,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    if args.compile.with.is_none() && !args.compile.flags.is_empty() {
        let message = "flags after `--` are those of the command that --with names";
        return Err(Failure::usage(message, "name it, or leave them out").into());
    }
    let compiler = args.compile.compiler()?;
    let access = Access::open(store)?;
    access.named_engine(args.engine.as_deref())?;
    let mut spool = SpoolFile::default();
    let jobs = jobs(&access, &args, &mut spool)?;
    // Compiling takes long; the store is nobody's meanwhile.
    access.close()?;
    if jobs.is_empty() {
        return Err(
            Failure::new("the store has no key", "`wasmfs publish FILE.wasm` adds one").into()
        );
    }
    let inputs = compile_all(&jobs, &compiler, spool);

    let failed = inputs.iter().any(Result::is_err);
    let move_names = args.default && !failed;
    let options =
        PublishOptions { default: move_names, engine: args.engine.clone(), together: move_names };
    let mut access = Access::open(store)?;
    let progress = progress::bar(inputs.iter().flatten().map(Input::len).sum(), true);
    let (results, visible) = batch::publish(&mut access, &inputs, &options, &progress)?;
    access.close()?;
    progress.finish_and_clear();
    report(&args, jobs, results, visible)
}

/// What there is to compile, with the sources out of the store.
fn jobs(access: &Access, args: &Args, spool: &mut SpoolFile) -> Result<Vec<(Key, Result<Job>)>> {
    let all = access.keys("")?;
    let mut wanted: Vec<&KeyInfo> = Vec::new();
    if args.all {
        wanted.extend(&all);
    }
    for key in &args.keys {
        let found = all.iter().find(|info| info.key == *key);
        wanted.push(found.ok_or_else(|| wasmfs_store::Error::NoKey(key.clone()))?);
    }
    let mut jobs = Vec::new();
    for info in wanted {
        let job = source_of(info).and_then(|(version, sha256)| {
            let bytes = access.payload(&sha256)?;
            let source = spool.add(&bytes[..]).context("writing a temporary file")?;
            Ok(Job { version, sha256, source })
        });
        jobs.push((info.key.clone(), job));
    }
    Ok(jobs)
}

/// The version that the plain name serves, or the newest if it serves none, and its source.
/// Never that of another version, which is another program.
fn source_of(info: &KeyInfo) -> Result<(Version, Sha)> {
    let newest = || info.engines.iter().max_by_key(|version| version.version);
    let of = info.serves.as_ref().or_else(newest);
    of.and_then(|of| Some((of.version, of.source?))).ok_or_else(|| {
        Failure::new("its source was not kept", "publish its .wasm file, which keeps it").into()
    })
}

/// Compiles every job, several at a time.
fn compile_all(
    jobs: &[(Key, Result<Job>)],
    compiler: &Compiler,
    spool: SpoolFile,
) -> Vec<Result<Input>> {
    let progress = progress::count(jobs.len() as u64);
    let (next, spool) = (AtomicUsize::new(0), Mutex::new(spool));
    let done: Mutex<Vec<(usize, Result<Input>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..compiler.jobs().min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((key, job)) = jobs.get(number) else { break };
                    progress.set_message(key.to_string());
                    let input = match job {
                        Ok(job) => {
                            let name = format!("{number}-{key}");
                            compile(key, job, &name, compiler, &spool, &progress)
                        }
                        Err(e) => Err(Failure::of(e).into()),
                    };
                    progress.inc(1);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((number, input));
                }
            });
        }
    });
    progress.finish_and_clear();
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, input)| input).collect()
}

fn compile(
    key: &Key,
    job: &Job,
    name: &str,
    compiler: &Compiler,
    spool: &Mutex<SpoolFile>,
    progress: &ProgressBar,
) -> Result<Input> {
    let mut source = Vec::new();
    std::io::Read::read_to_end(&mut job.source.clone(), &mut source)?;
    let say = |line: &str| progress.suspend(|| output::note(format_args!("{key}: {line}")));
    let artifact = compiler.compile(name, &source, say)?;
    let kept = spool.lock().unwrap_or_else(|e| e.into_inner()).add(artifact);
    let bytes = Bytes::Kept(kept.context("writing a temporary file")?);
    let (source, producer) = (Some(SourceBytes::Stored(job.sha256)), Some(compiler.producer()));
    let recompiled_from = Some(job.version);
    Ok(Input { key: key.clone(), bytes, source, producer, recompiled_from })
}

fn report(
    args: &Args,
    jobs: Vec<(Key, Result<Job>)>,
    results: Vec<Result<Published, Failure>>,
    visible: bool,
) -> Result<Outcome> {
    let mut reports = Vec::new();
    for ((key, _), result) in jobs.into_iter().zip(results) {
        let mut report = Report { key, published: None, error: None, hint: None };
        match result {
            Ok(published) => report.published = Some(published),
            Err(failure) => (report.error, report.hint) = (Some(failure.message), failure.hint),
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
    } else if !args.json && !args.default {
        output::line(format_args!(
            "plain names stay where they are until `wasmfs default` moves them"
        ))?;
    }
    warn_if_not_visible(visible);
    Ok(match good {
        _ if good == all => Outcome::Done,
        0 => Outcome::Failed,
        _ => Outcome::Partly,
    })
}
