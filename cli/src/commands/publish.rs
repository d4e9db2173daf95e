//! `wasmfs publish`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use wasmfs_store::{
    InvalidKey, Key, Publish, Published, Settings, Source, Staged, Staging, StoreDir,
};

use crate::client::stable_file::{FilePlace, open_named, stage_file};
use crate::client::{Batch, StoreClient};
use crate::compile::{CompileArgs, Compiler, is_source, to_binary};
use crate::ui::output;
use crate::ui::progress;
use crate::ui::{
    Error, Failure, Outcome, one_line, print_failure, print_published, warn_if_not_visible,
};

/// Publish artifacts; .wasm and .wat files are compiled first
///
/// An artifact of any wasmtime is stored unchanged. Of several files, those that can be published
/// are. The others are reported, and the exit status is 2.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs publish app.cwasm
  wasmfs publish *.wasm --prefix zellij/0.43
  wasmfs publish app.wasm --with wasmtime -- -O opt-level=2")]
pub struct Args {
    /// The files; `-` is standard input, and needs --key
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The key [default: the file's name, with .wasm or .wat replaced by .cwasm]
    #[arg(long, conflicts_with = "prefix")]
    key: Option<Key>,
    /// A directory to put before the keys
    #[arg(long, value_name = "DIR")]
    prefix: Option<Key>,
    #[command(flatten)]
    compile: CompileArgs,
    /// Don't keep the source; then `wasmfs recompile` can't compile the key again
    #[arg(long)]
    no_keep_source: bool,
    /// Refuse artifacts of other engines; ENGINE is an alias, a label, or the start of a
    /// fingerprint
    #[arg(long)]
    engine: Option<String>,
    /// Make the artifacts' engine the default engine of their keys
    #[arg(long)]
    default: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of one file.
#[derive(Serialize)]
struct Report {
    #[serde(serialize_with = "output::path")]
    file: PathBuf,
    #[serde(flatten)]
    published: Option<Published>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visible: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

pub fn run(store: &Path, mut args: Args) -> Result<Outcome> {
    if args.compile.with.is_none() {
        // Then `--` only ends the options, and files come after it.
        let is_flag = |flag: &&OsString| {
            flag.as_encoded_bytes().starts_with(b"-") && *flag != "-" && !Path::new(flag).exists()
        };
        if args.compile.flags.iter().find(is_flag).is_some() {
            let message = "flags after `--` are those of the program that --with names";
            let hint = "`wasmfs publish FILE --with wasmtime -- FLAGS`, or leave them out";
            return Err(Error::usage(message, hint).into());
        }
        args.files.extend(args.compile.flags.drain(..).map(PathBuf::from));
    }
    if args.files.is_empty() {
        return Err(Error::usage("no file is named", "`wasmfs publish FILE...`").into());
    }
    let keys = keys(&args)?;
    if let Some(engine) = &args.engine {
        // Better known before anything is compiled.
        let client = StoreClient::open(store)?;
        client.named_engine(Some(engine))?;
        client.close()?;
    }
    let bytes = args.files.iter().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
    let progress = progress::bar(bytes, args.files.len() > 1);
    let compiler = args.compile.with.is_some().then(|| args.compile.compiler()).transpose()?;
    let store = &StoreDir::open_or_create(store, &Settings::default())?;
    let mut reading =
        Reading { args: &args, compiler, staging: Staging::beside(store)?, progress: &progress };
    let mut batch = Batch::into(store, false);
    for (file, key) in args.files.iter().zip(keys) {
        batch.add(key.and_then(|key| reading.item(file, key)));
    }
    progress.set_message("committing");
    let (results, visible) = batch.finish();
    progress.finish_and_clear();
    report(&args, results, visible)
}

fn report(args: &Args, results: Vec<Result<Published, Failure>>, visible: bool) -> Result<Outcome> {
    let mut reports = Vec::new();
    let (mut good, mut bad) = (0, 0);
    for (file, result) in args.files.iter().zip(results) {
        let file = file.clone();
        let mut report =
            Report { file, published: None, visible: None, code: None, error: None, hint: None };
        match result {
            Ok(published) => {
                good += 1;
                report.visible = Some(visible);
                report.published = Some(published);
            }
            Err(failure) => {
                bad += 1;
                report.code = Some(failure.code);
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
            print_failure(&message, report.hint.as_deref());
        }
    }
    warn_if_not_visible(visible);
    Ok(match (good, bad) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::Partly,
    })
}

/// The key of each file, or why it can't have one.
fn keys(args: &Args) -> Result<Vec<Result<Key>>> {
    let stdin = |file: &Path| file == Path::new("-");
    if args.key.is_some() && args.files.len() > 1 {
        return Err(
            Error::usage("--key names one file, and several were given", "use --prefix").into()
        );
    }
    if args.files.iter().any(|file| stdin(file)) && args.key.is_none() {
        return Err(
            Error::usage("standard input has no name", "name the artifact with --key").into()
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
            return Err(Error::usage(
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
    let name = file.file_name().ok_or(Error::FileIsADirectory)?;
    let Some(name) = name.to_str() else {
        let rule = wasmfs_store::KeyError::NotUtf8;
        let invalid = InvalidKey { name: name.to_string_lossy().into(), rule };
        return Err(wasmfs_store::Error::from(invalid).into());
    };
    let stem = name.strip_suffix(".wasm").or_else(|| name.strip_suffix(".wat"));
    let name = stem.map_or(name.to_owned(), |stem| format!("{stem}.cwasm"));
    Ok(Key::new(match prefix {
        Some(prefix) => format!("{prefix}/{name}"),
        None => name,
    })?)
}

/// Stages files, and compiles those that need it.
struct Reading<'a> {
    args: &'a Args,
    /// Set up for the first file that needs it.
    compiler: Option<Compiler>,
    staging: Staging,
    progress: &'a ProgressBar,
}

impl Reading<'_> {
    fn item(&mut self, file: &Path, key: Key) -> Result<Publish> {
        let is_stdin = file == Path::new("-");
        let is_regular = !is_stdin && file.is_file();
        let mut input: Box<dyn Read> =
            if is_stdin { Box::new(io::stdin()) } else { Box::new(open(file)?) };
        let mut head = Vec::new();
        input.by_ref().take(64).read_to_end(&mut head).context("reading it")?;
        let name = file.to_string_lossy();
        let (staged, source, producer) = if is_source(&name, &head) {
            let mut source = head;
            input.read_to_end(&mut source).context("reading it")?;
            self.compile(&name, &source)?
        } else {
            if self.args.compile.any() {
                return Err(Error::CompiledAlready.into());
            }
            let staged = if is_regular {
                let place = FilePlace::At(file.to_owned());
                stage_file(&self.staging, &place, self.progress)?
            } else {
                self.staging.stage(self.progress.wrap_read(io::Cursor::new(head).chain(input)))?
            };
            (staged, None, None)
        };
        let (make_default, engine) = (self.args.default, self.args.engine.clone());
        Ok(Publish { make_default, engine, source, producer, ..Publish::new(key, staged) })
    }

    fn compile(
        &mut self,
        name: &str,
        source: &[u8],
    ) -> Result<(Staged, Option<Source>, Option<String>)> {
        let compiler = match &mut self.compiler {
            Some(compiler) => compiler,
            none => none.insert(self.args.compile.compiler()?),
        };
        self.progress.set_message(format!("compiling {}", one_line(name)));
        let binary = to_binary(Path::new(name), source)?;
        let say = |line: &str| self.progress.suspend(|| output::note(format_args!("{line}")));
        let artifact = compiler.compile(name.rsplit('/').next().unwrap_or(name), &binary, say)?;
        let staged = self.staging.stage(artifact)?;
        self.progress.inc(source.len() as u64);
        let source = match self.args.no_keep_source {
            true => None,
            false => Some(Source::Staged(self.staging.stage_source(&*binary)?)),
        };
        Ok((staged, source, Some(compiler.producer())))
    }
}

fn open(path: &Path) -> Result<std::fs::File> {
    if path.is_dir() {
        return Err(Error::FileIsADirectory.into());
    }
    Ok(open_named(path).map_err(Error::CannotOpen)?)
}
