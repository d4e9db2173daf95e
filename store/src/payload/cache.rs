//! A few values, those that were asked for last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

/// The last `N` values that were asked for. A value is made outside the lock.
pub(super) struct Recent<K, V, const N: usize>(Mutex<VecDeque<(K, Arc<V>)>>);

impl<K, V, const N: usize> Default for Recent<K, V, N> {
    fn default() -> Self {
        Recent(Mutex::new(VecDeque::with_capacity(N)))
    }
}

impl<K: PartialEq, V, const N: usize> Recent<K, V, N> {
    pub(super) fn forget(&self, key: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(k, _)| k != key);
    }

    pub(super) fn find(&self, key: &K) -> Option<Arc<V>> {
        // A thread that panicked with this lock held left a valid queue.
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(k, _)| k == key)?;
        let entry = recent.remove(at)?;
        let value = entry.1.clone();
        recent.push_front(entry);
        Some(value)
    }

    pub(super) fn put(&self, key: K, value: V) -> Arc<V> {
        let value = Arc::new(value);
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.truncate(N - 1);
        recent.push_front((key, value.clone()));
        value
    }

    pub(super) fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        match self.find(&key) {
            Some(value) => Ok(value),
            None => Ok(self.put(key, make()?)),
        }
    }
}
