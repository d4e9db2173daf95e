//! Any error as a user sees it: a code, a message, and what to do next.

use std::fmt::Write as _;
use std::io;

use serde::{Deserialize, Serialize};
use wasmfs_fs::Error as FsError;
use wasmfs_store::{Error as StoreError, InvalidKey};

use super::error::Error;
use super::hints::{cli_hint, fs_hint, io_hint, key_hint, store_hint};

/// The code of an error of the system that no crate has a word for.
const IO: &str = "io";
/// The code of whatever else: a fault of wasmfs's own.
const INTERNAL: &str = "internal";

/// An error in words. It can cross the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What programs tell it by.
    #[serde(default = "unknown")]
    pub code: String,
    /// What went wrong, causes included.
    pub message: String,
    pub hint: Option<String>,
    /// Whether the command line was wrong, rather than the world.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub usage: bool,
}

/// The code of what an older wasmfs says, which had none.
fn unknown() -> String {
    "unknown".into()
}

impl std::error::Error for Failure {}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(&error.into())
    }
}

impl Failure {
    /// Any error as a failure, with the hint that fits it.
    pub fn of(error: &anyhow::Error) -> Failure {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            let mut message = String::new();
            // `{:#}` has the contexts that were added on the way.
            let _ = write!(message, "{error:#}");
            return Failure { message, ..failure.clone() };
        }
        Failure::of_chain(error.chain())
    }

    /// An error of the mount as a failure.
    pub fn of_mount(error: &FsError) -> Failure {
        Failure::of_chain(anyhow::Chain::new(error))
    }

    fn of_chain(chain: anyhow::Chain<'_>) -> Failure {
        let explained = chain.clone().find_map(|cause| match cause.downcast_ref() {
            Some(FsError::Explained(text)) => Some(Failure::decode(text)),
            _ => None,
        });
        if let Some(failure) = explained {
            return failure;
        }
        let told = chain.clone().find_map(|cause| {
            if let Some(error) = cause.downcast_ref::<Error>() {
                return Some((error.code(), Some(cli_hint(error)), error.is_usage()));
            }
            if let Some(error) = cause.downcast_ref::<StoreError>() {
                return Some((error.code(), store_hint(error), false));
            }
            if let Some(error) = cause.downcast_ref::<InvalidKey>() {
                return Some((StoreError::Key(error.clone()).code(), Some(key_hint()), false));
            }
            match cause.downcast_ref::<FsError>() {
                Some(FsError::Store(error)) => Some((error.code(), store_hint(error), false)),
                Some(error) => Some((error.code(), fs_hint(error), false)),
                None => None,
            }
        });
        let system = || {
            let error = chain.clone().find_map(|cause| cause.downcast_ref::<io::Error>())?;
            Some((IO, Some(io_hint(None, error)), false))
        };
        let (code, hint, usage) = told.or_else(system).unwrap_or((INTERNAL, None, false));
        // A cause that is the system's says more of what to do.
        let hint = hint.or_else(|| system().and_then(|(_, hint, _)| hint));
        Failure { code: code.into(), message: one_line(chain), hint, usage }
    }

    /// As text, for another process; [`Failure::decode`] reads it.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| self.message.clone())
    }

    /// What another process encoded; any other text is taken as a message.
    pub fn decode(text: &str) -> Failure {
        serde_json::from_str(text).unwrap_or_else(|_| Failure {
            code: unknown(),
            message: text.trim().to_owned(),
            hint: Some("the server's log says more (`wasmfs status` names it)".into()),
            usage: false,
        })
    }
}

/// The error and its causes, without a cause that an error already quotes.
fn one_line(chain: anyhow::Chain<'_>) -> String {
    let mut text = String::new();
    for cause in chain {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
        }
    }
    text
}

/// Whether an error is the one with this code: this process's own, or what a server answered.
fn has_code(error: &anyhow::Error, code: &str) -> bool {
    Failure::of(error).code == code
}

/// Whether there is no such key.
pub fn is_no_key(error: &anyhow::Error) -> bool {
    has_code(error, "no-key")
}

/// Whether the server went away over a request.
pub fn was_lost(error: &anyhow::Error) -> bool {
    has_code(error, "server-lost")
}

/// Whether the server went away, before or after it heard a request.
pub fn is_gone(error: &anyhow::Error) -> bool {
    was_lost(error) || has_code(error, "server-unreachable")
}

/// Whether the same request may be granted in a moment: the server is just ending.
pub fn is_ending(error: &anyhow::Error) -> bool {
    has_code(error, "server-ending")
}
