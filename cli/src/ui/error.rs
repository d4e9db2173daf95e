//! The errors of commands themselves. Those of the store and of the mount are the other crates'.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use wasmfs_store::{Key, Version};

/// What can go wrong in a command, apart from store and mount. The name of a variant is its code,
/// so it stays; what to do next is in `hints.rs`.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Error {
    /// A command line that makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to write instead.
        hint: String,
    },
    /// A file that should be read can't be opened.
    #[error("it can't be opened")]
    CannotOpen(#[source] io::Error),
    /// A directory where a file was expected.
    #[error("it is a directory")]
    FileIsADirectory,
    /// A file that somebody writes while it is read.
    #[error("it changed while it was read")]
    FileChanging,
    /// A directory to import can't be read.
    #[error("{} can't be read", dir.display())]
    UnreadableDirectory {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file to write is there already.
    #[error("{} exists already", .0.display())]
    FileExists(PathBuf),
    /// `import --link` or such without a mount.
    #[error("the store is not mounted, so links would lead nowhere; nothing was imported")]
    LinksLeadNowhere,
    /// What was imported is not seen in the mount.
    #[error("it is not visible in the mount yet, so it was not replaced by a link")]
    LinkNotSeen,
    /// A file changed after it was imported.
    #[error("it changed after it was imported, so it was not replaced by a link")]
    LinkFileChanged,
    /// Options of compilation for what is compiled.
    #[error(
        "it is compiled already; --compiler, --opt-level, --target and --with are for .wasm and .wat files"
    )]
    CompiledAlready,
    /// The source of a version was not kept.
    #[error("the store has no source of it")]
    NoSource,
    /// There is nothing to recompile.
    #[error("the store has no key")]
    NoKeys,
    /// What should be compiled can't be.
    #[error("it can't be compiled: {0}")]
    CannotCompile(String),
    /// The linked compiler doesn't know a target.
    #[error("{0} is no target that this compiler knows")]
    UnknownTarget(String),
    /// What `--with` names can't be run.
    #[error("{} can't be run", path.display())]
    CannotRunCompiler {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What `--with` names is no wasmtime.
    #[error("{} --version printed no version ({status}){said}", path.display())]
    NotACompiler {
        path: PathBuf,
        status: ExitStatus,
        /// What it said, after a colon.
        said: String,
    },
    /// A compiler that ended with an error.
    #[error("{} compile failed ({status})", path.display())]
    CompilerFailed { path: PathBuf, status: ExitStatus },
    /// A compiler that ended well and wrote nothing.
    #[error("{} compile wrote no artifact", path.display())]
    CompilerWroteNothing {
        path: PathBuf,
        /// What opening it gave.
        #[source]
        source: io::Error,
    },
    /// A signal ended a command.
    #[error("interrupted")]
    Interrupted,
    /// The command to capture can't be run.
    #[error("{program} can't be run")]
    CannotRunCommand {
        program: String,
        #[source]
        source: io::Error,
    },
    /// The command to capture can't see one directory in the place of another.
    #[error("{0}")]
    NoNamespace(String),
    /// A version that is not pinned was to be unpinned.
    #[error("{key}@{version} was not pinned")]
    NotPinned { key: Key, version: Version },
    /// A lookup of some process holds up collection.
    #[error(
        "a lookup in the mount is in flight, so the kernel can't say which versions are in use"
    )]
    LookupUnanswered,
    /// Repairing a store that is mounted.
    #[error("the store is mounted, and can only be repaired unmounted; nothing was done")]
    RepairMounted,
    /// The mount is there, but made in another way.
    #[error("{} is mounted with other options than these", .0.display())]
    MountedDifferently(PathBuf),
    /// The keeper ended before its mount was served, and said nothing.
    #[error("the keeper ended before it was ready ({status})")]
    KeeperEnded { status: ExitStatus, log: PathBuf },
    /// Nobody serves the store.
    #[error("the store {} has no running server", .0.display())]
    NotServing(PathBuf),
    /// The server ended while it was to be replaced.
    #[error("the server ended during the reload, and no other took over")]
    ServerEnded,
    /// A new server ended before it served.
    #[error("the new server ended before it was ready{0}; the old one keeps serving")]
    ReloadFailed(String),
    /// The server went away over a request.
    #[error("the server of the store ended before it answered; the change may have been made")]
    ServerLost,
    /// The server went away before it heard a request.
    #[error("the server of the store ended before it received the request")]
    ServerUnreachable,
    /// The server doesn't answer.
    #[error("the server of the store does not answer (within {seconds} s)")]
    ServerSilent {
        /// How long it was waited for.
        seconds: u64,
        log: PathBuf,
    },
    /// Command and server speak other protocols.
    #[error("the server of the store speaks protocol {server}, this command {command}")]
    OtherProtocol {
        /// The server's.
        server: String,
        /// The command's.
        command: String,
    },
    /// The server knows no such request.
    #[error("there is no request {0}")]
    UnknownRequest(String),
    /// A request or an answer that can't be understood.
    #[error("the {what} can't be understood: {reason}")]
    Malformed {
        /// Request or answer.
        what: &'static str,
        reason: String,
    },
    /// A request of too many items or bytes.
    #[error("the request is too large: {0}")]
    RequestTooLarge(String),
}

impl Error {
    /// Every code there is of commands' own.
    #[cfg(test)]
    pub const CODES: &[&str] = <Error as strum::VariantNames>::VARIANTS;

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Usage { message: message.into(), hint: hint.into() }
    }

    /// What programs tell this error by: stable, whatever its message says.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// Whether whoever asked has to ask in another way, rather than the world to change.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Usage { .. }
                | Error::OtherProtocol { .. }
                | Error::UnknownRequest(_)
                | Error::Malformed { .. }
                | Error::RequestTooLarge(_)
        )
    }
}
