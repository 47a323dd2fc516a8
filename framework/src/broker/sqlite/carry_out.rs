//! Carries out what came together in one transaction, and answers who asked for it.

use std::time::{Instant, SystemTime};

use super::batch::{Batch, Guard};
use super::command::{Answer, Job};
use super::engine::{CLAIM_PAUSE, Engine};
use super::fault::{Failed, Fault};
use super::harvest::{Appetite, Harvest};
use super::outgoing::millis;
use super::transaction::WriteTransaction;

/// What a committed transaction leaves to be done.
pub(super) struct Outcome {
    pub(super) answers: Vec<Answer>,
    pub(super) done: Vec<i64>,
    pub(super) harvest: Option<Harvest>,
    pub(super) ports: Vec<u16>,
    pub(super) cancelled_until: i64,
}

impl Engine {
    /// Carries out `jobs` and answers them.
    pub(super) fn carry_out(&mut self, jobs: Vec<Job>, harvest: bool) {
        self.cramped = self.cramped && !self.make_room();
        match self.transact_in_place(&jobs, harvest) {
            Ok(outcome) => {
                if harvest && outcome.harvest.is_none() {
                    self.claim_again = Instant::now() + CLAIM_PAUSE;
                }
                self.hand_out(jobs, outcome);
            }
            Err(fault) => {
                if harvest {
                    self.claim_again = Instant::now() + CLAIM_PAUSE;
                }
                self.cramped |= fault.is_full();
                // What deletes may succeed though what stores cannot; and one at a time, each of those
                // that store learns its own fate.
                if fault.is_full() && jobs.len() > 1 {
                    for job in jobs {
                        self.carry_out(vec![job], false);
                    }
                    return;
                }
                if jobs.is_empty() {
                    self.cannot_claim(&fault);
                }
                for job in jobs {
                    let error = fault.error(job.request.what());
                    self.owed.conclude(job, Err(error));
                }
            }
        }
    }

    /// Copies the log into the file, whether wholly: the log then begins anew. On a full disk it must not
    /// wait until the log has its usual length, which it cannot reach.
    fn make_room(&self) -> bool {
        let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
        let done = self.db.query_row(checkpoint, [], |row| {
            Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
        });
        done.unwrap_or(false)
    }

    /// Says that nothing can be claimed; ends the consumers where that will not pass.
    pub(super) fn cannot_claim(&mut self, fault: &Fault) {
        tracing::error!("claiming deliveries: {}", fault.reason());
        if fault.is_lasting() {
            self.members
                .fail(|queue| fault.error(format!("consuming queue `{}`", queue.name())));
        }
    }

    /// Carries out a transaction on the file that is at its path, and on no other.
    fn transact_in_place(&mut self, jobs: &[Job], harvest: bool) -> Result<Outcome, Fault> {
        if self.file.is_displaced() {
            return Err(Fault::displaced(&self.path));
        }
        let prepared = self.syncing.prepare(&self.db, jobs);
        let outcome = prepared.and_then(|()| self.transact(jobs, harvest, Guard::Rollback));
        let mut outcome = outcome.map_err(|error| Fault::new(&self.path, &error))?;
        self.syncing.committed(jobs, Instant::now());
        if self.file.is_displaced() {
            for (answer, job) in outcome.answers.iter_mut().zip(jobs) {
                *answer = Err(Fault::displaced(&self.path).error(job.request.what()));
            }
        }
        Ok(outcome)
    }

    /// Carries out `jobs`, and claims where a `harvest` is wanted; all of it again with savepoints, where one request
    /// has spoiled it for the others.
    fn transact(&self, jobs: &[Job], harvest: bool, guard: Guard) -> rusqlite::Result<Outcome> {
        let tx = WriteTransaction::begin(&self.db)?;
        let now = millis(SystemTime::now());
        let mut batch = Batch::new(&self.db, self.me, now, &self.members, guard);
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(match batch.apply(&job.request) {
                Ok(answer) => Ok(answer),
                Err(Failed::Said(error)) => Err(error),
                Err(Failed::Sql(error)) if self.db.is_autocommit() => return Err(error),
                Err(Failed::Sql(error)) => {
                    Err(Fault::new(&self.path, &error).error(job.request.what()))
                }
            });
            if batch.is_spoiled {
                break;
            }
        }
        let harvested = match harvest && !batch.is_spoiled {
            true => self.harvest(&mut batch)?,
            false => None,
        };
        if batch.is_spoiled {
            drop(tx);
            return self.transact(jobs, harvest, Guard::Savepoint);
        }
        let ports = batch.ports()?.into_iter().collect();
        tx.commit()?;
        Ok(Outcome {
            answers,
            harvest: harvested,
            ports,
            cancelled_until: batch.cancelled_until,
            done: batch.into_done().collect(),
        })
    }

    /// Claims within the transaction; `None` if that failed and left the requests' work as it was, or if this process has
    /// to join again first.
    fn harvest(&self, batch: &mut Batch<'_>) -> rusqlite::Result<Option<Harvest>> {
        if !batch.takes_part()? {
            return Ok(None);
        }
        let appetite = Appetite {
            replies: self.replies.as_ref().map(|replies| {
                let room = replies.messages.capacity();
                (replies.address.clone(), room, replies.waiting)
            }),
            cancellations: (!self.cancellations.is_empty())
                .then(|| (self.cancelled_seen, self.cancel_room())),
        };
        match batch.guarded(|batch| batch.harvest(&appetite)) {
            Ok(harvest) => Ok(Some(harvest)),
            Err(Failed::Sql(error))
                if self.db.is_autocommit() || Fault::new(&self.path, &error).is_lasting() =>
            {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(?error, "claiming deliveries");
                Ok(None)
            }
        }
    }
}
