//! One queue in several: each is a queue of its own to the broker, and to nobody else.

use super::queue::Queue;

/// Stands between a queue's name and the number of one of its shards.
const SEPARATOR: &str = ".shard-";
/// A queue has so many at most.
pub(super) const MOST_SHARDS: u32 = 1024;

impl Queue {
    /// Divides it into so many queues, for what is more than one can carry: a broker has one core for each. A
    /// consistent hash of each call's [`shard_key`](crate::Call::shard_key), or else of its id, chooses one. Callers
    /// and workers go on naming this queue: a worker takes from all of its shards, and divides its slots among them.
    ///
    /// `#[task(shards = 4)]` says it once for all who call the task and all who run it. The first shard is the queue
    /// itself, where callers of other kinds find it; the others are named after it. They share its dead letters.
    ///
    /// With one shard more, a part of the calls goes there that is as large as the other shards' own. Before there
    /// are fewer, let workers still take from as many until those that go are empty.
    ///
    /// ```
    /// use garenne::Queue;
    ///
    /// let names: Vec<_> = Queue::new("bills").shards(3).shard_names().collect();
    /// assert_eq!(names, ["bills", "bills.shard-1", "bills.shard-2"]);
    /// ```
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// The names of the broker's queues that this one is divided into; its own, if it is not divided.
    pub fn shard_names(&self) -> impl Iterator<Item = String> + use<> {
        let name = self.name.clone();
        (0..self.shards.max(1)).map(move |number| shard_name(&name, number))
    }

    /// All that it is divided into.
    pub(crate) fn each_shard(&self) -> impl Iterator<Item = Self> + use<> {
        let this = self.clone();
        self.shard_names().map(move |name| this.only(name))
    }

    /// The shard of a key.
    pub(crate) fn shard_of(&self, key: &str) -> Self {
        self.only(shard_name(&self.name, shard(key, self.shards)))
    }

    fn only(&self, name: String) -> Self {
        Self {
            name,
            shards: 1,
            ..self.clone()
        }
    }
}

fn shard_name(name: &str, number: u32) -> String {
    match number {
        0 => name.to_owned(),
        number => format!("{name}{SEPARATOR}{number}"),
    }
}

/// The name of the queue that this one is a shard of; its own, if it is none.
pub(crate) fn undivided(name: &str) -> &str {
    match name.rsplit_once(SEPARATOR) {
        Some((whole, number))
            if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            whole
        }
        _ => name,
    }
}

/// The shard of a key, from 0. Jump consistent hash (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash
/// Algorithm", 2014) of the key's FNV-1a: the same on every machine and in every version.
fn shard(key: &str, shards: u32) -> u32 {
    let mut hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let (mut chosen, mut next) = (0, 0_u64);
    while next < u64::from(shards) {
        chosen = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let jump = (1_u64 << 31) as f64 / ((hash >> 33) + 1) as f64;
        next = ((chosen + 1) as f64 * jump) as u64;
    }
    u32::try_from(chosen).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_evenly_and_stay_where_they_are() {
        let keys: Vec<String> = (0..10_000).map(|n| format!("customer-{n}")).collect();
        let mut shares = [0; 8];
        let mut moved = 0;
        for key in &keys {
            let chosen = shard(key, 8);
            shares[chosen as usize] += 1;
            let next = shard(key, 9);
            assert!(next == chosen || next == 8, "{key} moved among old shards");
            moved += usize::from(next != chosen);
        }
        assert!(
            shares.iter().all(|share| (1100..1400).contains(share)),
            "{shares:?}"
        );
        assert!((950..1280).contains(&moved), "{moved}");
    }

    #[test]
    fn a_key_has_the_same_shard_for_ever() {
        let chosen = ["", "a", "customer-7", "größe"].map(|key| shard(key, 100));
        assert_eq!(chosen, CHOSEN);
    }

    /// Noted once: another value would send what is on its way and what comes after it to different queues.
    const CHOSEN: [u32; 4] = [90, 31, 59, 93];

    #[test]
    fn a_shard_is_named_after_its_queue() {
        let queue = Queue::new("bills").shards(3);
        for shard in queue.each_shard() {
            assert_eq!(undivided(shard.name()), "bills");
            assert_eq!(shard.dead_letter_name(), "bills.dead");
        }
        for name in [
            "bills.shard-",
            "bills.shard-a",
            "shard-1",
            "bills.shard-1.x",
        ] {
            assert_eq!(undivided(name), name);
        }
        assert_eq!(Queue::new("bills").shard_of("any").name(), "bills");
    }
}
