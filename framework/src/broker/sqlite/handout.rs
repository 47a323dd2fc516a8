//! What follows a committed transaction: memory is brought up to it, deliveries and answers go out, other
//! processes are woken. Touches no database.

use super::audience::Ear;
use super::carry_out::Outcome;
use super::command::{Job, Request};
use super::consume::Member;
use super::engine::{Engine, ReplyQueue};
use super::harvest::Harvest;
use crate::broker::Stale;

impl Engine {
    /// The transaction is committed: brings memory up to it, and tells all whom it concerns.
    pub(super) fn hand_out(&mut self, jobs: Vec<Job>, outcome: Outcome) {
        for seq in outcome.done {
            self.members.settled(seq);
        }
        match outcome.harvest {
            Some(harvest) => self.distribute(harvest),
            // Whatever it has left is to be looked for.
            None => {
                for member in self.members.consumers.values_mut() {
                    member.check = true;
                }
                if let Some(replies) = &mut self.replies {
                    replies.waiting = true;
                }
                self.cancelled_waiting = !self.cancellations.is_empty();
            }
        }
        for port in outcome.ports {
            self.waker.wake(port);
        }
        for (mut job, answer) in jobs.into_iter().zip(outcome.answers) {
            let is_concluded = match job.request {
                Request::Publish(_)
                | Request::Settle { .. }
                | Request::Release(_)
                | Request::Flush => true,
                Request::FreeLease { .. } | Request::Unsubscribe(_) => answer.is_err(),
                _ => false,
            };
            if is_concluded {
                self.owed.conclude(job, answer);
                continue;
            }
            let request = std::mem::replace(&mut job.request, Request::Prune);
            let took = answer.as_ref().is_ok_and(|taken| !taken.is_empty());
            match request {
                Request::TakeLease { granted, .. } if took => {
                    // Whoever gave up frees it with a later request.
                    let _ = granted.send(Stale::new(self.ended.subscribe()));
                }
                request => self.note(request, answer.is_ok(), outcome.cancelled_until),
            }
            job.answer(answer);
        }
        if self.members.audience.news {
            self.hear();
        }
    }

    /// Hands out what was claimed.
    fn distribute(&mut self, harvest: Harvest) {
        for (number, hungry, due) in harvest.appetites {
            if let Some(member) = self.members.consumers.get_mut(&number) {
                (member.hungry, member.next_due, member.check) = (hungry, due, false);
                member.disturbed = false;
            }
        }
        let stale = Stale::new(self.ended.subscribe());
        for (number, taken) in harvest.deliveries {
            self.members.deliver(number, taken, &self.handle, &stale);
        }
        if let Some(replies) = &mut self.replies {
            replies.waiting = harvest.replies_left;
            for message in harvest.replies {
                let _ = replies.messages.try_send(message);
            }
        }
        self.cancelled_waiting = harvest.cancelled_left;
        for (seq, id) in harvest.cancelled {
            self.cancelled_seen = self.cancelled_seen.max(seq);
            for sender in &self.cancellations {
                let _ = sender.try_send(id.clone());
            }
        }
        self.cancellations.retain(|sender| !sender.is_closed());
    }

    /// Notes in memory what a committed request changed.
    fn note(&mut self, request: Request, succeeded: bool, cancelled_until: i64) {
        match request {
            Request::Subscribe {
                number,
                queue,
                slots,
                deliveries,
            } if succeeded => {
                let member = Member::new(queue, slots, deliveries);
                self.members.consumers.insert(number, member);
            }
            Request::Unsubscribe(number) => {
                self.members.consumers.remove(&number);
            }
            Request::Allow { number, slots } => {
                if let Some(member) = self.members.consumers.get_mut(&number) {
                    member.slots = slots;
                    member.check = true;
                }
            }
            Request::Replies { address, messages } if succeeded => {
                self.replies = Some(ReplyQueue {
                    address,
                    messages,
                    waiting: false,
                });
            }
            Request::Cancellations(sender) if succeeded => {
                if self.cancellations.is_empty() {
                    self.cancelled_seen = cancelled_until;
                }
                self.cancellations.push(sender);
            }
            Request::Listen {
                number,
                channel,
                name,
                sender,
            } if succeeded => {
                let ear = Ear {
                    channel,
                    name,
                    sender,
                };
                self.listens(number, ear);
                self.members.audience.news = true;
            }
            Request::Unlisten(number) => {
                self.members.audience.ears.remove(&number);
                self.members.audience.news = true;
            }
            Request::Announce { .. } => self.members.audience.news = true,
            Request::Rescue(dead) if succeeded => dead.bury(),
            _ => {}
        }
    }
}
