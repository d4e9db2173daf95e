//! The thin layer that turns fuser's calls into the filesystem's, and says how
//! long the kernel may keep the answers: for ever, since
//! [`crate::serve`] takes back what a commit changes.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::process::{getegid, geteuid};
use wasmfs_store::{EntryKind, Inode, VersionRecord};

use super::negotiate::{Agreement, negotiate};
use super::operation::{Operation, RequestCounts};
use super::read_only::refuse_changes;
use crate::background::Background;
use crate::backing::{Claim, MountInode, OpenRequest, Opener, read_memory};
use crate::error::Error;
use crate::filesystem::{Attributes, CACHEDIR_TAG_INODE, Filesystem, NAME_MAX};
use crate::journal::{DEATHS, InFlight, InFlightRequests};

/// How long the kernel keeps names, absent ones too, and attributes.
const KEEP_FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Inode numbers are never given twice, so one generation does.
const GENERATION: Generation = Generation(0);
const BLOCK_SIZE: u32 = 4096;

/// One mount's layer over the filesystem.
pub(crate) struct Adapter {
    parts: Parts,
    /// The connection's name under `/sys/fs/fuse/connections`.
    connection: u32,
    agreement: Agreement,
    uid: u32,
    gid: u32,
}

/// What it works with, which every mount of a store shares.
pub(crate) struct Parts {
    pub(crate) filesystem: Arc<Filesystem>,
    pub(crate) in_flight: Arc<InFlightRequests>,
    pub(crate) opener: Arc<Opener>,
    /// Where payloads are served from, if this mount has them in memory.
    pub(crate) memory: Option<Arc<Claim>>,
    pub(crate) background: Arc<Background>,
    pub(crate) requests: Arc<RequestCounts>,
}

impl Adapter {
    pub(crate) fn new(parts: Parts, connection: u32, agreement: Agreement) -> Adapter {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Adapter { parts, connection, agreement, uid, gid }
    }

    /// Notes that a request is in flight which the store has to answer; `None` if it has
    /// killed too many workers.
    fn take(
        &self,
        request: &Request,
        operation: Operation,
        inode: INodeNo,
    ) -> Option<InFlight<'_>> {
        self.parts.requests.count(operation);
        let held = self.parts.in_flight.take(self.connection, request.unique().0);
        match &held {
            Some(_) => crate::fault::strike(operation.name(), Inode(inode.0)),
            None => log::error!(
                "{} of inode {inode} has killed {DEATHS} workers: it is answered with an error",
                operation.name()
            ),
        }
        held
    }

    /// Answers a read from memory. What has to be put there first is waited for elsewhere.
    fn read_in_memory(&self, memory: &Arc<Claim>, wanted: Wanted, reply: ReplyData) {
        let filesystem = self.parts.filesystem.clone();
        // Whatever else it is, or isn't, the filesystem knows.
        let Ok(Some(version)) = filesystem.version(wanted.inode) else {
            return filesystem.answer_read(wanted, reply);
        };
        if let Some(known) = memory.known(&version) {
            return filesystem.answer_read_from(known.as_deref(), &version, wanted, reply);
        }
        let (memory, in_flight) = (memory.clone(), self.parts.in_flight.clone());
        let connection = self.connection;
        self.parts.background.run(move || {
            let Some(_held) = in_flight.take_inode(connection, wanted.inode) else {
                log::error!(
                    "putting inode {} into memory has killed {DEATHS} workers",
                    wanted.inode
                );
                return reply.error(Errno::EIO);
            };
            let file = memory.payload(&version);
            filesystem.answer_read_from(file.as_deref(), &version, wanted, reply);
        });
    }

    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let Attributes { inode, kind, size, mtime } = *attributes;
        FileAttr {
            ino: INodeNo(inode.0),
            size,
            blocks: size.div_ceil(512),
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind: file_type(kind),
            perm: match kind {
                EntryKind::Directory => 0o555,
                EntryKind::File => 0o444,
                // As on any disk; nobody asks for it.
                EntryKind::Link => 0o777,
            },
            // 2 on a directory would tell `find` that it has no subdirectories.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_SIZE,
            flags: 0,
        }
    }
}

/// What a read asks for.
#[derive(Clone, Copy)]
struct Wanted {
    inode: Inode,
    offset: u64,
    len: usize,
}

impl Filesystem {
    fn answer_read(&self, Wanted { inode, offset, len }: Wanted, reply: ReplyData) {
        answer_bytes(self.read(inode, offset, len), reply);
    }

    /// From memory, if it is there.
    fn answer_read_from(
        &self,
        file: Option<&File>,
        version: &VersionRecord,
        wanted: Wanted,
        reply: ReplyData,
    ) {
        match file {
            Some(file) => {
                answer_bytes(read_memory(file, version.size, wanted.offset, wanted.len), reply);
            }
            None => self.answer_read(wanted, reply),
        }
    }
}

fn answer_bytes(bytes: Result<Vec<u8>, Error>, reply: ReplyData) {
    match bytes {
        Ok(bytes) => reply.data(&bytes),
        Err(e) => reply.error(e.answer()),
    }
}

fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::Directory => FileType::Directory,
        EntryKind::File => FileType::RegularFile,
        EntryKind::Link => FileType::Symlink,
    }
}

/// "There is no such name", to be remembered: inode number 0 with a lifetime.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.agreement);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(_held) = self.take(req, Operation::Lookup, parent) else {
            return reply.error(Errno::EIO);
        };
        // Every name of the store is UTF-8.
        let found = match name.to_str() {
            Some(name) => self.parts.filesystem.lookup(Inode(parent.0), name),
            None => Err(Error::NotFound),
        };
        match found {
            Ok(attributes) => reply.entry(&KEEP_FOREVER, &self.attr(&attributes), GENERATION),
            Err(Error::NotFound) => reply.entry(&KEEP_FOREVER, &absent(), GENERATION),
            Err(e) => reply.error(e.answer()),
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let Some(_held) = self.take(req, Operation::Getattr, ino) else {
            return reply.error(Errno::EIO);
        };
        match self.parts.filesystem.getattr(Inode(ino.0)) {
            Ok(attributes) => reply.attr(&KEEP_FOREVER, &self.attr(&attributes)),
            Err(e) => reply.error(e.answer()),
        }
    }

    /// Unless files are passed through: ENOSYS, once. From then on the kernel opens files by
    /// itself, keeps their pages, and sends neither OPEN nor RELEASE (fs/fuse/file.c, `no_open`).
    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.agreement.stack_depth == 0 {
            self.parts.requests.count(Operation::Open);
            return reply.error(Errno::ENOSYS);
        }
        // Should root remount: the kernel would open what is registered in the same way, and ask
        // nobody for a write.
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let Some(_held) = self.take(req, Operation::Open, ino) else {
            return reply.error(Errno::EIO);
        };
        if Inode(ino.0) == CACHEDIR_TAG_INODE {
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
        let in_memory = self.parts.memory.is_some();
        let at = MountInode { connection: self.connection, inode: Inode(ino.0) };
        self.parts.opener.open(OpenRequest { at, in_memory }, reply);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.parts.requests.count(Operation::Release);
        reply.ok();
    }

    fn flush(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _l: LockOwner, reply: ReplyEmpty) {
        self.parts.requests.count(Operation::Flush);
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(_held) = self.take(req, Operation::Read, ino) else {
            return reply.error(Errno::EIO);
        };
        let wanted = Wanted { inode: Inode(ino.0), offset, len: size as usize };
        match &self.parts.memory {
            None => self.parts.filesystem.answer_read(wanted, reply),
            Some(memory) => self.read_in_memory(memory, wanted, reply),
        }
    }

    /// Flags 0, not ENOSYS: with ENOSYS the kernel caches listings and can't be
    /// told of a name it never saw.
    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.parts.requests.count(Operation::Opendir);
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(_held) = self.take(req, Operation::Readdir, ino) else {
            return reply.error(Errno::EIO);
        };
        let listed = self.parts.filesystem.readdir(Inode(ino.0), Inode(offset), |entry| {
            let (inode, cookie) = (INodeNo(entry.inode.0), entry.cookie.0);
            !reply.add(inode, cookie, file_type(entry.kind), &entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e.answer()),
        }
    }

    fn releasedir(
        &self,
        _r: &Request,
        _i: INodeNo,
        _f: FileHandle,
        _o: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.parts.requests.count(Operation::Releasedir);
        reply.ok();
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let Some(_held) = self.take(req, Operation::Statfs, ino) else {
            return reply.error(Errno::EIO);
        };
        match self.parts.filesystem.statfs() {
            Ok(space) => {
                let blocks = |bytes: u64| bytes / u64::from(BLOCK_SIZE);
                reply.statfs(
                    blocks(space.size),
                    blocks(space.free),
                    blocks(space.available),
                    space.inodes,
                    space.free_inodes,
                    BLOCK_SIZE,
                    u32::try_from(NAME_MAX).unwrap_or(u32::MAX),
                    BLOCK_SIZE,
                );
            }
            Err(e) => reply.error(e.answer()),
        }
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(_held) = self.take(req, Operation::Getxattr, ino) else {
            return reply.error(Errno::EIO);
        };
        let value = match name.to_str() {
            Some(name) => self.parts.filesystem.getxattr(Inode(ino.0), name),
            None => Err(Error::NoAttribute),
        };
        answer_xattr(value, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(_held) = self.take(req, Operation::Listxattr, ino) else {
            return reply.error(Errno::EIO);
        };
        answer_xattr(self.parts.filesystem.listxattr(Inode(ino.0)), size, reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let Some(_held) = self.take(req, Operation::Readlink, ino) else {
            return reply.error(Errno::EIO);
        };
        match self.parts.filesystem.readlink(Inode(ino.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(e) => reply.error(e.answer()),
        }
    }

    fn lseek(
        &self,
        _r: &Request,
        _i: INodeNo,
        _f: FileHandle,
        _o: i64,
        _w: i32,
        reply: ReplyLseek,
    ) {
        // The kernel then treats a file as data up to its end.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fsync(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _d: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _d: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    refuse_changes! {
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        copy_file_range(
            INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) -> ReplyWrite;
    }
}

/// The protocol of getxattr(2): size 0 asks for the length.
fn answer_xattr(value: Result<Vec<u8>, Error>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(e.answer()),
    }
}
