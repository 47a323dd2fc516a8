//! What an app in memory knows for the testing kit: its broker, and the faults that a test wants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::broker::memory::MemoryBroker;

/// An app in memory, as its tests see it.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    pub(crate) broker: Arc<MemoryBroker>,
    /// By the task's name.
    faults: Mutex<HashMap<&'static str, Fault>>,
}

/// After which attempts at a task its worker dies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// After so many more.
    Times(u32),
    /// After each that is a message's first delivery.
    FirstDeliveries,
}

impl Rehearsal {
    pub(crate) fn new(broker: Arc<MemoryBroker>) -> Self {
        Self {
            broker,
            faults: Mutex::default(),
        }
    }

    /// From now on the task has this fault, and no other.
    pub(crate) fn inject(&self, task: &'static str, fault: Fault) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(task, fault);
    }

    /// Whether the worker dies now that an attempt at the task is over.
    pub(crate) fn strikes(&self, task: &str, came_back: bool) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match faults.get_mut(task) {
            Some(Fault::Times(0)) | None => false,
            Some(Fault::Times(left)) => {
                *left -= 1;
                true
            }
            Some(Fault::FirstDeliveries) => !came_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_as_often_as_they_should() {
        let rehearsal = Rehearsal::new(Arc::default());
        assert!(!rehearsal.strikes("charge", false));
        rehearsal.inject("charge", Fault::Times(2));
        let struck = [0; 4].map(|_| rehearsal.strikes("charge", true));
        assert_eq!(struck, [true, true, false, false]);
        rehearsal.inject("charge", Fault::FirstDeliveries);
        let struck = [false, true, false].map(|came_back| rehearsal.strikes("charge", came_back));
        assert_eq!(struck, [true, false, true]);
        assert!(!rehearsal.strikes("other", false));
    }
}
