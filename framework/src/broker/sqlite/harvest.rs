//! What a transaction takes for its process before it ends: deliveries for consumers with free slots, replies,
//! news of cancellations.

use std::collections::HashMap;

use super::batch::Batch;
use super::fault::Failed;
use super::process;
use super::store::{self, Packed, Taken};

/// What this process could take at the moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Appetite {
    /// Its reply queue, how many replies there is room for, and whether some are known to wait.
    pub(super) replies: Option<(String, usize, bool)>,
    /// The last cancellation seen and how many there is room for.
    pub(super) cancellations: Option<(i64, usize)>,
}

/// What a transaction took for this process; to be handed out once it is committed.
#[derive(Default)]
pub(super) struct Harvest {
    pub(super) deliveries: Vec<(u64, Vec<Taken>)>,
    /// For each consumer that was looked after: whether it is hungry now and when to look again.
    pub(super) appetites: Vec<(u64, bool, Option<i64>)>,
    pub(super) replies: Vec<Packed>,
    /// Whether replies may wait that there was no room for.
    pub(super) replies_left: bool,
    pub(super) cancelled: Vec<(i64, String)>,
    /// Whether cancelled ids may wait that there was no room for.
    pub(super) cancelled_left: bool,
}

impl Batch<'_> {
    /// How many deliveries of each consumer this batch ended.
    fn freed(&self) -> HashMap<u64, usize> {
        let mut freed = HashMap::new();
        for consumer in self.done.values() {
            *freed.entry(*consumer).or_default() += 1;
        }
        freed
    }

    /// Takes what this process has room for.
    pub(super) fn harvest(&mut self, appetite: &Appetite) -> Result<Harvest, Failed> {
        let mut harvest = Harvest::default();
        let freed = self.freed();
        for (number, member) in &self.members.consumers {
            let freed = freed.get(number).copied().unwrap_or(0);
            let free = member.free_without(freed);
            let news = member.check || freed > 0 || self.touched.contains(member.queue.name());
            if free == 0 || !news || self.leaving.contains(number) {
                continue;
            }
            let queue = member.queue.name();
            let mut due = store::next_due(self.db, queue)?;
            if due.is_some_and(|due| due <= self.now) {
                store::promote(self.db, queue, self.now)?;
                due = store::next_due(self.db, queue)?;
            }
            let taken = store::claim(self.db, self.me.id, queue, free)?;
            // Noted in the transaction that found too little: who publishes later, sees it.
            let hungry = taken.len() < free || (member.hungry && !member.disturbed);
            if hungry != member.hungry {
                process::set_hungry(self.db, self.me.id, *number, hungry)?;
            }
            harvest.appetites.push((*number, hungry, due));
            if !taken.is_empty() {
                harvest.deliveries.push((*number, taken));
            }
        }
        if let Some((address, room, waiting)) = &appetite.replies
            && (*waiting || self.touched.contains(address))
        {
            harvest.replies = store::take_replies(self.db, address, *room)?;
            harvest.replies_left = harvest.replies.len() == *room;
        }
        if let Some((seen, room)) = appetite.cancellations {
            harvest.cancelled = store::cancelled(self.db, seen, room)?;
            harvest.cancelled_left = harvest.cancelled.len() == room;
        }
        Ok(harvest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::batch::{Guard, Identity};
    use crate::broker::sqlite::consume::Members;
    use crate::broker::sqlite::schema;

    #[test]
    fn what_was_settled_is_counted_once_for_all_consumers() {
        let (db, members) = (schema::in_memory(), Members::default());
        let me = Identity { id: 1, port: 0 };
        let mut batch = Batch::new(&db, me, 0, &members, Guard::Rollback);
        batch.done.extend([(10, 1), (11, 2), (12, 1)]);
        assert_eq!(batch.freed(), HashMap::from([(1, 2), (2, 1)]));
    }
}
