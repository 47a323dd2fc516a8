//! How the writer thread notices what it was not asked for: other processes' messages, their deaths, and
//! its own mistaken for one. Only reads, and leaves the work to the next transaction.

use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::command::{Job, Request};
use super::engine::{Engine, PRUNE_PERIOD, ReplyQueue, new_id};
use super::fault::Fault;
use super::outgoing::millis;
use super::process;
use super::store;

impl Engine {
    /// What is done now and then: whether other processes died or committed something.
    pub(super) fn tick(&mut self, jobs: &mut Vec<Job>) {
        if self.file.is_displaced() {
            if !self.members.consumers.is_empty() {
                self.cannot_claim(&Fault::displaced(&self.path));
            }
            return;
        }
        match process::processes(&self.db) {
            Ok(processes) => {
                self.turn.others = processes.len() > 1;
                if !processes.contains(&self.me.id) {
                    self.rejoin(jobs);
                }
                let others = others(processes, self.me.id);
                let dead = self.locks.look_after(&others, self.ticks);
                jobs.extend(dead.map(|dead| Job::silent(Request::Rescue(dead))));
                self.ticks = self.ticks.wrapping_add(1);
            }
            Err(error) => self.complain("looking for dead processes", &error),
        }
        if let Some(replies) = self.replies.take_if(|replies| replies.messages.is_closed()) {
            // Nobody reads them any more, so nobody is to store more of them.
            jobs.push(Job::silent(Request::Delete(replies.address)));
        }
        self.tend_audience(jobs);
        if Instant::now() >= self.next_prune {
            self.next_prune = Instant::now() + PRUNE_PERIOD;
            jobs.push(Job::silent(Request::Prune));
        }
        let version = self
            .db
            .pragma_query_value(None, "data_version", |row| row.get(0));
        match version {
            Ok(version) if version == self.data_version => self.turn.rivals = false,
            Ok(version) => {
                self.turn.rivals = true;
                self.data_version = version;
                self.look();
                self.hear();
            }
            Err(error) => self.complain("looking for news", &error),
        }
    }

    /// Our row is gone: someone removed our lock file, or put an older file in the database's place. What
    /// we hold has been given to others.
    fn rejoin(&mut self, jobs: &mut Vec<Job>) {
        let id = new_id();
        match self.locks.enter(id) {
            Ok(lock) => {
                tracing::warn!(path = %self.path.display(), "this process was taken for dead: it joins again");
                self.lock = lock;
                self.me.id = id;
                self.ended.send_replace(true);
                self.ended = watch::channel(false).0;
                self.members.void();
                jobs.push(Job::silent(Request::Rejoin));
                if let Some(ReplyQueue {
                    address, messages, ..
                }) = &self.replies
                {
                    let (address, messages) = (address.clone(), messages.clone());
                    jobs.push(Job::silent(Request::Replies { address, messages }));
                }
            }
            Err(error) => {
                tracing::error!(%error, "this process's lock is gone and cannot be made again")
            }
        }
    }

    /// Looks, without the write lock, whether there is something to claim.
    pub(super) fn look(&mut self) {
        if let Err(error) = self.try_look() {
            self.complain("looking for messages", &error);
        }
    }

    fn try_look(&mut self) -> rusqlite::Result<()> {
        let now = millis(SystemTime::now());
        for member in self.members.consumers.values_mut() {
            member.disturbed |= member.free() == 0;
            if member.free() > 0 && !member.check {
                let queue = member.queue.name();
                member.next_due = store::next_due(&self.db, queue)?;
                let due = member.next_due.is_some_and(|due| due <= now);
                member.check = due || store::has_ready(&self.db, queue)?;
            }
        }
        if let Some(replies) = &mut self.replies {
            replies.waiting = store::has_ready(&self.db, &replies.address)?;
        }
        if !self.cancellations.is_empty() {
            self.cancelled_waiting =
                !store::cancelled(&self.db, self.cancelled_seen, 1)?.is_empty();
        }
        Ok(())
    }
}

/// The other processes, from the one with the next higher number on, and then from the lowest.
fn others(mut processes: Vec<i64>, me: i64) -> Vec<i64> {
    processes.sort_unstable();
    let next = processes.partition_point(|id| *id <= me);
    processes.rotate_left(next);
    processes.retain(|id| *id != me);
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_is_next_to_another() {
        assert_eq!(others(vec![5, -7, 9, 2], 2), [5, 9, -7]);
        assert_eq!(others(vec![5, -7, 9, 2], 9), [-7, 2, 5]);
        assert!(others(vec![5], 5).is_empty());
        assert_eq!(others(vec![5, 9], 7), [9, 5], "its own row may be gone");
    }
}
