//! The thin layer that turns fuser's calls into the filesystem's, and says how
//! long the kernel may keep the answers: for ever, since
//! [`crate::notify`] takes back what a commit changes.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use rustix::process::{getegid, geteuid};
use wasmfs_store::tree::{EntryKind, VersionRecord};

use crate::background::Later;
use crate::backing::memory::{self, Claim};
use crate::backing::passthrough::{Opener, Order};
use crate::error::Error;
use crate::filesystem::{Attributes, CACHEDIR_TAG_INODE, Filesystem, NAME_MAX, chain};
use crate::fuse::operation::Requests;
use crate::journal::requests::{DEATHS, Held, InHand};

/// How long the kernel keeps names, absent ones too, and attributes.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Inode numbers are never given twice, so one generation does.
const GENERATION: Generation = Generation(0);
const BLOCK_SIZE: u32 = 4096;

/// One mount's layer over the filesystem.
pub(crate) struct Layer {
    parts: Parts,
    /// The connection's name under `/sys/fs/fuse/connections`.
    connection: u32,
    terms: Terms,
    uid: u32,
    gid: u32,
}

/// What it works with, which every mount of a store shares.
pub(crate) struct Parts {
    pub(crate) filesystem: Arc<Filesystem>,
    pub(crate) in_hand: Arc<InHand>,
    pub(crate) opener: Arc<Opener>,
    /// Where payloads are served from, if this mount has them in memory.
    pub(crate) memory: Option<Arc<Claim>>,
    pub(crate) later: Arc<Later>,
    pub(crate) requests: Arc<Requests>,
}

/// What may be agreed with the kernel. A mount that was made on fewer terms is
/// served on those.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// The kernel keeps what links say: FUSE_CACHE_SYMLINKS.
    pub(crate) keep_links: bool,
    /// How many filesystems may lie one upon the other for files to be passed through; 0 if
    /// none are: FUSE_PASSTHROUGH. Then every open is a request.
    pub(crate) stack_depth: u32,
}

impl Layer {
    pub(crate) fn new(parts: Parts, connection: u32, terms: Terms) -> Layer {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Layer { parts, connection, terms, uid, gid }
    }

    /// Takes a request in hand that the store has to answer; `None` if it has
    /// killed too many workers.
    fn take(&self, request: &Request, what: &str, inode: INodeNo) -> Option<Held<'_>> {
        self.parts.requests.count(what);
        let held = self.parts.in_hand.take(self.connection, request.unique().0);
        match &held {
            Some(_) => crate::fault::strike(what, inode.0),
            None => log::error!(
                "{what} of inode {inode} has killed {DEATHS} workers: it is answered with an error"
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
        let (memory, in_hand) = (memory.clone(), self.parts.in_hand.clone());
        let connection = self.connection;
        self.parts.later.run(move || {
            let Some(_held) = in_hand.take_inode(connection, wanted.inode) else {
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
            ino: INodeNo(inode),
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
    inode: u64,
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
                answer_bytes(memory::read(file, version.size, wanted.offset, wanted.len), reply);
            }
            None => self.answer_read(wanted, reply),
        }
    }
}

fn answer_bytes(bytes: Result<Vec<u8>, Error>, reply: ReplyData) {
    match bytes {
        Ok(bytes) => reply.data(&bytes),
        Err(e) => reply.error(answer(&e)),
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

/// Agrees with the kernel, and serves nothing.
pub(crate) struct Negotiator(pub(crate) Terms);

impl fuser::Filesystem for Negotiator {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.0);
        Ok(())
    }
}

fn negotiate(config: &mut KernelConfig, terms: Terms) {
    // Never AUTO_INVAL_DATA or WRITEBACK_CACHE: pages are only ever read in. What a link
    // says can be kept, since an inode always says the same.
    let wanted = [
        Some(InitFlags::FUSE_NO_OPEN_SUPPORT),
        Some(InitFlags::FUSE_PARALLEL_DIROPS),
        terms.keep_links.then_some(InitFlags::FUSE_CACHE_SYMLINKS),
        (terms.stack_depth > 0).then_some(InitFlags::FUSE_PASSTHROUGH),
    ];
    if let Err(most) = config.set_max_stack_depth(terms.stack_depth) {
        log::error!("no more than {most} filesystems can lie one upon the other");
    }
    for wanted in wanted.into_iter().flatten() {
        if config.add_capabilities(wanted).is_err() {
            log::warn!("this kernel has no {wanted:?}");
        }
    }
}

impl fuser::Filesystem for Layer {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.terms);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(_held) = self.take(req, "lookup", parent) else { return reply.error(Errno::EIO) };
        // Every name of the store is UTF-8.
        let found = match name.to_str() {
            Some(name) => self.parts.filesystem.lookup(parent.0, name),
            None => Err(Error::NotFound),
        };
        match found {
            Ok(attributes) => reply.entry(&FOR_EVER, &self.attr(&attributes), GENERATION),
            Err(Error::NotFound) => reply.entry(&FOR_EVER, &absent(), GENERATION),
            Err(e) => reply.error(answer(&e)),
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let Some(_held) = self.take(req, "getattr", ino) else { return reply.error(Errno::EIO) };
        match self.parts.filesystem.getattr(ino.0) {
            Ok(attributes) => reply.attr(&FOR_EVER, &self.attr(&attributes)),
            Err(e) => reply.error(answer(&e)),
        }
    }

    /// Unless files are passed through: ENOSYS, once. From then on the kernel opens files by
    /// itself, keeps their pages, and sends neither OPEN nor RELEASE (fs/fuse/file.c, `no_open`).
    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.terms.stack_depth == 0 {
            self.parts.requests.count("open");
            return reply.error(Errno::ENOSYS);
        }
        // Should root remount: the kernel would open what is registered in the same way, and ask
        // nobody for a write.
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let Some(_held) = self.take(req, "open", ino) else { return reply.error(Errno::EIO) };
        if ino.0 == CACHEDIR_TAG_INODE {
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
        let in_memory = self.parts.memory.is_some();
        let order = Order { place: (self.connection, ino.0), in_memory };
        self.parts.opener.open(order, reply);
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
        self.parts.requests.count("release");
        reply.ok();
    }

    fn flush(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _l: LockOwner, reply: ReplyEmpty) {
        self.parts.requests.count("flush");
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
        let Some(_held) = self.take(req, "read", ino) else { return reply.error(Errno::EIO) };
        let wanted = Wanted { inode: ino.0, offset, len: size as usize };
        match &self.parts.memory {
            None => self.parts.filesystem.answer_read(wanted, reply),
            Some(memory) => self.read_in_memory(memory, wanted, reply),
        }
    }

    /// Flags 0, not ENOSYS: with ENOSYS the kernel caches listings and can't be
    /// told of a name it never saw.
    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.parts.requests.count("opendir");
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
        let Some(_held) = self.take(req, "readdir", ino) else { return reply.error(Errno::EIO) };
        let listed = self.parts.filesystem.readdir(ino.0, offset, |entry| {
            !reply.add(INodeNo(entry.inode), entry.next, file_type(entry.kind), &entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(answer(&e)),
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
        self.parts.requests.count("releasedir");
        reply.ok();
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let Some(_held) = self.take(req, "statfs", ino) else { return reply.error(Errno::EIO) };
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
                    NAME_MAX as u32,
                    BLOCK_SIZE,
                );
            }
            Err(e) => reply.error(answer(&e)),
        }
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(_held) = self.take(req, "getxattr", ino) else { return reply.error(Errno::EIO) };
        let value = match name.to_str() {
            Some(name) => self.parts.filesystem.getxattr(ino.0, name),
            None => Err(Error::NoAttribute),
        };
        answer_xattr(value, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(_held) = self.take(req, "listxattr", ino) else { return reply.error(Errno::EIO) };
        answer_xattr(self.parts.filesystem.listxattr(ino.0), size, reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let Some(_held) = self.take(req, "readlink", ino) else { return reply.error(Errno::EIO) };
        match self.parts.filesystem.readlink(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(e) => reply.error(answer(&e)),
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

    // Whatever would change something is EROFS here too: root can remount read-write.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }
}

/// The errno of an error, which is logged if it is the store's: the kernel can't say more than EIO.
pub(crate) fn answer(error: &Error) -> Errno {
    if let Error::Store(_) | Error::Io { .. } = error {
        log::error!("a request fails: {}", chain(error));
    }
    error.errno()
}

/// The protocol of getxattr(2): size 0 asks for the length.
fn answer_xattr(value: Result<Vec<u8>, Error>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(answer(&e)),
    }
}
