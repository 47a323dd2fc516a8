//! Joins in memory: part of the state, so that a part, its join's firing and the settlement that it belongs
//! to are one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::state::State;
use crate::broker::join::{KEPT, note_missing, part_key};
use crate::broker::{Join, Publish, Queue};
use crate::error::{Error, Result};
use crate::message::Message;

/// How often joins that nobody uses any more are looked for.
const PRUNE_PERIOD: Duration = Duration::from_secs(3600);

/// The open joins.
#[derive(Debug, Default)]
pub(super) struct Joins {
    by_name: BTreeMap<String, MemoryJoin>,
    next_prune: Option<Instant>,
}

#[derive(Debug)]
struct MemoryJoin {
    wanted: u32,
    /// Where the body goes.
    queue: String,
    /// `None` once it has been published.
    body: Option<Publish>,
    parts: BTreeMap<String, Message>,
    used: Instant,
}

impl Joins {
    /// The join, if it is there: it is kept from now on again.
    fn get(&mut self, name: &str, now: Instant) -> Option<&mut MemoryJoin> {
        let found = self.by_name.get_mut(name)?;
        if now.duration_since(found.used) >= KEPT {
            self.by_name.remove(name);
            return None;
        }
        let found = self.by_name.get_mut(name)?;
        found.used = now;
        Some(found)
    }

    fn prune(&mut self, now: Instant) {
        if self.next_prune.is_none_or(|next| next <= now) {
            self.next_prune = Some(now + PRUNE_PERIOD);
            self.by_name
                .retain(|_, join| now.duration_since(join.used) < KEPT);
        }
    }
}

impl State {
    pub(super) fn open_join(&mut self, join: Join, now: Instant) -> Result<()> {
        let queue = join.queue()?.to_owned();
        if !self.queues.contains_key(&queue) {
            return Err(Error::Unroutable {
                route: join.body.route.to_string(),
            });
        }
        self.joins.prune(now);
        if self.joins.get(&join.name, now).is_none() {
            let opened = MemoryJoin {
                wanted: join.parts,
                queue,
                body: Some(join.body),
                parts: BTreeMap::new(),
                used: now,
            };
            self.joins.by_name.insert(join.name, opened);
        }
        Ok(())
    }

    /// Keeps a part, unless there is no such join or it has this part.
    pub(super) fn put_part(&mut self, join: &str, part: Message, now: Instant) {
        if let Some(join) = self.joins.get(join, now) {
            let key = part_key(&part).to_owned();
            join.parts.entry(key).or_insert(part);
        } else {
            note_missing(join);
        }
    }

    /// Publishes the body of a join that is complete.
    pub(super) fn check_join(
        &mut self,
        name: &str,
        parts: u32,
        fire: bool,
        now: Instant,
    ) -> Result<()> {
        let Some(join) = self.joins.get(name, now) else {
            return Ok(());
        };
        if !fire && join.parts.len() < join.wanted.max(parts) as usize {
            return Ok(());
        }
        if let Some(body) = join.body.take() {
            let queue = Queue::new(&join.queue);
            if !self.queues.contains_key(queue.name()) {
                self.declare(&queue)?;
            }
            self.store(body, &[queue.name].into(), now)?;
        }
        Ok(())
    }

    pub(super) fn parts(&mut self, join: &str, most: usize, now: Instant) -> Option<Vec<Message>> {
        let join = self.joins.get(join, now)?;
        let (mut parts, mut size) = (Vec::new(), 0_usize);
        for part in join.parts.values() {
            if size > most {
                break;
            }
            size = size.saturating_add(part.body.len());
            parts.push(part.clone());
        }
        Some(parts)
    }

    pub(super) fn close_join(&mut self, join: &str) {
        self.joins.by_name.remove(join);
    }
}
