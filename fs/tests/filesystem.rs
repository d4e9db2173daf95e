//! The filesystem where a model has nothing to say.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../../store/tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use support::{artifact, open, publish};
use wasmfs_fs::{CACHEDIR_TAG_INODE, Error, Filesystem, RESERVED_INODE};
use wasmfs_store::Inode;

fn filesystem() -> (tempfile::TempDir, Filesystem, Inode) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path(), &Default::default()));
    let inode = publish(&store, "dir/key", &artifact(1, 1, 300_000)).version.inode;
    (dir, Filesystem::new(store), inode)
}

#[test]
fn reads_end_where_the_file_ends() {
    let (_dir, filesystem, inode) = filesystem();
    let size = filesystem.getattr(inode).unwrap().size;
    let len = |offset, len| filesystem.read(inode, offset, len).unwrap().len() as u64;
    assert_eq!(len(0, usize::MAX), size);
    assert_eq!(len(size - 1, 100), 1);
    assert_eq!((len(size, 100), len(u64::MAX, 100), len(0, 0)), (0, 0, 0));
    // Across the border of two blocks.
    let whole = filesystem.read(inode, 0, size as usize).unwrap();
    assert!(filesystem.read(inode, 131_000, 500).unwrap() == whole[131_000..131_500]);
    assert_eq!(filesystem.read(CACHEDIR_TAG_INODE, 0, 10).unwrap(), b"Signature:");
    assert_eq!(filesystem.read(CACHEDIR_TAG_INODE, 10_000, 10).unwrap(), b"");
}

#[test]
fn the_wrong_kind_of_inode_is_said_to_be_wrong() {
    let (_dir, filesystem, inode) = filesystem();
    assert!(matches!(filesystem.lookup(inode, "x"), Err(Error::NotADirectory)));
    assert!(matches!(filesystem.readdir(inode, Inode(0), |_| true), Err(Error::NotADirectory)));
    assert!(matches!(filesystem.read(Inode(1), 0, 1), Err(Error::IsADirectory)));
    assert!(matches!(filesystem.read(RESERVED_INODE, 0, 1), Err(Error::IsADirectory)));
    assert!(matches!(filesystem.getattr(Inode(1 << 40)), Err(Error::NotFound)));
    assert!(matches!(filesystem.lookup(Inode(1), &"x".repeat(256)), Err(Error::NameTooLong)));
    assert!(matches!(filesystem.getxattr(inode, "security.capability"), Err(Error::NoAttribute)));
    assert!(matches!(filesystem.getxattr(Inode(1), "user.wasmfs.key"), Err(Error::NoAttribute)));
}

#[test]
fn a_listing_from_a_place_that_means_nothing_ends() {
    let (_dir, filesystem, inode) = filesystem();
    for from in [inode, Inode(1 << 40), Inode(u64::MAX)] {
        let mut names = Vec::new();
        filesystem
            .readdir(Inode(1), from, |entry| {
                names.push(entry.name);
                true
            })
            .unwrap();
        assert!(names.is_empty() || names == ["dir"], "{from}: {names:?}");
    }
}
