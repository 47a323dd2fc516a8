//! Ids of calls: random UUIDs, whose randomness is taken from the operating system for many at a time. To ask it for
//! each is a system call, up to a tenth of what it costs to send a call.

use std::cell::RefCell;

use uuid::{Builder, Uuid};

/// Bytes of an id.
const ID: usize = size_of::<uuid::Bytes>();

/// Random bytes that are not used yet.
struct Pool {
    bytes: [u8; 64 * ID],
    left: usize,
    /// The process that they were taken by: one that it forks must not use the same.
    process: u32,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { bytes: [0; 64 * ID], left: 0, process: 0 })
    };
}

/// A new call's id.
pub(crate) fn new_id() -> String {
    let id = POOL.with_borrow_mut(Pool::take);
    // Where the system has no randomness for us, the library says so.
    id.unwrap_or_else(Uuid::new_v4).to_string()
}

impl Pool {
    fn take(&mut self) -> Option<Uuid> {
        let process = std::process::id();
        if self.left == 0 || self.process != process {
            getrandom::fill(&mut self.bytes).ok()?;
            (self.left, self.process) = (self.bytes.len() / ID, process);
        }
        self.left -= 1;
        let (bytes, _) = self.bytes[self.left * ID..].split_first_chunk::<ID>()?;
        Some(Builder::from_random_bytes(*bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_is_given_twice() {
        let some = || (0..1000).map(|_| new_id()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(some)).collect();
        let ids: Vec<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("ends"))
            .collect();
        assert!(ids.iter().all(|id| {
            Uuid::parse_str(id).is_ok_and(|id| id.get_version() == Some(uuid::Version::Random))
        }));
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn a_forked_process_takes_others() {
        let mut ours = Pool {
            bytes: [0; 64 * ID],
            left: 0,
            process: 0,
        };
        ours.take().expect("random");
        let (bytes, left) = (ours.bytes, ours.left);
        let mut forked = Pool {
            bytes,
            left,
            process: ours.process.wrapping_add(1),
        };
        assert_ne!(forked.take(), ours.take());
    }
}
