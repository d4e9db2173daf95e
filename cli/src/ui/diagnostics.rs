//! What a user is told when something fails: the error, its causes, and what
//! to do next.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wasmfs_fs::Error as FsError;
use wasmfs_store::{Error as StoreError, InvalidKey};

use super::output::note;

/// An error in words, with a hint. It can cross the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, causes included.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Whether the command line was wrong, rather than the world.
    #[serde(default)]
    pub usage: bool,
    /// Whether the same command may succeed in a moment: the server is just ending.
    #[serde(default)]
    pub again: bool,
    /// Whether the server went away before it answered: it may have done it or not.
    #[serde(default)]
    pub lost: bool,
    /// Whether it is sure that nobody heard of it.
    #[serde(skip)]
    pub unsent: bool,
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// A failure with a hint.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        let (message, hint) = (message.into(), Some(hint.into()));
        Failure { message, hint, usage: false, again: false, lost: false, unsent: false }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { usage: true, ..Failure::new(message, hint) }
    }

    /// Any error as a failure, with the hint that fits it.
    pub fn of(error: &anyhow::Error) -> Failure {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            let mut message = String::new();
            // `{:#}` has the contexts that were added on the way.
            let _ = write!(message, "{error:#}");
            return Failure { message, ..failure.clone() };
        }
        Failure::of_chain(error.chain())
    }

    /// An error of the mount as a failure.
    pub fn of_mount(error: &FsError) -> Failure {
        Failure::of_chain(anyhow::Chain::new(error))
    }

    fn of_chain(chain: anyhow::Chain<'_>) -> Failure {
        let explained = chain.clone().find_map(|cause| match cause.downcast_ref() {
            Some(FsError::Explained(text)) => Some(Failure::decode(text)),
            _ => None,
        });
        if let Some(failure) = explained {
            return failure;
        }
        let hint = chain.clone().find_map(|cause| {
            let store = cause.downcast_ref::<StoreError>().and_then(store_hint);
            let key = || cause.downcast_ref::<InvalidKey>().map(|_| OTHER_NAME.to_owned());
            let fs = || cause.downcast_ref::<FsError>().and_then(fs_hint);
            let io = || cause.downcast_ref::<io::Error>().map(|e| io_hint(None, e));
            store.or_else(key).or_else(fs).or_else(io)
        });
        let again =
            chain.clone().any(|cause| matches!(cause.downcast_ref(), Some(FsError::Ending)));
        Failure { message: one_line(chain), hint, usage: false, again, lost: false, unsent: false }
    }

    /// As text, for another process; [`Failure::decode`] reads it.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| self.message.clone())
    }

    /// What another process encoded; any other text is taken as a message.
    pub fn decode(text: &str) -> Failure {
        serde_json::from_str(text).unwrap_or_else(|_| {
            let hint = "the server's log says more (`wasmfs status` names it)";
            Failure::new(text.trim(), hint)
        })
    }
}

/// The error and its causes, without a cause that an error already quotes.
fn one_line(chain: anyhow::Chain<'_>) -> String {
    let mut text = String::new();
    for cause in chain {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
        }
    }
    text
}

/// Prints an error and its hint to standard error.
pub fn print_error(error: &anyhow::Error) {
    let failure = Failure::of(error);
    print_failure(&failure.message, failure.hint.as_deref());
}

/// Prints a message and a hint to standard error.
pub fn print_failure(message: &str, hint: Option<&str>) {
    note(format_args!("wasmfs: {message}"));
    if let Some(hint) = hint {
        note(format_args!("hint: {hint}"));
    }
}

/// Whether there is no such key.
pub fn is_no_key(error: &anyhow::Error) -> bool {
    let direct = matches!(error.downcast_ref(), Some(StoreError::NoKey(_)));
    // A server says it in the same words.
    direct
        || error.downcast_ref::<Failure>().is_some_and(|f| f.message.starts_with("there is no key"))
}

/// Whether the command line was wrong.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.usage)
}

const OTHER_NAME: &str = "choose another name with --key or --prefix";

fn store_hint(error: &StoreError) -> Option<String> {
    Some(match error {
        StoreError::InUse { .. } => {
            "wait for that process to finish, or stop it; while a mount serves the store, \
             commands go through it"
                .into()
        }
        StoreError::NoStore(_) => {
            "`wasmfs publish FILE` makes one; --store or WASMFS_STORE names another".into()
        }
        StoreError::NotAStore { .. } => "choose an empty or new directory with --store".into(),
        StoreError::WrongOwner { .. } => {
            "run this as the store's owner, or choose another store with --store".into()
        }
        StoreError::NewerFormat { .. } => "use the newer wasmfs that wrote it".into(),
        StoreError::Settings { .. } => {
            "correct the file; {\"format\": 1, \"inline_limit\": 16384} is what a new store has"
                .into()
        }
        StoreError::Key(_) => OTHER_NAME.into(),
        StoreError::KeyConflict { .. } => {
            "choose another name with --key or --prefix, or `wasmfs rm` the other key".into()
        }
        StoreError::NoKey(_) => "`wasmfs ls` shows the keys there are".into(),
        StoreError::NotServed(key) => {
            format!(
                "`wasmfs log {key}` shows its versions; `wasmfs default {key} ENGINE` moves the name"
            )
        }
        StoreError::NoVersion { key, .. } => format!("`wasmfs log {key}` shows its versions"),
        StoreError::NoEarlierVersion(key) => {
            format!(
                "`wasmfs log {key}` shows its versions; `wasmfs rollback {key} VERSION` takes any"
            )
        }
        StoreError::NoEngine(_) | StoreError::NoAlias(_) => {
            "`wasmfs engines` shows those there are".into()
        }
        StoreError::AmbiguousEngine(_) => "give more of it, or a label or an alias".into(),
        StoreError::AliasName { .. } => "choose another name".into(),
        StoreError::OtherEngine { wanted, .. } => {
            format!("compile it with {wanted}'s own wasmtime, or leave --engine out")
        }
        StoreError::NotOfEngine { key, .. } => format!(
            "`wasmfs log {key}` shows its versions; `wasmfs recompile` makes one; nothing was moved"
        ),
        StoreError::Overtaken { key, source_known: true, .. } => format!(
            "`wasmfs log {key}` shows it; once the plain name serves it (`wasmfs default`), it is what is recompiled"
        ),
        StoreError::Overtaken { key, .. } => {
            format!("`wasmfs log {key}` shows it; publish its .wasm file instead, which keeps it")
        }
        StoreError::NotAnArchive(_) => {
            "`wasmfs export` makes one, whole; a single artifact is for `wasmfs publish`".into()
        }
        StoreError::StoreNotEmpty(_) => "give the command again: it adds what is missing".into(),
        StoreError::Output(source) => io_hint(None, source),
        StoreError::HeldBack => "see to the other one, and do it again".into(),
        StoreError::NotWasm => "name a .wasm file".into(),
        StoreError::DiskFull { .. } => "free some space and try again; nothing was changed".into(),
        StoreError::HistoryDamaged { .. } => {
            "nothing was changed; `wasmfs verify --repair` keeps all that can be read, or restore \
             the store from a backup"
                .into()
        }
        StoreError::HistoryPoisoned
        | StoreError::NoCatalogue
        | StoreError::Catalogue(_)
        | StoreError::Inconsistent(_) => {
            "try again: the catalogue is repaired from the history by itself; `wasmfs verify` says \
             what is wrong"
                .into()
        }
        StoreError::PayloadDamaged { .. } => {
            "check the disk; publish the artifact again from its source under the same key; \
             `wasmfs verify` finds whatever else is damaged"
                .into()
        }
        // It says what to do by itself.
        StoreError::NotAnArtifact(_) => return None,
        StoreError::Input(_) => "check that the file can be read, and publish it again".into(),
        StoreError::Io { path, source, .. } => io_hint(Some(path), source),
        _ => return None,
    })
}

fn io_hint(path: Option<&Path>, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space and try again; what was published before is safe".into()
        }
        io::ErrorKind::PermissionDenied => {
            let path = path.map_or("it".into(), |path| path.display().to_string());
            format!("check who may reach {path}, or choose another place")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the disk is read-only; choose another store with --store".into()
        }
        _ => "check the disk (`dmesg` says more of input/output errors)".into(),
    }
}

fn fs_hint(error: &FsError) -> Option<String> {
    Some(match error {
        FsError::MountPointNotEmpty { .. } => {
            "mount on an empty directory: `wasmfs mount DIR`, or WASMFS_MOUNT".into()
        }
        FsError::MountPointNotADirectory(_) => "mount on a directory: `wasmfs mount DIR`".into(),
        FsError::AlreadyMounted(path) => format!(
            "`wasmfs status` shows where your store is mounted; `wasmfs unmount {}` takes this mount away",
            path.display()
        ),
        FsError::MountedElsewhere(path) => {
            format!("use it there, or `wasmfs unmount {}` first", path.display())
        }
        FsError::NotMounted(_) => "`wasmfs status` shows what is mounted where".into(),
        FsError::AllowOtherForbidden => {
            "have root add the line `user_allow_other` to /etc/fuse.conf, or mount without --allow-other"
                .into()
        }
        FsError::NoPassthrough(_) => "mount without --passthrough; what it gives is in the README".into(),
        FsError::OldKeeper => {
            "when nobody uses the mount, `wasmfs unmount` ends it, and `wasmfs mount` starts the new one"
                .into()
        }
        FsError::Busy(_) => {
            "end these processes, or use `wasmfs unmount --lazy`, which serves them on until they end"
                .into()
        }
        FsError::NoFusermount(_) => {
            "install FUSE 3 (`apt-get install fuse3`, `dnf install fuse3`)".into()
        }
        FsError::NoFuseDevice(_) => {
            "/dev/fuse must exist and be open to you: `modprobe fuse`; in a container, pass the device in"
                .into()
        }
        FsError::Io { path, .. } if path.ends_with("dev/fuse") => {
            "/dev/fuse must exist: `modprobe fuse`; in a container, pass the device in".into()
        }
        FsError::Io { path, source, .. } => io_hint(Some(path), source),
        FsError::Ending => "try again".into(),
        FsError::Unguarded => "`wasmfs mount` guards it again".into(),
        FsError::Reloading => "wait until it is done (`wasmfs status`)".into(),
        FsError::OtherAgreement(_) => {
            "this wasmfs can't take over what another made: when nobody uses the mount, \
             `wasmfs unmount` and `wasmfs mount` start it"
                .into()
        }
        FsError::NoResend => {
            "a host could be left waiting for ever: when nobody uses the mount, `wasmfs unmount` and \
             `wasmfs mount` start the new program"
                .into()
        }
        FsError::WorkerDied(_) | FsError::Channel(_) => {
            "the log in the store's directory, wasmfs.log, has its last words".into()
        }
        FsError::Fusermount(_) | FsError::Session(_) => {
            "`dmesg` may say more; WASMFS_LOG=debug shows each step".into()
        }
        _ => return None,
    })
}
