//! Which commits every kernel cache knows of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmfs_store::{Sequence, Store};

use crate::journal::InFlightRequests;

/// Keeps the journal's "told" at what every kernel cache knows of.
pub(crate) struct Ledger {
    store: Arc<Store>,
    in_flight: Arc<InFlightRequests>,
    open: Mutex<OpenTickets>,
}

#[derive(Default)]
struct OpenTickets {
    next: u64,
    /// The tickets by number, each with the last change before it.
    tickets: BTreeMap<u64, Sequence>,
}

/// A commit under way. When the last copy is dropped, every kernel cache was told of it.
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Ledger {
    pub(crate) fn new(store: Arc<Store>, in_flight: Arc<InFlightRequests>) -> Ledger {
        Ledger { store, in_flight, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, OpenTickets> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().tickets.is_empty()
    }

    /// Begins a commit, or the telling of what came after change number `told`.
    pub(crate) fn begin(self: &Arc<Self>, told: Sequence) -> Arc<Ticket> {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.tickets.insert(number, told);
        Arc::new(Ticket { ledger: self.clone(), number })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Before the lock: a commit that is in `last` and not told yet has its ticket by then.
        let last = self.ledger.store.last_change();
        let mut open = self.ledger.lock();
        open.tickets.remove(&self.number);
        let told = open.tickets.values().min().copied().unwrap_or(last);
        if let Err(e) = self.ledger.in_flight.journal().set_told(told) {
            log::warn!("noting what the kernel knows: {e}");
        }
    }
}
