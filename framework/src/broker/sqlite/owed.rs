//! What a transaction could not do and has to be done all the same: settlements, deliveries given back, and the ends of
//! consumers and leases are tried again for as long as this process may settle at all. Slots stay taken, so that there
//! are never many.

use std::time::{Duration, Instant};

use super::command::{Answer, Job, Request};
use crate::error::Error;

/// How long they wait until they are tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Jobs to be tried again, in a transaction of their own: what makes them fail is not to make others fail.
#[derive(Default)]
pub(super) struct Owed {
    jobs: Vec<Job>,
    again: Option<Instant>,
}

impl Owed {
    /// Whether there is nothing to be tried again.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    fn owes_deliveries(&self) -> bool {
        let of_delivery =
            |job: &Job| matches!(job.request, Request::Settle { .. } | Request::Release(_));
        self.jobs.iter().any(of_delivery)
    }

    /// When they are to be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Takes all of them, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<Job> {
        self.again = None;
        std::mem::take(&mut self.jobs)
    }

    fn keep(&mut self, job: Job) {
        self.again.get_or_insert_with(|| Instant::now() + PAUSE);
        self.jobs.push(job);
    }

    /// Answers a job that was tried, unless it is to be tried again.
    pub(super) fn conclude(&mut self, mut job: Job, answer: Answer) {
        let passes =
            |error: &Error| matches!(error, Error::Blocked { .. } | Error::Unavailable { .. });
        match (&job.request, &answer) {
            (Request::Settle { .. }, Err(error)) if passes(error) => {
                if self.is_empty() {
                    tracing::warn!("what is done cannot be settled, and is tried again: {error}");
                }
                self.keep(job);
            }
            // It is another's now.
            (Request::Settle { .. }, Err(Error::Stale { .. })) => job.answer(answer),
            (Request::Settle { claim, .. }, Err(error)) if !job.is_attended() => {
                tracing::error!("not settled, so it is delivered again: {error}");
                job.request = Request::Release(*claim);
                self.keep(job);
            }
            (Request::Release(claim), Err(_)) => {
                self.keep(Job::silent(Request::Release(*claim)));
                job.answer(answer);
            }
            (Request::FreeLease { name, holder }, Err(_)) => {
                let (name, holder) = (name.clone(), *holder);
                self.keep(Job::silent(Request::FreeLease { name, holder }));
                job.answer(answer);
            }
            (Request::Unsubscribe(number), Err(_)) => {
                self.keep(Job::silent(Request::Unsubscribe(*number)));
                job.answer(answer);
            }
            (Request::Flush, _) if self.owes_deliveries() => self.keep(job),
            _ => job.answer(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::command::{Claim, Command, Handle};

    const CLAIM: Claim = Claim { seq: 1, number: 1 };

    fn settle() -> Request {
        Request::Settle {
            claim: CLAIM,
            queue: "q".into(),
            first: Vec::new(),
        }
    }

    fn full() -> Error {
        Error::Blocked {
            route: "q".into(),
            reason: "full".into(),
            waited: crate::SECOND,
        }
    }

    fn left(request: Request, error: Error) -> Vec<Request> {
        let mut owed = Owed::default();
        owed.conclude(Job::silent(request), Err(error));
        owed.take().into_iter().map(|job| job.request).collect()
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_cannot_be_settled_goes_back() {
        assert!(matches!(
            left(settle(), full())[..],
            [Request::Settle { .. }]
        ));
        let stale = Error::Stale { queue: "q".into() };
        assert!(left(settle(), stale).is_empty());
        let damaged = Error::broker("settling", "damaged");
        assert!(matches!(
            left(settle(), damaged)[..],
            [Request::Release(CLAIM)]
        ));
        assert!(matches!(
            left(Request::Release(CLAIM), full())[..],
            [Request::Release(CLAIM)]
        ));
        let lease = Request::FreeLease {
            name: "scheduler".into(),
            holder: 7,
        };
        assert!(matches!(
            left(lease, full())[..],
            [Request::FreeLease { holder: 7, .. }]
        ));
        assert!(matches!(
            left(Request::Unsubscribe(3), full())[..],
            [Request::Unsubscribe(3)]
        ));
        assert!(left(Request::Prune, full()).is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_is_told_what_does_not_pass() {
        let (handle, inbox) = Handle::new();
        let mut owed = Owed::default();
        let tell = async {
            let Ok(Command::Do(job)) = inbox.try_recv() else {
                panic!("asked");
            };
            owed.conclude(job, Err(Error::broker("settling", "damaged")));
        };
        let (told, ()) = tokio::join!(handle.call(settle()), tell);
        assert!(matches!(told, Err(Error::Broker { .. })), "{told:?}");
        assert!(owed.is_empty());
    }
}
