//! The tasks of this binary, by name: the linker collects them, a worker checks them before it starts.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::task::{Definition, State};

/// An entry that the linker collects. Written by `#[task]`.
#[derive(Debug)]
pub struct Registered(pub &'static Definition);

inventory::collect!(Registered);

/// The tasks that a worker can run, by name.
#[derive(Debug, Clone, Default)]
pub struct Registry(HashMap<&'static str, &'static Definition>);

impl Registry {
    /// Every task linked into this binary.
    ///
    /// # Errors
    /// [`Error::DuplicateTask`].
    pub fn linked() -> Result<Self> {
        let mut registry = Self::default();
        inventory::iter::<Registered>().try_for_each(|entry| registry.add(entry.0))?;
        Ok(registry)
    }

    /// Adds a task; adding the same one again changes nothing.
    ///
    /// # Errors
    /// [`Error::DuplicateTask`].
    pub fn add(&mut self, definition: &'static Definition) -> Result<()> {
        match self.0.insert(definition.name, definition) {
            Some(other) if !std::ptr::eq(other, definition) => {
                let (mut first, mut second) = (other.location(), definition.location());
                if second < first {
                    std::mem::swap(&mut first, &mut second);
                }
                Err(Error::DuplicateTask {
                    name: definition.name.to_owned(),
                    first,
                    second,
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks that there is a task at all, and that `state` has what each of them borrows.
    ///
    /// # Errors
    /// [`Error::NoTasks`], [`Error::MissingState`].
    pub fn check(&self, state: &State) -> Result<()> {
        if self.0.is_empty() {
            return Err(Error::NoTasks);
        }
        for task in self.iter() {
            if let Some(missing) = (task.borrows)()
                .into_iter()
                .find(|borrow| !state.has(*borrow))
            {
                return Err(Error::MissingState {
                    task: task.name.to_owned(),
                    location: task.location(),
                    state: missing.name,
                });
            }
        }
        Ok(())
    }

    /// The task of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'static Definition> {
        self.0.get(name).copied()
    }

    /// The tasks by name, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &'static Definition> + '_ {
        let mut tasks: Vec<_> = self.0.values().copied().collect();
        tasks.sort_by_key(|task| task.name);
        tasks.into_iter()
    }
}
