//! What is agreed with the kernel when a mount is made: the capabilities of FUSE_INIT.

use std::io;

use fuser::{InitFlags, KernelConfig, Request};

/// What may be agreed with the kernel. A mount that was made on fewer terms is
/// served on those.
#[derive(Clone, Copy)]
pub(crate) struct Agreement {
    /// The kernel keeps what links say: FUSE_CACHE_SYMLINKS.
    pub(crate) keep_links: bool,
    /// How many filesystems may lie one upon the other for files to be passed through; 0 if
    /// none are: FUSE_PASSTHROUGH. Then every open is a request.
    pub(crate) stack_depth: u32,
}

/// Agrees with the kernel, and serves nothing.
pub(crate) struct Negotiator(pub(super) Agreement);

impl fuser::Filesystem for Negotiator {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.0);
        Ok(())
    }
}

/// Asks for what wasmfs wants, as far as the agreement goes.
pub(super) fn negotiate(config: &mut KernelConfig, agreement: Agreement) {
    // Never AUTO_INVAL_DATA or WRITEBACK_CACHE: pages are only ever read in. What a link
    // says can be kept, since an inode always says the same.
    let wanted = [
        Some(InitFlags::FUSE_NO_OPEN_SUPPORT),
        Some(InitFlags::FUSE_PARALLEL_DIROPS),
        agreement.keep_links.then_some(InitFlags::FUSE_CACHE_SYMLINKS),
        (agreement.stack_depth > 0).then_some(InitFlags::FUSE_PASSTHROUGH),
    ];
    if let Err(most) = config.set_max_stack_depth(agreement.stack_depth) {
        log::error!("no more than {most} filesystems can lie one upon the other");
    }
    for wanted in wanted.into_iter().flatten() {
        if config.add_capabilities(wanted).is_err() {
            log::warn!("this kernel has no {wanted:?}");
        }
    }
}
