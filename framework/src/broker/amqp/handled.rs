//! Tells who publishes that lapin has handled what has come: only then can it be seen what became of a message whose
//! confirm nobody awaits yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is told.
pub(super) trait Listener: Send + Sync {
    /// All that has come is handled. Called on lapin's thread, but while lapin holds no locks.
    fn handled(&self);
}

/// The one who is told of a connection.
#[derive(Clone, Default)]
pub(super) struct Handled(Arc<Mutex<Option<Arc<dyn Listener>>>>);

impl Handled {
    fn listener(&self) -> MutexGuard<'_, Option<Arc<dyn Listener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one is told from now on.
    pub(super) fn tell(&self, listener: Arc<dyn Listener>) {
        *self.listener() = Some(listener);
    }

    /// Whether somebody is told.
    pub(super) fn is_awaited(&self) -> bool {
        self.listener().is_some()
    }

    /// Tells that it is.
    pub(super) fn announce(&self) {
        if let Some(told) = &*self.listener() {
            told.handled();
        }
    }
}
