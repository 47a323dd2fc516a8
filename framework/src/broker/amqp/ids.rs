//! The ids of the messages in flight: a returned message is recognised by its id, which therefore no two of them may
//! share.

use super::wire;
use crate::hashed::{HashedSet, hash_of};

/// Stands for a message's id. Two ids with one hash would be taken for the same, which none in flight are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct IdHash(u64);

/// The ids.
#[derive(Default)]
pub(super) struct Ids {
    in_flight: HashedSet<IdHash>,
    returned: HashedSet<IdHash>,
    next_number: u64,
}

impl Ids {
    /// A message with this id is in flight from now on: what stands for it, and another id where it needs one.
    pub(super) fn enter(&mut self, id: &str) -> (IdHash, Option<String>) {
        let hash = IdHash(hash_of(id));
        if !id.is_empty() && self.in_flight.insert(hash) {
            return (hash, None);
        }
        loop {
            self.next_number += 1;
            let another = wire::numbered_id(id, self.next_number);
            let hash = IdHash(hash_of(&another));
            if self.in_flight.insert(hash) {
                return (hash, Some(another));
            }
        }
    }

    /// The message with this id came back.
    pub(super) fn returned(&mut self, id: &str) {
        let hash = IdHash(hash_of(id));
        self.returned.insert(hash);
    }

    /// This message is in flight no longer; whether it came back.
    pub(super) fn leave(&mut self, id: IdHash) -> bool {
        self.in_flight.remove(&id);
        !self.returned.is_empty() && self.returned.remove(&id)
    }

    /// None is in flight.
    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
        self.returned.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_in_flight_share_an_id() {
        let mut ids = Ids::default();
        let (first, renamed) = ids.enter("a");
        assert_eq!(renamed, None);
        let (second, renamed) = ids.enter("a");
        assert_ne!(first, second);
        let renamed = renamed.expect("another id");
        assert_ne!(renamed, "a");
        let (nameless, renamed_too) = ids.enter("");
        assert!(renamed_too.is_some_and(|id| id != renamed));
        assert!(!ids.leave(nameless));
        ids.returned(&renamed);
        assert!(!ids.leave(first));
        assert!(ids.leave(second));
        assert!(!ids.leave(second));
        assert_eq!(ids.enter("a"), (first, None));
    }
}
