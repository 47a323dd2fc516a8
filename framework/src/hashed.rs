//! Tables whose keys bring their hash with them, or are numbers: nothing is hashed anew to look them up.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

/// Random, since ids are their senders' choice.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A map from what brings its hash.
pub(crate) type HashedMap<K, V> = HashMap<K, V, BuildHasherDefault<Hashed>>;
/// A set of what brings its hash.
pub(crate) type HashedSet<K> = HashSet<K, BuildHasherDefault<Hashed>>;

/// Takes what it is given for well distributed, up to a multiplication.
#[derive(Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio's, so that numbers in a row differ in their upper bits, too (Knuth, 6.4).
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash of an id, the same as long as the process lives.
pub(crate) fn hash_of(id: &str) -> u64 {
    HASHER.hash_one(id)
}

/// A call's id, with its hash. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallId {
    hash: u64,
    text: Arc<str>,
}

impl From<&str> for CallId {
    fn from(id: &str) -> Self {
        Self {
            hash: hash_of(id),
            text: id.into(),
        }
    }
}

impl Hash for CallId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Deref for CallId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_spread() {
        let hash = |number: u64| {
            let mut hashed = Hashed::default();
            number.hash(&mut hashed);
            hashed.finish()
        };
        // What a table of 256 places, and its tags of seven bits, look at.
        let low: HashSet<_> = (0..256).map(|number| hash(number) & 255).collect();
        let high: HashSet<_> = (0..256).map(|number| hash(number) >> 57).collect();
        assert_eq!((low.len(), high.len()), (256, 128));
    }

    #[test]
    fn an_id_is_found_by_its_text() {
        let ids: HashedSet<CallId> = ["a", "b"].into_iter().map(CallId::from).collect();
        assert!(ids.contains(&CallId::from("b")) && !ids.contains(&CallId::from("c")));
        assert_eq!(&*CallId::from("a"), "a");
    }
}
