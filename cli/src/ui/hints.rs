//! What to do next, for every error.

use std::io;
use std::path::Path;

use wasmfs_fs::Error as FsError;
use wasmfs_store::Error as StoreError;
use wasmfs_store::artifact::NotAnArtifact;

use super::error::Error;

const OTHER_NAME: &str = "choose another name with --key or --prefix";
/// For a command and a server of different releases.
const SAME_WASMFS: &str = "use the same release for both: `wasmfs reload` starts the installed one as the server, or unmount and mount again";

/// For a name that can't be a key.
pub fn key_hint() -> String {
    OTHER_NAME.into()
}

/// For an error of the store; nothing if it says by itself what to do.
pub fn store_hint(error: &StoreError) -> Option<String> {
    Some(match error {
        StoreError::InUse { .. } => {
            "wait for that process to finish, or stop it; when the store is mounted, commands go \
             through its server and need not wait"
                .into()
        }
        StoreError::NoStore(_) => {
            "`wasmfs mount` or `wasmfs publish FILE` makes one; --store or WASMFS_STORE names another".into()
        }
        StoreError::NotAStore { .. } => {
            "nothing in it was touched; choose an empty or new directory with --store".into()
        }
        StoreError::UnsafeTempDir(_) => "set TMPDIR to a directory of your own, or to /tmp".into(),
        StoreError::NotAFile(_) => {
            "name a file; what is in a store is files and directories, and `wasmfs verify` finds others".into()
        }
        StoreError::ForeignPart { .. } => {
            "`wasmfs verify --repair` takes it back; find out who could write into the store".into()
        }
        StoreError::NewerArchive { .. } => {
            "use the release of wasmfs that wrote it, or a later one".into()
        }
        StoreError::ForeignLink { path, .. } => format!(
            "that user could have it lead anywhere; name the place itself (`realpath {}` says where it leads now)",
            path.display()
        ),
        StoreError::LinkAtEnd { target, .. } => {
            format!("name the directory itself: {}", target.display())
        }
        StoreError::ForeignParent { owner, .. } => format!(
            "run this as its owner (`sudo -u '#{owner}' wasmfs …`; plain `sudo` may keep that user's HOME), or name root's own with --store and MOUNTPOINT"
        ),
        StoreError::WrongOwner { owner: 0, .. } => {
            "run this as the store's owner, root, or choose another store with --store".into()
        }
        StoreError::WrongOwner { owner, .. } => format!(
            "run this as the store's owner (`sudo -u '#{owner}' wasmfs …`), or choose another store \
             with --store; root can't work with another user's store either"
        ),
        StoreError::CannotStage { .. } => {
            "a command writes what it publishes into the store's directory; run it where that \
             directory is writable, not behind a read-only bind mount"
                .into()
        }
        StoreError::StagedGone(_) => {
            "give the command again; an older release of wasmfs may have deleted the file".into()
        }
        StoreError::UnfitStaged { .. } => {
            "give the command again; if it fails again, find out who else writes into `incoming/`"
                .into()
        }
        StoreError::NewerFormat { .. } => "use the release of wasmfs that wrote it, or a later one".into(),
        StoreError::Settings { .. } => {
            "correct the file, and leave its \"format\" as it is; docs/keeping-a-store.md has the settings"
                .into()
        }
        StoreError::Key(_) => OTHER_NAME.into(),
        StoreError::KeyConflict { .. } => {
            "choose another name with --key or --prefix, or `wasmfs rm` the other key".into()
        }
        StoreError::NoKey(_) => "`wasmfs ls` lists the keys".into(),
        StoreError::KeyRemoved(key) => format!(
            "`wasmfs log {key}` shows its versions; `wasmfs rollback {key} VERSION` brings one back"
        ),
        StoreError::VersionRemoved { key, version } => {
            format!("`wasmfs rollback {key} {version}` brings it back, unless `wasmfs gc` has collected it")
        }
        StoreError::NotServed(key) => {
            format!(
                "`wasmfs log {key}` shows its versions; `wasmfs default {key} ENGINE` moves the plain name to another engine"
            )
        }
        StoreError::NoVersion { key, .. } => format!("`wasmfs log {key}` shows its versions"),
        StoreError::NoEarlierVersion(key) => {
            format!(
                "`wasmfs log {key}` shows its versions; `wasmfs rollback {key} VERSION` publishes any of them again"
            )
        }
        StoreError::NoEngine(_) => "`wasmfs engines` lists the engines; name one by an alias, by \
                                    its label, or by at least 6 digits of its fingerprint"
            .into(),
        StoreError::NoAlias(_) => "`wasmfs engines` lists the aliases".into(),
        StoreError::NoPayload(_) => {
            "`wasmfs show KEY` prints the sha256 of a version; `wasmfs verify` finds payloads that \
             are missing"
                .into()
        }
        StoreError::AmbiguousEngine(_) => "give more digits, a label or an alias".into(),
        StoreError::AliasName { .. } => "choose another name".into(),
        StoreError::OtherEngine { wanted, .. } => {
            format!("compile it with {wanted}'s own wasmtime, or leave --engine out")
        }
        StoreError::NotOfEngine { key, .. } => format!(
            "nothing was moved; `wasmfs recompile {key} --with PATH` compiles a version with that engine's wasmtime, and `wasmfs log {key}` shows those there are"
        ),
        StoreError::Overtaken { key, source_known: true, .. } => format!(
            "`wasmfs log {key}` shows both; if the newer one is what you want, move the plain name to its engine with `wasmfs default`, then recompile"
        ),
        StoreError::Overtaken { key, .. } => {
            format!("`wasmfs log {key}` shows it; publish its .wasm file instead, which keeps it")
        }
        StoreError::NotAnArchive(_) => {
            "make it again with `wasmfs export`; a single artifact is for `wasmfs publish`".into()
        }
        StoreError::ArchiveCutShort => {
            "give the command again with all of it: what came is not brought again".into()
        }
        StoreError::ChangedUnderExport => "export again, while less is published or collected".into(),
        StoreError::StoreNotEmpty(_) => "give the command again; it then adds only what is missing".into(),
        StoreError::Output(source) if source.kind() == io::ErrorKind::StorageFull => {
            "free some space and export again; the store is as it was".into()
        }
        StoreError::Output(source) => io_hint(None, source),
        StoreError::HeldBack => "correct that one, and give the command again".into(),
        StoreError::NotWasm => {
            "check that the file is complete, and is WebAssembly or its text form".into()
        }
        StoreError::DiskFull { .. } => "free some space and try again; nothing was published".into(),
        StoreError::HistoryDamaged { .. } => {
            "nothing was changed; `wasmfs verify --repair` keeps all that can be read, or restore \
             the store from a backup"
                .into()
        }
        StoreError::HistoryPoisoned => {
            "check the disk, and try again: the store is reopened when it can be written".into()
        }
        StoreError::NoCatalogue | StoreError::Catalogue(_) | StoreError::Inconsistent(_) => {
            "try again: the catalogue is rebuilt from the history when the store is opened; \
             `wasmfs verify` checks it"
                .into()
        }
        StoreError::PayloadDamaged { .. } => {
            "check the disk, and publish the same file again; `wasmfs verify` finds other damage"
                .into()
        }
        StoreError::NotAnArtifact(reason) => match reason {
            NotAnArtifact::WasmModule | NotAnArtifact::WasmComponent | NotAnArtifact::Wat => {
                "`wasmfs publish FILE` compiles it; here a compiled file (.cwasm) is needed".into()
            }
            NotAnArtifact::Empty | NotAnArtifact::Truncated(_) => {
                "compile it again, or copy it again".into()
            }
            NotAnArtifact::OtherElf(_) => {
                "name a .cwasm file that wasmtime compiled, or a .wasm or .wat file".into()
            }
            NotAnArtifact::Unknown => {
                "the content counts, not the name: check that the file is complete, and not compressed or an \
                 error page".into()
            }
        },
        StoreError::Input(_) => {
            "check that the file is complete and readable, and publish it again".into()
        }
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
            format!("check the permissions of {path}, or choose another place")
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "check the path; its directory must exist".into()
        }
        io::ErrorKind::AlreadyExists => "choose another name, or remove it first".into(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "the disk is read-only; choose another store with --store".into()
        }
        _ => "check the disk (`dmesg` says more of input/output errors)".into(),
    }
}

/// For an error of the mount.
pub fn fs_hint(error: &FsError) -> Option<String> {
    Some(match error {
        FsError::Hidden => {
            "it was superseded or removed, and is being deleted; publish the file again to have it".into()
        }
        FsError::MountPointNotEmpty { .. } => {
            "mount on an empty directory: `wasmfs mount DIR`, or set WASMFS_MOUNT".into()
        }
        FsError::MountPointNotADirectory(_) => "mount on a directory: `wasmfs mount DIR`".into(),
        FsError::AlreadyMounted(path) => format!(
            "`wasmfs status` shows where your store is mounted; to mount with other options, `wasmfs unmount {}` first",
            path.display()
        ),
        FsError::MountedElsewhere(path) => {
            format!("use it there, or `wasmfs unmount {}` first", path.display())
        }
        FsError::NotMounted(_) => "`wasmfs status` shows where the store is mounted".into(),
        FsError::ForeignMount { owner, .. } => {
            format!("uid {owner} can unmount it; `umount` is for root, who knows what is lost")
        }
        FsError::OtherStoresMount { mount_point, .. } => format!(
            "`wasmfs unmount {}` without --store and WASMFS_STORE unmounts it all the same",
            mount_point.display()
        ),
        FsError::MountPointMoved(_) => {
            "choose a mount point in a directory that nobody else can change".into()
        }
        FsError::MountPointInUse(_) => "`wasmfs status` shows who was faster; mount elsewhere".into(),
        FsError::ForeignServer { .. } => {
            "nothing was sent to it; find out who could write into the store's directory, and remove the socket"
                .into()
        }
        FsError::AllowOtherForbidden => {
            "have root add the line `user_allow_other` to /etc/fuse.conf, or mount without --allow-other"
                .into()
        }
        FsError::NoPassthrough(_) => {
            "mount without --passthrough; docs/when-something-dies.md explains it".into()
        }
        FsError::OldKeeper => {
            "when nobody uses the mount, `wasmfs unmount` ends it, and `wasmfs mount` starts the new one"
                .into()
        }
        FsError::Busy(_) => {
            "end the processes that use it, or `wasmfs unmount --lazy`, which frees the path now and serves them until they end"
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
        FsError::Ending => "try again in a moment".into(),
        FsError::Unguarded => "`wasmfs mount` guards it again".into(),
        FsError::Reloading => "wait until it is done (`wasmfs status`)".into(),
        FsError::OtherAgreement(_) => {
            "the old server keeps serving; when nobody uses the mount, `wasmfs unmount` and then \
             `wasmfs mount` start this release"
                .into()
        }
        FsError::NoResend => {
            "a host could wait for ever, so nothing was done; when nobody uses the mount, `wasmfs \
             unmount` and then `wasmfs mount` start the new program"
                .into()
        }
        FsError::WorkerDied(_) | FsError::Channel(_) => {
            "the end of wasmfs.log in the store's directory says why".into()
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
        Error::FileChanging => "another process is writing it; try again when it is done".into(),
        Error::UnreadableDirectory { .. } => "check the path and its permissions".into(),
        Error::FileExists(_) => "choose another name, or remove it first".into(),
        Error::LinksLeadNowhere => "`wasmfs mount`, then give the command again".into(),
        Error::LinkNotSeen => {
            "check with `wasmfs status` that the store is mounted, and import again".into()
        }
        Error::LinkFileChanged => "import again when the application is done with it".into(),
        Error::CompiledAlready => "leave them out, or publish the .wasm file".into(),
        Error::NoSource => "publish its .wasm or .wat file; an artifact that was imported or captured has no source".into(),
        Error::NoKeys => "`wasmfs publish FILE.wasm` adds one".into(),
        Error::CannotCompile(_) => {
            "check that it is valid WebAssembly, and that the compiler supports what it uses".into()
        }
        Error::CannotRunCompiler { path, source } => match source.kind() {
            io::ErrorKind::PermissionDenied if path.is_file() => {
                format!("is it a program? `chmod +x {}` makes it one", path.display())
            }
            _ => "--with takes a path, or a name that is in $PATH".into(),
        },
        Error::UnknownTarget(_) => {
            "name one such as x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu".into()
        }
        Error::NotACompiler { .. } => "--with takes the wasmtime program itself".into(),
        Error::CompilerFailed { .. } => "its own message is above; flags for it go after `--`".into(),
        Error::CompilerWroteNothing { .. } => {
            "--with takes a wasmtime program that knows `compile -o FILE`".into()
        }
        Error::Interrupted => "give the command again; what was published before stays".into(),
        Error::CannotRunCommand { .. } => {
            "name a program after `--`: a path, or a name that is in $PATH".into()
        }
        Error::NoNamespace(_) => {
            "`capture --dir` needs a mount namespace; use --env if a variable names the host's cache, or run the host by itself and then `wasmfs import DIR`"
                .into()
        }
        Error::NotPinned { key, .. } => format!("`wasmfs log {key}` shows which versions are pinned"),
        Error::LookupUnanswered => {
            "try again later; if it stays so, `wasmfs status` and the log say why"
                .into()
        }
        Error::RepairMounted => "`wasmfs unmount`, `wasmfs verify --repair`, `wasmfs mount`".into(),
        Error::MountedDifferently(_) => {
            "when nobody uses the mount, `wasmfs unmount`, then mount with the options you want".into()
        }
        Error::KeeperEnded { log, .. } => format!("the end of {} says why", log.display()),
        Error::NotServing(_) => "`wasmfs mount` starts one".into(),
        Error::ServerEnded => "`wasmfs mount` mounts the store again".into(),
        Error::ReloadFailed(_) => "the log says more (`wasmfs status` names it)".into(),
        Error::ServerLost => {
            "`wasmfs log` shows what was done; give the command again if it was not".into()
        }
        Error::ServerUnreachable => {
            "nothing was done; give the command again, and see wasmfs.log in the store's directory".into()
        }
        Error::ServerSilent { log, .. } => format!(
            "it may be suspended, or hang; the end of {} says what it did last",
            log.display()
        ),
        Error::OtherProtocol { .. } => SAME_WASMFS.into(),
        Error::UnknownRequest(_) | Error::Malformed { .. } => {
            "docs/control-api.md lists every request; if a wasmfs command sent this one, command and \
             server are of different releases: `wasmfs reload`"
                .into()
        }
        Error::RequestTooLarge(_) => "give the command for fewer keys at a time".into(),
    }
}
