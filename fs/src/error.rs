//! The one error type of this crate, and the one place where an error becomes an errno. What an
//! operation is answered as such (EROFS, ENOSYS) is in `fuse/adapter.rs`.

use std::io;
use std::path::PathBuf;

use fuser::Errno;

/// What can go wrong in serving or managing a mount. The name of a variant is its code, so it
/// stays.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant says what its fields are")]
pub enum Error {
    /// No such name, or no such inode.
    #[error("there is no such file")]
    NotFound,
    /// A version that is being given up: not found, but not yet for good either.
    #[error("the version is being collected")]
    Hidden,
    /// A file where a directory was expected.
    #[error("it is not a directory")]
    NotADirectory,
    /// A directory where a file was expected.
    #[error("it is a directory")]
    IsADirectory,
    /// A file or directory where a symbolic link was expected.
    #[error("it is not a symbolic link")]
    NotALink,
    /// A name over 255 bytes.
    #[error("the name is too long")]
    NameTooLong,
    /// No such extended attribute.
    #[error("there is no such extended attribute")]
    NoAttribute,
    /// The store can't answer.
    #[error(transparent)]
    Store(#[from] wasmfs_store::Error),
    /// Something that is already mounted, or a directory with files in it.
    #[error("{} is not empty: it holds {found:?}", mount_point.display())]
    MountPointNotEmpty {
        /// The mount point.
        mount_point: PathBuf,
        /// One thing in it.
        found: String,
    },
    /// The mount point is no directory.
    #[error("{} is not a directory", .0.display())]
    MountPointNotADirectory(PathBuf),
    /// The mount point is a mount of wasmfs that answers.
    #[error("{} is a mount of wasmfs already", .0.display())]
    AlreadyMounted(PathBuf),
    /// The store is mounted at another path.
    #[error("the store is mounted at {} already", .0.display())]
    MountedElsewhere(PathBuf),
    /// The server is about to end.
    #[error("the server of the store is shutting down")]
    #[strum(serialize = "server-ending")]
    Ending,
    /// Nothing of ours is mounted there.
    #[error("{} is not a mount of wasmfs", .0.display())]
    NotMounted(PathBuf),
    /// `/etc/fuse.conf` has no `user_allow_other`.
    #[error("/etc/fuse.conf doesn't let ordinary users mount with --allow-other")]
    AllowOtherForbidden,
    /// FUSE passthrough can't be had, for this reason.
    #[error("passthrough is not possible: {0}")]
    NoPassthrough(String),
    /// The keeper is of an older wasmfs and can't make such a mount.
    #[error("the running keeper is of an older release, which doesn't know these mount options")]
    OldKeeper,
    /// Somebody else's mount is there.
    #[error("the mount at {} is uid {owner}'s", mount_point.display())]
    ForeignMount { mount_point: PathBuf, owner: u32 },
    /// Another store is mounted there.
    #[error("{} is a mount of the store {}", mount_point.display(), store.display())]
    OtherStoresMount { mount_point: PathBuf, store: PathBuf },
    /// The directory went somewhere else while it was mounted on.
    #[error("{} was moved or covered while it was being mounted on", .0.display())]
    MountPointMoved(PathBuf),
    /// Another process is mounting on the same directory.
    #[error("another process is mounting on {}", .0.display())]
    MountPointInUse(PathBuf),
    /// Another user listens where the store's server should.
    #[error("the socket {} is uid {owner}'s, and the store is not", path.display())]
    ForeignServer { path: PathBuf, owner: u32 },
    /// A process still uses the mount.
    #[error("{} is busy", .0.display())]
    Busy(PathBuf),
    /// `fusermount3` is missing.
    #[error("fusermount3 can't be run")]
    NoFusermount(#[source] io::Error),
    /// `fusermount3` refused.
    #[error("fusermount3 failed: {0}")]
    #[strum(serialize = "fusermount-failed")]
    Fusermount(String),
    /// `/dev/fuse` can't be opened, which every mount begins with.
    #[error("/dev/fuse can't be opened")]
    NoFuseDevice(#[source] io::Error),
    /// A system call failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted, as a present participle.
        action: &'static str,
        /// On what.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel and fuser could not agree.
    #[error("the mount can't be served")]
    #[strum(serialize = "session-failed")]
    Session(#[source] io::Error),
    /// This build would have agreed with the kernel on something else.
    #[error("this release can't take over the mount, which was made with other FUSE_INIT {0}")]
    OtherAgreement(&'static str),
    /// Keeper and worker don't understand each other.
    #[error("the channel between keeper and worker failed")]
    #[strum(serialize = "channel-failed")]
    Channel(#[source] io::Error),
    /// There is no keeper that could do it.
    #[error("the mount is unguarded: its keeper is gone")]
    Unguarded,
    /// A reload is under way.
    #[error("another reload is under way")]
    Reloading,
    /// Replacing a worker could cost a host its request.
    #[error("a reload needs Linux 6.9: this kernel can't send a request in flight again")]
    NoResend,
    /// A worker ended before it was ready, without a word.
    #[error("the worker ended before it was ready ({0})")]
    WorkerDied(String),
    /// What another process said of an error, in the words of the caller's other side.
    #[error("{0}")]
    Explained(String),
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Every code there is of this crate's own.
    pub const CODES: &[&str] = <Error as strum::VariantNames>::VARIANTS;

    /// What programs tell this error by: stable, whatever its message says. What is the store's
    /// has the store's code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Store(error) => error.code(),
            error => error.into(),
        }
    }

    /// What a system call on the mount answers. A store that can't answer is
    /// always EIO: never ENOENT, which the kernel and hosts would believe.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Error::NotFound | Error::Hidden => Errno::ENOENT,
            Error::NotADirectory => Errno::ENOTDIR,
            Error::IsADirectory => Errno::EISDIR,
            Error::NotALink => Errno::EINVAL,
            Error::NameTooLong => Errno::ENAMETOOLONG,
            Error::NoAttribute => Errno::ENODATA,
            _ => Errno::EIO,
        }
    }

    /// The same, for a request that is answered with it. It is logged if it is the store's: the
    /// kernel can't say more than EIO.
    pub(crate) fn answer(&self) -> Errno {
        if let Error::Store(_) | Error::Io { .. } = self {
            log::error!("a request fails: {}", chain(self));
        }
        self.errno()
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| Error::Io { action, path: path.to_owned(), source: e.into() })
    }
}
