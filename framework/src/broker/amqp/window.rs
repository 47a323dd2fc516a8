//! The publishes in flight on one confirm channel, each with its verdict once that is certain.
//!
//! lapin hands a returned message to whichever confirm completes next, so it may arrive with another
//! message's confirm: never later than its own, though. Hence every confirm that is ready is taken before
//! any verdict is given, and returns are remembered by message id until their own confirm comes.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};

use super::joins;
use super::live::Trouble;
use super::publish::Ticket;
use super::wire;

/// Publishes in flight at a time. lapin scans all of them for each confirm that covers many.
const WINDOW: usize = 512;

type InFlight = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// What became of one publish.
#[derive(Debug)]
pub(super) enum Fate {
    /// The broker has it.
    Stored,
    /// No queue takes it.
    Returned,
    /// The broker refused to store it.
    Nacked,
    /// The channel ended first.
    Lost(Trouble),
}

/// Indices of the slots whose future was woken.
#[derive(Default)]
struct Woken(Mutex<(Vec<usize>, Option<Waker>)>);

struct SlotWaker {
    index: usize,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        woken.0.push(self.index);
        let task = woken.1.take();
        drop(woken);
        if let Some(task) = task {
            task.wake();
        }
    }
}

struct Slot {
    waker: Waker,
    entry: Option<Entry>,
}

struct Entry {
    /// Gone once it has finished: it must not be polled again.
    future: Option<InFlight>,
    ticket: Ticket,
    id: String,
}

/// The publishes in flight.
pub(super) struct Window {
    slots: Vec<Slot>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    scratch: Vec<usize>,
    finished: Vec<(usize, lapin::Result<Confirmation>)>,
    ids: HashSet<String>,
    returned: HashSet<String>,
    next_number: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        let woken = Arc::new(Woken::default());
        let slot = |index| Slot {
            waker: Waker::from(Arc::new(SlotWaker {
                index,
                woken: woken.clone(),
            })),
            entry: None,
        };
        Self {
            slots: (0..WINDOW).map(slot).collect(),
            free: (0..WINDOW).rev().collect(),
            woken,
            scratch: Vec::new(),
            finished: Vec::new(),
            ids: HashSet::new(),
            returned: HashSet::new(),
            next_number: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Publishes on `channel`, on which nobody else may publish: lapin numbers a message and queues its
    /// frames under two locks.
    pub(super) fn start(&mut self, channel: &Channel, ticket: Ticket) {
        let Some(index) = self.free.pop() else { return };
        let request = ticket.request.clone();
        let id = self.unique_id(request.properties.message_id());
        let mut properties = joins::name_copy(&request.properties);
        if properties
            .message_id()
            .as_ref()
            .is_none_or(|own| own.as_str() != id)
        {
            properties = properties.with_message_id(wire::own(&id));
        }
        let channel = channel.clone();
        let mut future: InFlight = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let (exchange, key) = (request.exchange.clone(), request.routing_key.clone());
            channel
                .basic_publish(exchange, key, options, &request.body, properties)
                .await?
                .await
        });
        let slot = &mut self.slots[index];
        // The first poll numbers the message and queues its frames, in the order of calls.
        let polled = future.as_mut().poll(&mut Context::from_waker(&slot.waker));
        self.ids.insert(id.clone());
        slot.entry = Some(Entry {
            future: polled.is_pending().then_some(future),
            ticket,
            id,
        });
        if let Poll::Ready(result) = polled {
            self.finished.push((index, result));
        }
    }

    /// Returned messages are recognised by their id, which therefore no two in flight may share.
    fn unique_id(&mut self, id: &Option<ShortString>) -> String {
        let id = id.as_ref().map_or("", ShortString::as_str);
        if !id.is_empty() && !self.ids.contains(id) {
            return id.to_owned();
        }
        self.next_number += 1;
        wire::numbered_id(id, self.next_number)
    }

    /// The publishes whose fate is certain.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Vec<(Ticket, Fate)>> {
        self.poll_woken(cx);
        if self.finished.is_empty() {
            return Poll::Pending;
        }
        for (_, result) in &self.finished {
            if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = result
                && let Some(id) = message.properties.message_id()
            {
                self.returned.insert(id.as_str().to_owned());
            }
        }
        let finished = std::mem::take(&mut self.finished);
        let settled = finished
            .into_iter()
            .filter_map(|(index, result)| self.settle(index, result))
            .collect();
        Poll::Ready(settled)
    }

    /// Polls what was woken until nothing more is.
    ///
    /// A confirm wakes its slot before lapin completes the next one, so the loop ends only when all that
    /// came before a ready confirm has been taken.
    fn poll_woken(&mut self, cx: &Context<'_>) {
        loop {
            {
                let mut woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut woken.0, &mut self.scratch);
                if self.scratch.is_empty() {
                    woken.1 = Some(cx.waker().clone());
                    return;
                }
            }
            for index in self.scratch.drain(..) {
                let slot = &mut self.slots[index];
                let Some(entry) = &mut slot.entry else {
                    continue;
                };
                let Some(future) = &mut entry.future else {
                    continue;
                };
                let polled = future.as_mut().poll(&mut Context::from_waker(&slot.waker));
                if let Poll::Ready(result) = polled {
                    entry.future = None;
                    self.finished.push((index, result));
                }
            }
        }
    }

    fn settle(
        &mut self,
        index: usize,
        result: lapin::Result<Confirmation>,
    ) -> Option<(Ticket, Fate)> {
        let Entry { ticket, id, .. } = self.slots[index].entry.take()?;
        self.free.push(index);
        self.ids.remove(&id);
        let returned = self.returned.remove(&id);
        let fate = match result {
            Err(error) => Fate::Lost(Trouble::from(error)),
            Ok(_) if returned => Fate::Returned,
            Ok(Confirmation::Ack(_)) => Fate::Stored,
            Ok(Confirmation::Nack(_)) => Fate::Nacked,
            Ok(Confirmation::NotRequested) => {
                Fate::Lost(Trouble::new("the channel gives no confirms"))
            }
        };
        Some((ticket, fate))
    }

    /// Ends the window with its channel: what is still in flight comes back.
    pub(super) fn abandon(&mut self) -> Vec<Ticket> {
        self.finished.clear();
        self.returned.clear();
        self.ids.clear();
        let mut tickets = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(entry) = slot.entry.take() {
                self.free.push(index);
                tickets.push(entry.ticket);
            }
        }
        tickets
    }

    /// All that is in flight.
    pub(super) fn tickets(&mut self) -> impl Iterator<Item = &mut Ticket> {
        let slots = self.slots.iter_mut();
        slots.filter_map(|slot| Some(&mut slot.entry.as_mut()?.ticket))
    }
}
