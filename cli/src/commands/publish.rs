use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use wasmfs_store::{Key, Published, Status};

use super::{Outcome, warn_if_not_visible};
use crate::access::Access;
use crate::compile::{CompileArgs, is_source};
use crate::control::client::was_lost;
use crate::failure::{self, Failure};
use crate::output;

/// Publish artifacts; .wasm and .wat files are compiled first
///
/// Takes what any wasmtime compiled as it is. Several files are one batch: one
/// bad file is reported, the rest go in, and the exit status is 2.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The files; `-` is standard input, and needs --key
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The key [default: the file's name, with .wasm and .wat made .cwasm]
    #[arg(long, conflicts_with = "prefix")]
    key: Option<Key>,
    /// A directory that the keys go under
    #[arg(long, value_name = "DIR")]
    prefix: Option<Key>,
    #[command(flatten)]
    compile: CompileArgs,
    /// Move the plain names to these artifacts' engine
    #[arg(long)]
    default: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How often a batch is handed over while servers go away.
const ATTEMPTS: u32 = 5;

/// What came of one file.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    #[serde(flatten)]
    published: Option<Published>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visible: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let keys = keys(&args)?;
    let progress = progress(&args.files);
    let mut scratch = Scratch::default();
    // Compiling takes long; the store is nobody's meanwhile.
    let inputs: Vec<Result<Input>> = args
        .files
        .iter()
        .zip(keys)
        .map(|(file, key)| Input::ready(file, key?, &args.compile, &mut scratch, &progress))
        .collect();
    let mut access = Access::open_or_create(store)?;
    let mut attempt = 1;
    let (results, visible) = loop {
        match hand_over(&access, &args, &inputs, &progress) {
            // What was handed over is gone, or published: the successor knows.
            Err(e) if was_lost(&e) && attempt < ATTEMPTS => {
                attempt += 1;
                access.reach_again()?;
            }
            result => break result?,
        }
    };
    access.close()?;
    progress.finish_and_clear();
    report(&args, results, visible)
}

/// What came of each file, and whether the kernel knows.
type Outcomes = (Vec<Result<Published, Failure>>, bool);

/// Hands every file over and publishes them with one commit. An error that is
/// no file's own means that the server went away, or a commit that failed.
fn hand_over(
    access: &Access,
    args: &Args,
    inputs: &[Result<Input>],
    progress: &ProgressBar,
) -> Result<Outcomes> {
    let mut results: Vec<Option<Result<Published, Failure>>> = Vec::new();
    let mut batch = Vec::new();
    progress.set_position(0);
    for (file, input) in args.files.iter().zip(inputs) {
        progress.set_message(file.display().to_string());
        let handed = match input {
            Ok(Input { key, bytes }) => bytes
                .read()
                .and_then(|bytes| access.hand_over(progress.wrap_read(bytes)))
                .map(|handed| (key.clone(), handed)),
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
    if !batch.is_empty() {
        let count = batch.len();
        let published = match access.publish(batch, args.default) {
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

fn report(args: &Args, results: Vec<Result<Published, Failure>>, visible: bool) -> Result<Outcome> {
    let mut reports = Vec::new();
    let (mut good, mut bad) = (0, 0);
    for (file, result) in args.files.iter().zip(results) {
        let mut report =
            Report { file: file.clone(), published: None, visible: None, error: None, hint: None };
        match result {
            Ok(published) => {
                good += 1;
                report.visible = Some(visible);
                report.published = Some(published);
            }
            Err(failure) => {
                bad += 1;
                report.error = Some(failure.message);
                report.hint = failure.hint;
            }
        }
        reports.push(report);
    }
    if args.json {
        output::json(&reports)?;
    } else {
        for report in &reports {
            if let Some(published) = &report.published {
                print_published(published)?;
            }
        }
    }
    for report in &reports {
        if let Some(error) = &report.error {
            let message = format!("{}: {error}", report.file.display());
            failure::print_failure(&message, report.hint.as_deref());
        }
    }
    warn_if_not_visible(visible);
    Ok(match (good, bad) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::Partly,
    })
}

/// Prints what came of a publish; rollback prints the same.
pub fn print_published(published: &Published) -> Result<()> {
    let v = &published.version;
    let unchanged = if published.status == Status::Unchanged { "  unchanged" } else { "" };
    let line = [
        format!("{}@{}", v.key, v.version),
        v.engine.clone(),
        v.sha256.hex(),
        output::size(v.size) + unchanged,
    ];
    output::table(&[line])?;
    if !v.served_by_plain_name {
        let (key, engine) = (&v.key, &published.default_engine);
        match published.plain_name_serves {
            Some(other) => output::line(format_args!(
                "  hosts that open {key} still get @{other}, of engine {engine}"
            ))?,
            None => output::line(format_args!(
                "  nothing is served at {key}: it belongs to engine {engine}, which has no version left"
            ))?,
        }
        output::line(format_args!("  this version is served at {}", published.path))?;
        output::line(format_args!("  `wasmfs publish --default` moves {key} to it"))?;
    }
    Ok(())
}

/// The key of each file, or why it can't have one.
fn keys(args: &Args) -> Result<Vec<Result<Key>>> {
    let stdin = |file: &Path| file == Path::new("-");
    if args.key.is_some() && args.files.len() > 1 {
        return Err(
            Failure::usage("--key names one file, and several were given", "use --prefix").into()
        );
    }
    if args.files.iter().any(|file| stdin(file)) && args.key.is_none() {
        return Err(
            Failure::usage("standard input has no name", "name the artifact with --key").into()
        );
    }
    let mut seen: HashMap<Key, &Path> = HashMap::new();
    let mut keys = Vec::new();
    for file in &args.files {
        let key = match &args.key {
            Some(key) => Ok(key.clone()),
            None => key_of(file, args.prefix.as_ref()),
        };
        if let Ok(key) = &key
            && let Some(other) = seen.insert(key.clone(), file)
        {
            return Err(Failure::usage(
                format!("{} and {} would both get the key {key}", other.display(), file.display()),
                "publish them one by one, with --key or --prefix; nothing was published",
            )
            .into());
        }
        keys.push(key);
    }
    Ok(keys)
}

fn key_of(file: &Path, prefix: Option<&Key>) -> Result<Key> {
    let name = file.file_name().with_context(|| format!("{} has no file name", file.display()))?;
    let Some(name) = name.to_str() else {
        let rule = wasmfs_store::KeyError::NotUtf8;
        return Err(wasmfs_store::Error::Key { name: name.to_string_lossy().into(), rule }.into());
    };
    let stem = name.strip_suffix(".wasm").or_else(|| name.strip_suffix(".wat"));
    let name = stem.map_or(name.to_owned(), |stem| format!("{stem}.cwasm"));
    Ok(Key::new(match prefix {
        Some(prefix) => format!("{prefix}/{name}"),
        None => name,
    })?)
}

/// A file that is ready to be handed over. None is held open meanwhile: there
/// may be more than a process may open.
struct Input {
    key: Key,
    bytes: Bytes,
}

/// Bytes that can be read again, should the server go away half-way.
enum Bytes {
    File(PathBuf),
    Kept(Section),
}

impl Bytes {
    fn read(&self) -> Result<Box<dyn Read + Send + Sync + Unpin>> {
        Ok(match self {
            Bytes::File(path) => Box::new(open(path)?),
            Bytes::Kept(section) => Box::new(section.clone()),
        })
    }
}

/// What was compiled, or came from a pipe, one after the other in a file without
/// a name, which is gone when this process is: a large batch doesn't fit into memory.
#[derive(Default)]
struct Scratch(Option<(Arc<File>, u64)>);

impl Scratch {
    fn add(&mut self, mut from: impl Read) -> io::Result<Section> {
        let (file, start) = match self.0.take() {
            Some(scratch) => scratch,
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
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => break Err(e),
            }
        };
        self.0 = Some((file.clone(), end));
        result.map(|()| Section { file, at: start, end })
    }
}

#[derive(Clone)]
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..left], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn open(path: &Path) -> Result<File> {
    if path.is_dir() {
        return Err(Failure::new("it is a directory", "name the files in it").into());
    }
    File::open(path).map_err(|e| {
        let hint = "check the path and its permissions";
        Failure::new(format!("it can't be opened: {e}"), hint).into()
    })
}

impl Input {
    /// Looks at a file, and compiles it if need be.
    fn ready(
        file: &Path,
        key: Key,
        compile: &CompileArgs,
        scratch: &mut Scratch,
        progress: &ProgressBar,
    ) -> Result<Input> {
        let is_stdin = file == Path::new("-");
        let is_regular = !is_stdin && file.is_file();
        let mut input: Box<dyn Read + Send + Sync + Unpin> =
            if is_stdin { Box::new(io::stdin()) } else { Box::new(open(file)?) };
        let mut head = Vec::new();
        input.by_ref().take(64).read_to_end(&mut head).context("reading it")?;
        let name = file.to_string_lossy();
        if !is_source(&name, &head) {
            if compile.any() {
                return Err(Failure::new(
                    "it is compiled already, so that --compiler, --opt-level and --target can't apply",
                    "leave them out, or publish the .wasm file",
                )
                .into());
            }
            let bytes = if is_regular {
                Bytes::File(file.to_owned())
            } else {
                let whole = io::Cursor::new(head).chain(input);
                Bytes::Kept(scratch.add(whole).context("reading it")?)
            };
            return Ok(Input { key, bytes });
        }
        let mut source = head;
        input.read_to_end(&mut source).context("reading it")?;
        progress.set_message(format!("compiling {name}"));
        let artifact = compile.compile(&source).map_err(|e| {
            Failure::new(
                format!("it can't be compiled: {e:#}"),
                "check that it is valid WebAssembly, and that the compiler supports what it uses",
            )
        })?;
        let compiled = scratch.add(&artifact[..]).context("writing a temporary file")?;
        progress.inc_length((artifact.len() as u64).saturating_sub(source.len() as u64));
        Ok(Input { key, bytes: Bytes::Kept(compiled) })
    }
}

/// A bar over all bytes, on a terminal and for more than one file.
fn progress(files: &[PathBuf]) -> ProgressBar {
    if files.len() < 2 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
    let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes} {wide_msg}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}
