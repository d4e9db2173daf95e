//! What to do next, for every error.

use std::io;
use std::path::Path;

use wasmfs_fs::Error as FsError;
use wasmfs_store::Error as StoreError;

use super::error::Error;

const OTHER_NAME: &str = "choose another name with --key or --prefix";
/// What can be done about a hitch between keeper and worker, or between command and server.
const SAME_WASMFS: &str =
    "use the same wasmfs for both: `wasmfs reload` has today's serve, or unmount and mount again";

/// For a name that can't be a key.
pub fn key_hint() -> String {
    OTHER_NAME.into()
}

/// For an error of the store; nothing if it says by itself what to do.
pub fn store_hint(error: &StoreError) -> Option<String> {
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
        StoreError::WrongOwner { owner, .. } => format!(
            "run this as the store's owner (`setpriv --reuid={owner} --clear-groups wasmfs …`, or \
             `sudo -u '#{owner}'`), or choose another store with --store; root has no store but its own"
        ),
        StoreError::CannotStage { .. } => {
            "commands put what they publish into the store's directory: run this where it can be \
             written, not through a read-only bind mount or in another's mount namespace"
                .into()
        }
        StoreError::StagedGone(_) => {
            "give the command again; programs that are older than this one sweep what others stage"
                .into()
        }
        StoreError::UnfitStaged { .. } => {
            "give the command again; if it fails again, see who else writes into `incoming/`".into()
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
        StoreError::HeldBack => "fix that item and give the command again".into(),
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

/// For an error of the system, about a file if that is known.
pub fn io_hint(path: Option<&Path>, error: &io::Error) -> String {
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

/// For an error of the mount.
pub fn fs_hint(error: &FsError) -> Option<String> {
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
        FsError::NoPassthrough(_) => {
            "mount without --passthrough; docs/when-something-dies.md says what it is for".into()
        }
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

/// For an error of a command's own.
pub fn cli_hint(error: &Error) -> String {
    match error {
        Error::Usage { hint, .. } => hint.clone(),
        Error::CannotOpen(_) => "check the path and its permissions".into(),
        Error::FileIsADirectory => "name the files in it, or `wasmfs import` it".into(),
        Error::FileChanging => "somebody is writing it; do it again when that is done".into(),
        Error::UnreadableDirectory { .. } => "name a directory that you may read".into(),
        Error::FileExists(_) => "choose another name, or remove it first".into(),
        Error::LinksLeadNowhere => "`wasmfs mount`, then import again".into(),
        Error::LinkNotSeen => {
            "see that the store is mounted (`wasmfs status`), and import again".into()
        }
        Error::LinkFileChanged => "import again when the application is done with it".into(),
        Error::CompiledAlready => "leave them out, or publish the .wasm file".into(),
        Error::NoSource => "publish its .wasm file, which keeps it".into(),
        Error::NoKeys => "`wasmfs publish FILE.wasm` adds one".into(),
        Error::CannotCompile(_) => {
            "check that it is valid WebAssembly, and that the compiler supports what it uses".into()
        }
        Error::CannotRunCompiler { path, source } => match source.kind() {
            io::ErrorKind::PermissionDenied if path.is_file() => {
                format!("is it a program? `chmod +x {}` makes it one", path.display())
            }
            _ => "--with takes a path, or a name that $PATH has".into(),
        },
        Error::NotACompiler { .. } => "--with takes the wasmtime command itself".into(),
        Error::CompilerFailed { .. } => "what it said is above; its flags go after `--`".into(),
        Error::CompilerWroteNothing { .. } => {
            "--with takes a wasmtime command that knows `compile -o`".into()
        }
        Error::Interrupted => "give the command again".into(),
        Error::CannotRunCommand(_) => {
            "name a program after `--`, as a path or as $PATH has it".into()
        }
        Error::NoNamespace(_) => {
            "the host can still be run by itself, and its cache imported: `wasmfs import DIR`"
                .into()
        }
        Error::NotPinned { key, .. } => format!("`wasmfs log {key}` shows which versions are"),
        Error::LookupUnanswered => {
            "wait until it is, or `wasmfs status` and the log say why it isn't; then give the \
             command again"
                .into()
        }
        Error::RepairMounted => "`wasmfs unmount`, repair, `wasmfs mount`".into(),
        Error::MountedDifferently(_) => {
            "`wasmfs unmount` it when nobody uses it, and mount it again".into()
        }
        Error::KeeperEnded { log, .. } => format!("its last words are in {}", log.display()),
        Error::NotServing(_) => "`wasmfs mount` mounts it".into(),
        Error::ServerEnded => "`wasmfs mount` mounts the store again".into(),
        Error::ReloadFailed(_) => "the log says more (`wasmfs status` names it)".into(),
        Error::ServerLost => {
            "`wasmfs log` shows what was done; give the command again if it was not".into()
        }
        Error::ServerUnreachable => {
            "nothing was done; the log says why it ends (`wasmfs status` names it)".into()
        }
        Error::ServerSilent { log, .. } => format!(
            "it may be stopped, or unable to start; its last words are in {}",
            log.display()
        ),
        Error::OtherProtocol { .. } => SAME_WASMFS.into(),
        Error::UnknownRequest(_) | Error::Malformed { .. } => {
            "docs/control-api.md has every request; if this is wasmfs's own, use the same wasmfs \
             for command and server: `wasmfs reload`"
                .into()
        }
        Error::RequestTooLarge(_) => "give the command for fewer keys at a time".into(),
    }
}
