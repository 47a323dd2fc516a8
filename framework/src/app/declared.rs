//! The names of queues and exchanges that are known to be declared.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names remembered; more are forgotten, which costs no more than declaring again.
const LIMIT: usize = 10_000;

/// The names.
#[derive(Default)]
pub(super) struct Declared(Mutex<HashSet<String>>);

impl Declared {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    pub(super) fn remember(&self, name: &str) {
        let mut names = self.names();
        if names.len() >= LIMIT {
            names.clear();
        }
        names.insert(name.to_owned());
    }

    pub(super) fn forget(&self, name: &str) {
        self.names().remove(name);
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
