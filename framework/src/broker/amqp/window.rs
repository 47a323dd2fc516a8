//! The publishes in flight on one confirm channel, each with its verdict once that is certain.
//!
//! lapin hands a returned message to whichever confirm completes next, so it may arrive with another
//! message's confirm: never later than its own, though. Hence every confirm that is ready is taken before
//! any verdict is given, and returns are remembered by message id until their own confirm comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use lapin::types::ShortString;
use lapin::{Channel, Confirmation};

use super::flight::{Flight, Outcome, flight};
use super::handled::Listener;
use super::ids::{IdHash, Ids};
use super::joins;
use super::live::{Live, Trouble};
use super::publish::Ticket;
use super::wire;

/// Publishes in flight at a time. lapin scans all of them for each confirm that covers many.
const WINDOW: usize = 512;
/// How long who was woken may take to look at what became of the others' messages, too.
const PATIENCE: Duration = Duration::from_millis(1);

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

/// What was woken, and who is to hear of it. Whoever holds the lock calls nothing: lapin wakes with locks of its own
/// held.
struct Woken(Mutex<News>);

struct News {
    /// Indices of the slots whose future was woken.
    slots: Vec<usize>,
    /// Who sends the message of each slot.
    senders: Vec<Option<Waker>>,
    /// Whether the message of each slot is written, as far as is known.
    written: Vec<bool>,
    /// Woken where there is no sender.
    other: Option<Waker>,
    /// Since when somebody is to look at what was woken.
    asked: Option<Instant>,
}

impl Woken {
    fn news(&self) -> MutexGuard<'_, News> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    /// Who sends the message of this slot, or whoever else looks: to be woken.
    fn waker(&mut self, slot: usize) -> Option<Waker> {
        let sender = self.senders.get(slot).cloned().flatten();
        let waker = sender.or_else(|| self.other.take());
        if waker.is_some() {
            self.asked.get_or_insert_with(Instant::now);
        }
        waker
    }
}

/// It may be seen now what became of those whose senders were not woken.
impl Listener for Woken {
    fn handled(&self) {
        let mut news = self.news();
        let count = match news.asked {
            // One of them looks at all.
            None => news.slots.len().min(1),
            Some(since) if since.elapsed() < PATIENCE => 0,
            // It does not get to it.
            Some(_) => news.slots.len(),
        };
        let wakers = (0..count).filter_map(|place| {
            let slot = news.slots.get(place).copied()?;
            news.waker(slot)
        });
        let wakers: Vec<_> = wakers.collect();
        drop(news);
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct SlotWaker {
    index: usize,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut news = self.woken.news();
        let Some(written) = news.written.get_mut(self.index) else {
            return;
        };
        // That it is written is no news to its sender, nor is it that it never will be: that comes with the connection's
        // end, or the server's complaint, or the actor looks. Where this was the confirm, since it was written at once,
        // `handled` tells.
        let is_confirm = std::mem::replace(written, true);
        news.slots.push(self.index);
        let waker = match is_confirm {
            true => news.waker(self.index),
            false => None,
        };
        drop(news);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Slot {
    waker: Waker,
    entry: Option<Entry>,
    /// Made when the slot is used first.
    flight: Option<Box<dyn Flight>>,
}

struct Entry {
    ticket: Ticket,
    id: IdHash,
}

/// The publishes in flight.
pub(super) struct Window {
    slots: Vec<Slot>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    scratch: Vec<usize>,
    finished: Vec<(usize, Outcome)>,
    ids: Ids,
}

impl Window {
    pub(super) fn new() -> Self {
        let woken = Arc::new(Woken(Mutex::new(News {
            slots: Vec::new(),
            senders: vec![None; WINDOW],
            written: vec![false; WINDOW],
            other: None,
            asked: None,
        })));
        let slot = |index| Slot {
            waker: Waker::from(Arc::new(SlotWaker {
                index,
                woken: woken.clone(),
            })),
            entry: None,
            flight: None,
        };
        Self {
            slots: (0..WINDOW).map(slot).collect(),
            free: (0..WINDOW).rev().collect(),
            woken,
            scratch: Vec::new(),
            finished: Vec::new(),
            ids: Ids::default(),
        }
    }

    /// Publishes go over this connection from now on.
    pub(super) fn follow(&self, live: &Live) {
        live.handled.tell(self.woken.clone());
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Publishes on `channel`, on which nobody else may publish: lapin numbers a message and queues its
    /// frames under two locks.
    pub(super) fn start(&mut self, channel: &Arc<Channel>, mut ticket: Ticket) {
        let Some(index) = self.free.pop() else { return };
        self.begin(index, ticket.sender.take());
        let request = ticket.request.clone();
        let mut properties = joins::name_copy(request.properties.give());
        let id = properties.message_id().as_ref();
        let (id, renamed) = self.ids.enter(id.map_or("", ShortString::as_str));
        if let Some(renamed) = renamed {
            properties = properties.with_message_id(wire::own(&renamed));
        }
        let slot = &mut self.slots[index];
        slot.entry = Some(Entry { ticket, id });
        let flight = slot.flight.get_or_insert_with(flight);
        flight.begin(channel.clone(), request, properties);
        // The first poll numbers the message and queues its frames, in the order of calls.
        if let Poll::Ready(outcome) = flight.poll(&mut Context::from_waker(&slot.waker)) {
            self.finished.push((index, outcome));
        }
    }

    /// A message begins in this slot.
    fn begin(&self, index: usize, sender: Option<Waker>) {
        let mut news = self.woken.news();
        if let Some(written) = news.written.get_mut(index) {
            *written = false;
        }
        drop(news);
        self.set_sender(index, sender);
    }

    fn set_sender(&self, index: usize, sender: Option<Waker>) -> Option<Waker> {
        let mut news = self.woken.news();
        let place = news.senders.get_mut(index)?;
        std::mem::replace(place, sender)
    }

    /// Has `waker` woken instead of another when there is news of this publish.
    pub(super) fn wake_instead(&self, number: u64, waker: &Waker) {
        if let Some(index) = self.slot_of(number) {
            self.set_sender(index, Some(waker.clone()));
        }
    }

    /// Has nobody woken for it who sends it.
    pub(super) fn forsake(&self, number: u64) {
        if let Some(index) = self.slot_of(number) {
            self.set_sender(index, None);
        }
    }

    fn slot_of(&self, number: u64) -> Option<usize> {
        let is_meant = |slot: &Slot| {
            let entry = slot.entry.as_ref();
            entry.is_some_and(|entry| entry.ticket.number == number)
        };
        self.slots.iter().position(is_meant)
    }

    /// Has `waker` woken when there is news of a publish that has no sender.
    pub(super) fn wake_else(&self, waker: &Waker) {
        self.woken.news().other = Some(waker.clone());
    }

    /// Adds the publishes whose fate is certain to `settled`.
    pub(super) fn settle(&mut self, settled: &mut Vec<(Ticket, Fate)>) {
        self.poll_woken();
        for (_, result) in &self.finished {
            if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = result
                && let Some(id) = message.properties.message_id()
            {
                self.ids.returned(id.as_str());
            }
        }
        let mut finished = std::mem::take(&mut self.finished);
        for (index, result) in finished.drain(..) {
            settled.extend(self.conclude(index, result));
        }
        // With the memory that it has.
        self.finished = finished;
    }

    /// Polls what was woken until nothing more is.
    ///
    /// A confirm wakes its slot before lapin completes the next one, so the loop ends only when all that
    /// came before a ready confirm has been taken.
    fn poll_woken(&mut self) {
        loop {
            let mut news = self.woken.news();
            news.asked = None;
            std::mem::swap(&mut news.slots, &mut self.scratch);
            drop(news);
            if self.scratch.is_empty() {
                return;
            }
            for index in self.scratch.drain(..) {
                let slot = &mut self.slots[index];
                let Some(flight) = &mut slot.flight else {
                    continue;
                };
                if let Poll::Ready(outcome) = flight.poll(&mut Context::from_waker(&slot.waker)) {
                    self.finished.push((index, outcome));
                }
            }
        }
    }

    fn conclude(&mut self, index: usize, result: Outcome) -> Option<(Ticket, Fate)> {
        let Entry { ticket, id } = self.slots[index].entry.take()?;
        self.set_sender(index, None);
        self.free.push(index);
        let returned = self.ids.leave(id);
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
        self.ids.clear();
        // lapin wakes with a lock held that it takes here, too, when it hears that nobody awaits a confirm any more:
        // the news must not be locked meanwhile.
        let entries = self.slots.iter_mut().map(|slot| {
            if let Some(flight) = &mut slot.flight {
                flight.end();
            }
            slot.entry.take()
        });
        let entries = entries.enumerate();
        let entries = entries.filter_map(|(index, entry)| Some((index, entry?.ticket)));
        let mut tickets: Vec<_> = entries.collect();
        for (index, ticket) in &mut tickets {
            self.free.push(*index);
            ticket.sender = self.set_sender(*index, None);
        }
        tickets.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// All that is in flight.
    pub(super) fn tickets(&mut self) -> impl Iterator<Item = &mut Ticket> {
        let slots = self.slots.iter_mut();
        slots.filter_map(|slot| Some(&mut slot.entry.as_mut()?.ticket))
    }
}
