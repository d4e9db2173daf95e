//! How a command works with a store: through the server that has it, or by opening it. A command
//! never has to know which.
//!
//! [`StoreClient`] asks any request of the control API, goes through long answers, and reads
//! payloads; [`Batch`] publishes many artifacts. What a command publishes it stages itself, in the
//! store's directory, and what it reads as files it reads there: client and server are the same
//! user's. It uses the control API.

mod batch;
pub mod stable_file;
mod store_client;

pub use batch::Batch;
pub use store_client::{NamedEngine, StoreClient};
