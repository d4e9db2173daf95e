//! fs-verity: the kernel checks each page of a file against a tree of hashes when it reads it,
//! and lets nobody change the file any more (Documentation/filesystems/fsverity.rst).

use std::fs::File;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `struct fsverity_enable_arg` (include/uapi/linux/fsverity.h): 128 bytes.
#[repr(C)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more_reserved: [u64; 11],
}

/// `FS_IOC_ENABLE_VERITY`.
const ENABLE: Opcode = opcode::write::<Enable>(b'f', 133);
/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u32 = 1;

/// Has the kernel guard a file, if its filesystem can (ext4, btrfs and f2fs, when made so).
pub(crate) fn enable(file: &File) {
    let wanted = Enable {
        version: 1,
        hash_algorithm: SHA256,
        block_size: 4096,
        salt_size: 0,
        salt: 0,
        signature_size: 0,
        reserved: 0,
        signature: 0,
        more_reserved: [0; 11],
    };
    // SAFETY: the kernel reads one `Enable` (fs/verity/enable.c, `fsverity_ioctl_enable`), with no
    // pointers in it; other filesystems answer ENOTTY or EOPNOTSUPP.
    match unsafe { ioctl(file, Setter::<ENABLE, Enable>::new(wanted)) } {
        Ok(()) | Err(Errno::EXIST) => log::debug!("the kernel guards what is passed through"),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::ROFS) => {}
        Err(e) => log::warn!("fs-verity for a file that is passed through: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_kernels() {
        assert_eq!(size_of::<Enable>(), 128);
        assert_eq!(ENABLE, 0x4080_6685);
        // Of a filesystem without it nothing is asked and nothing comes.
        enable(&File::open("/proc/self/status").unwrap());
    }
}
