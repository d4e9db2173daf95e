//! What a read-only disk refuses, by the server too: root can remount read-write.

/// Operations that are answered with EROFS, whatever they are asked. For use inside of
/// `impl fuser::Filesystem`.
macro_rules! refuse_changes {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(
            fn $name(&self, _: &fuser::Request, $(_: $argument,)* reply: $reply) {
                reply.error(fuser::Errno::EROFS);
            }
        )*
    };
}

pub(super) use refuse_changes;
