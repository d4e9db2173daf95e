//! Taking in what hosts wrote into a directory: every artifact under it becomes
//! a key with its relative path.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;
use wasmfs_fs::mount::{Mounted, all_mounted};
use wasmfs_store::artifact::{NotAnArtifact, inspect};
use wasmfs_store::{
    Dir, End, InvalidKey, Key, KeyInfo, Missing, Publish, Published, Sha, Staging, Status,
    VersionInfo, check_engine, open_directory,
};

use crate::client::stable_file::{FilePlace, StableFile, Stamp, stage_file};
use crate::client::{Batch, NamedEngine, StoreClient};
use crate::compile::Interrupts;
use crate::ingest::links;
use crate::ui::output;
use crate::ui::progress;
use crate::ui::{Error, Failure, one_line};

/// How much of a file is read at a time, in bytes.
const BUFFER: usize = 256 << 10;

/// What to take in.
pub struct Import<'a> {
    pub dir: &'a Path,
    /// The same, open.
    pub root: Arc<OwnedFd>,
    /// A directory that the keys go under.
    pub prefix: Option<&'a Key>,
    /// The engine that artifacts must be of.
    pub engine: Option<NamedEngine<'a>>,
}

/// What came of it, by path under the directory.
#[derive(Default, Serialize)]
pub struct Imported {
    /// New versions.
    pub imported: Vec<Taken>,
    /// What the store had already.
    pub unchanged: Vec<Taken>,
    /// What is no artifact, and can't be a key.
    pub left: Vec<Left>,
    /// Artifacts that were not taken.
    pub failed: Vec<Failed>,
    /// Links that lead into a mount, as `wasmfs link` makes them.
    pub links: usize,
    /// Whether the kernel knows of the new versions.
    pub visible: bool,
}

/// A file that the store has now.
#[derive(Serialize)]
pub struct Taken {
    #[serde(rename = "file", serialize_with = "output::path")]
    pub path: PathBuf,
    pub key: Key,
    /// The label of the engine that compiled it.
    pub engine: String,
    /// The sha256 of its bytes.
    pub sha256: Sha,
    /// What publishing it gave, if it was new.
    pub published: Option<Box<Published>>,
    #[serde(skip)]
    stamp: Stamp,
}

/// A file that stays what it was.
#[derive(Serialize)]
pub struct Left {
    #[serde(rename = "file", serialize_with = "output::path")]
    pub path: PathBuf,
    pub reason: String,
}

/// An artifact that could not be taken.
#[derive(Serialize)]
pub struct Failed {
    #[serde(rename = "file", serialize_with = "output::path")]
    pub path: PathBuf,
    pub code: String,
    pub error: String,
    pub hint: Option<String>,
}

/// What a look at a file gave.
enum Look {
    Known {
        engine: String,
        sha256: Sha,
        stamp: Stamp,
    },
    New {
        stamp: Stamp,
    },
    Left(String),
    /// The application took it away.
    Gone,
}

/// Takes every artifact in that the store hasn't got.
pub fn import(client: &mut StoreClient, what: &Import<'_>) -> Result<Imported> {
    let mut report = Imported { visible: true, ..Imported::default() };
    let root = what.root.clone();
    let files = files(what.dir, &root, &mut report)?;
    let mut keys = Vec::new();
    for path in files {
        match key_of(&path, what.prefix) {
            Ok(key) => keys.push((path, key)),
            Err(e) => report.left.push(Left { path, reason: Failure::of(&e).message }),
        }
    }
    let known = known(client, what, &keys)?;
    let progress = progress::count(keys.len() as u64);
    let mut new = Vec::new();
    for (path, key) in keys {
        progress.set_message(one_line(&path.to_string_lossy()));
        progress.inc(1);
        let place = FilePlace::Under(root.clone(), path.clone());
        match look(client, &place, known.get(&key), what) {
            Ok(Look::Gone) => {}
            Ok(Look::Known { engine, sha256, stamp }) => {
                let taken = Taken { path, key, engine, sha256, published: None, stamp };
                report.unchanged.push(taken);
            }
            Ok(Look::Left(reason)) => report.left.push(Left { path, reason }),
            Ok(Look::New { stamp }) => new.push(New { path, place, key, stamp }),
            Err(e) => report.failed.push(failed(path, Failure::of(&e))),
        }
    }
    progress.finish_and_clear();
    if !new.is_empty() {
        publish(client, what, new, &mut report)?;
    }
    Ok(report)
}

/// An artifact that the store hasn't got.
struct New {
    path: PathBuf,
    place: FilePlace,
    key: Key,
    stamp: Stamp,
}

fn publish(
    client: &mut StoreClient,
    what: &Import<'_>,
    new: Vec<New>,
    report: &mut Imported,
) -> Result<()> {
    let sizes = new.iter().map(|new| what.dir.join(&new.path).metadata().map_or(0, |m| m.len()));
    let progress: ProgressBar = progress::bar(sizes.sum(), true);
    let staging = Staging::beside(client.dir())?;
    let mut batch = Batch::through(client);
    for New { key, place, .. } in &new {
        progress.set_message(one_line(key.as_str()));
        let staged = stage_file(&staging, place, &progress);
        let engine = what.engine.as_ref().map(|engine| engine.info.label.clone());
        batch.add(staged.map(|staged| Publish { engine, ..Publish::new(key.clone(), staged) }));
    }
    progress.set_message("committing");
    let (results, visible) = batch.finish();
    progress.finish_and_clear();
    report.visible = visible;
    for (New { path, key, stamp, .. }, result) in new.into_iter().zip(results) {
        match result {
            Ok(published) => {
                let list = match published.status {
                    Status::Published => &mut report.imported,
                    Status::Unchanged => &mut report.unchanged,
                };
                let (engine, sha256) = (published.version.engine.clone(), published.version.sha256);
                let published = Some(Box::new(published));
                list.push(Taken { path, key, engine, sha256, published, stamp });
            }
            Err(failure) => report.failed.push(failed(path, failure)),
        }
    }
    Ok(())
}

fn failed(path: PathBuf, failure: Failure) -> Failed {
    let Failure { code, message, hint, .. } = failure;
    Failed { path, code, error: message, hint }
}

/// Opens a directory to be imported.
pub fn open_root(dir: &Path) -> Result<OwnedFd> {
    let absolute = std::path::absolute(dir).map_err(|e| cannot_read(dir, e))?;
    open_directory(&absolute, Missing::Fail, End::LikeTheWay).map_err(|e| match e {
        wasmfs_store::Error::Io { source, .. } => cannot_read(dir, source).into(),
        e => e.into(),
    })
}

fn cannot_read(dir: &Path, source: io::Error) -> Error {
    Error::UnreadableDirectory { dir: dir.to_owned(), source }
}

/// The regular files under a directory, by relative path, in order. What is
/// mounted in it is somebody else's, and links are never followed.
fn files(shown: &Path, root: &OwnedFd, report: &mut Imported) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut mounts = all_mounted()?;
    mounts.retain(Mounted::is_own);
    // The directory that is open, whatever is at its path by now.
    let dir = &Dir::path_of(root).join(".");
    for entry in WalkDir::new(dir).follow_links(false).same_file_system(true).sort_by_file_name() {
        let relative = |path: &Path| path.strip_prefix(dir).unwrap_or(path).to_owned();
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                let path = e.path().map(relative).unwrap_or_default();
                if path.as_os_str().is_empty() {
                    return Err(cannot_read(shown, e.into()).into());
                }
                // A file that the application took away meanwhile is nobody's loss.
                let gone = e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
                if !gone {
                    let reason = e.io_error().map_or_else(|| e.to_string(), io::Error::to_string);
                    report.left.push(Left { path, reason });
                }
                continue;
            }
        };
        let path = relative(entry.path());
        let kind = entry.file_type();
        if entry.file_name().to_string_lossy().starts_with(links::ASIDE) {
            let reason = "a file that an import put aside when it was killed; move it back".into();
            report.left.push(Left { path, reason });
            continue;
        }
        if kind.is_file() {
            files.push(path);
        } else if kind.is_symlink() && links::leads_into(entry.path(), &mounts) {
            report.links += 1;
        } else if !kind.is_dir() {
            let what = if kind.is_symlink() { "a symbolic link" } else { "a special file" };
            report
                .left
                .push(Left { path, reason: format!("this is {what}, which is not followed") });
        }
    }
    Ok(files)
}

/// What the store has of the keys that can come of it.
fn known(
    client: &StoreClient,
    what: &Import<'_>,
    keys: &[(PathBuf, Key)],
) -> Result<HashMap<Key, KeyInfo>> {
    let wanted: HashSet<&Key> = keys.iter().map(|(_, key)| key).collect();
    let under = what.prefix.map_or(String::new(), |prefix| format!("{prefix}/"));
    let mut known = HashMap::new();
    for info in client.keys(&under) {
        let info = info?;
        if wanted.contains(&info.key) {
            known.insert(info.key.clone(), info);
        }
    }
    Ok(known)
}

fn key_of(path: &Path, prefix: Option<&Key>) -> Result<Key> {
    let Some(name) = path.to_str() else {
        let rule = wasmfs_store::KeyError::NotUtf8;
        let name = path.to_string_lossy().into_owned();
        return Err(wasmfs_store::Error::from(InvalidKey { name, rule }).into());
    };
    Ok(Key::new(match prefix {
        Some(prefix) => format!("{prefix}/{name}"),
        None => name.to_owned(),
    })?)
}

/// Looks whether a file is an artifact, and one that the store hasn't got.
fn look(
    client: &StoreClient,
    place: &FilePlace,
    known: Option<&KeyInfo>,
    what: &Import<'_>,
) -> Result<Look> {
    let Some(steady) = StableFile::open_if_there(place)? else { return Ok(Look::Gone) };
    let mut file: File = steady.reader()?;
    if !file.metadata().context("reading it")?.is_file() {
        return Ok(Look::Left("this is no regular file any more".into()));
    }
    let artifact = inspect(&mut file);
    let stamp = steady.stamp();
    let artifact = match artifact {
        Ok(artifact) => artifact,
        Err(e) => {
            steady.check()?;
            return match e {
                // Something is wrong with it, or it is not whole yet.
                NotAnArtifact::Truncated(_) => Err(wasmfs_store::Error::from(e).into()),
                e => Ok(Look::Left(e.to_string())),
            };
        }
    };
    if let Some(wanted) = &what.engine {
        check_engine(&artifact, &wanted.info.engine, wanted.called)?;
    }
    let Some(known) = known else { return Ok(Look::New { stamp }) };
    let mut sha256 = Sha256::new();
    file.seek(SeekFrom::Start(0)).context("reading it")?;
    io::copy(&mut BufReader::with_capacity(BUFFER, file), &mut sha256).context("reading it")?;
    steady.check()?;
    let sha256 = Sha(sha256.finalize().into());
    let is_it =
        |v: &&VersionInfo| v.fingerprint == artifact.engine.fingerprint && v.sha256 == sha256;
    if let Some(current) = known.engines.iter().find(is_it) {
        return Ok(Look::Known { engine: current.engine.clone(), sha256, stamp });
    }
    // What was published over, or rolled back, does not come back by itself; a key of which
    // nothing is left does.
    let mut before = None;
    for version in client.versions(&known.key) {
        let version = version?;
        if is_it(&&version) {
            before = Some(version);
            break;
        }
    }
    Ok(match before {
        Some(old) if old.removed => {
            Look::Left(format!("it was removed from the store, as {}@{}", old.key, old.version))
        }
        Some(old) => Look::Left(format!(
            "the store has it as {}@{}, which is not its engine's newest version",
            old.key, old.version
        )),
        None => Look::New { stamp },
    })
}

/// Puts links in the place of what was taken in, for a host that looks through
/// the directory: each leads to its own engine's view. Whatever changed meanwhile, or
/// isn't to be found in the mount, stays. Returns the paths that are links now.
pub fn link(report: &mut Imported, what: &Import<'_>, mount: &Mounted) -> Result<Vec<PathBuf>> {
    // Nothing may be half exchanged.
    let _interrupts = Interrupts::hold()?;
    let view = what.engine.as_ref().map(NamedEngine::view_name);
    let (mut linked, mut not_linked) = (Vec::new(), Vec::new());
    for taken in report.imported.iter().chain(&report.unchanged) {
        let name = view.unwrap_or(&taken.engine);
        let target = links::target(&mount.mount_point, Some(name), &taken.key);
        let put = if links::leads_to(&target, mount, &taken.sha256) {
            links::replace_file(&what.root, &taken.path, &target, taken.stamp)
        } else {
            Err(Error::LinkNotSeen.into())
        };
        match put {
            Ok(true) => linked.push(taken.path.clone()),
            Ok(false) => {
                not_linked.push(failed(taken.path.clone(), Error::LinkFileChanged.into()));
            }
            Err(e) => not_linked.push(failed(taken.path.clone(), Failure::of(&e))),
        }
    }
    report.failed.extend(not_linked);
    Ok(linked)
}
