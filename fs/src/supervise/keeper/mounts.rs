//! Making mounts, and registering files with them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::run::{Keeper, detach, forget_registrations};
use super::worker_process::{hand_over, say};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::fuse::{Connection, read_init};
use crate::ipc::{Message, MountRecord};
use crate::journal::{stack_depth, try_passthrough};
use crate::mount::{self, Options};
use rustix::process::geteuid;
use wasmfs_store::Inode;

/// How long another process that mounts on the same directory is waited for.
const MOUNTING_TIMEOUT: Duration = Duration::from_secs(2);

impl Keeper<'_> {
    pub(super) fn register(
        &self,
        connection: u32,
        inode: Inode,
        file: Option<&OwnedFd>,
    ) -> io::Result<u32> {
        let known = self.connections.iter().find(|c| c.name() == connection);
        let (Some(known), Some(file)) = (known, file) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.journal.register(connection, known.device.as_fd(), inode, file.as_fd())
    }

    /// A worker knows what to answer to FUSE_INIT.
    pub(super) fn answer_init(&mut self, connection: u32, reply: &[u8], request: Option<u64>) {
        let known = self.connections.iter_mut().find(|c| c.name() == connection);
        if let Some(known) = known {
            // The first reply stands; a later worker has checked that it agrees.
            if known.record.reply.is_none()
                && let Err(e) = known.answer_init(reply)
            {
                // The mount is gone; its descriptor says so as well.
                log::warn!("answering FUSE_INIT: {e}");
            }
            let passes = match known.record.options.passthrough {
                true => try_passthrough(known.device.as_fd(), self.lock.as_fd()),
                false => Ok(()),
            };
            if let Err(e) = passes {
                detach(vec![known.record.clone()]);
                match request {
                    // Before it is served, which then ends at once.
                    Some(request) => {
                        let why = (self.plan.explain)(&e);
                        self.worker.iter().for_each(|worker| {
                            say(worker, &Message::MountFailed { request, why: why.clone() });
                        });
                    }
                    None if self.is_announced => log::error!("{}", chain(&e)),
                    None => self.failed_to_mount = Some(e),
                }
            }
            if let Some(worker) = &self.worker {
                say(worker, &Message::InitAnswered { connection });
            }
            // It was made meanwhile, and is the successor's as it is from here on.
            if let Some(successor) = &self.successor {
                hand_over(successor, known, None);
            }
        }
    }

    pub(super) fn answer(&self, message: &Message) {
        if let Some(worker) = &self.worker {
            say(worker, message);
        }
    }

    /// Makes a mount, and has the worker serve it.
    pub(super) fn mount(
        &mut self,
        mount_point: &Path,
        options: Options,
        request: Option<u64>,
    ) -> Result<()> {
        if self.phase.is_over() {
            return Err(Error::Ending);
        }
        if let Some(other) = self.connections.iter().find(|c| c.record.is_attached()) {
            let other = other.record.mount_point.clone();
            return Err(if other == mount_point {
                Error::AlreadyMounted(other)
            } else {
                Error::MountedElsewhere(other)
            });
        }
        if options.passthrough && !geteuid().is_root() {
            return Err(Error::NoPassthrough("only root can have files registered for it".into()));
        }
        let mount_point = mount::absolute(mount_point)?;
        let store = self.plan.store.path();
        // Whoever mounts there as well may take his time: not while hosts are served.
        let patience = if self.is_announced { Duration::ZERO } else { MOUNTING_TIMEOUT };
        let (device, mounted) = mount::mount(store, &mount_point, options.allow_other, patience)?;
        let connection = (|| {
            let init = read_init(device.as_fd()).map_err(Error::Session)?;
            let record = MountRecord {
                mount_point: mount_point.clone(),
                options,
                device: mounted.device,
                init,
                stack_depth: if options.passthrough { stack_depth(self.lock.as_fd()) } else { 0 },
                reply: None,
            };
            let connection = Connection { record, device };
            if options.passthrough && !connection.can_pass_through() {
                return Err(Error::NoPassthrough(
                    "this kernel has no FUSE passthrough (Linux 6.9 has it, with \
                     CONFIG_FUSE_PASSTHROUGH)"
                        .into(),
                ));
            }
            Ok(connection)
        })();
        let connection =
            connection.inspect_err(|_: &Error| mount::detach(&mount_point, mounted.device))?;
        forget_registrations(&self.journal, connection.name());
        log::info!("mounted at {}", mount_point.display());
        if let Some(worker) = &self.worker {
            hand_over(worker, &connection, request);
        }
        self.connections.push(connection);
        Ok(())
    }
}
