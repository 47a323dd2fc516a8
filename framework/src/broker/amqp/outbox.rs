//! What is published, and what waits for it: under a lock that all senders share, so that each of them writes its
//! message and takes its confirm on its own thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::Channel;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::connection::closed;
use super::live::{Live, Trouble};
use super::publish::{Late, Request, Ticket, Verdict};
use super::transport::Transport;
use super::window::{Fate, Window};
use crate::error::Result;

/// Messages on their way, those in the window among them.
const ROOM: usize = 2048;
/// How long a channel may refuse one message after the other before another is tried.
const REFUSAL: Duration = Duration::from_millis(500);
/// Looks that the confirms of a closed channel may take to fail.
const LOOKS_TO_FAIL: u32 = 10;
/// Channels that may end under a message before it is held responsible.
const CHANNELS_PER_MESSAGE: u8 = 3;
/// AMQP's code for an operator's `close_connection`, or a server's shutdown.
const CONNECTION_FORCED: u16 = 320;
/// Confirms that may stay away before the channel is given up.
const OVERDUE: usize = 256;

pub(super) type Opened = (Arc<Channel>, Arc<Live>);

/// Messages on their way.
pub(super) struct Outbox {
    state: Mutex<State>,
    room: Semaphore,
    /// Told of what no sender can do: open a channel, or look after what nobody awaits.
    attention: Notify,
}

/// What is on its way.
pub(super) struct State {
    transport: Arc<Transport>,
    /// Whether somebody looks at it every now and then.
    is_watched: bool,
    /// Whether it takes messages.
    accepts: bool,
    waiting: VecDeque<Ticket>,
    window: Window,
    /// Memory for those whose fate is certain.
    settled: Vec<(Ticket, Fate)>,
    /// With the connection, which lives as long as someone holds it.
    channel: Option<Opened>,
    blocked: watch::Receiver<Option<String>>,
    next_number: u64,
    /// Looks for which the channel has been closed with confirms still open.
    looks_closed: u32,
    /// When something was last stored, or a channel opened.
    got_on: Instant,
    /// Since when messages are refused, one after the other.
    refused: Option<Instant>,
    /// What has been tried against a stall: nothing, another channel, another connection.
    remedies: u32,
}

/// Nothing is confirmed any more.
pub(super) struct Stall {
    pub(super) live: Arc<Live>,
    /// The message that has waited longest, and its number.
    pub(super) oldest: Arc<Request>,
    pub(super) number: u64,
    pub(super) since: Instant,
    /// What has been tried against it.
    pub(super) remedies: u32,
}

impl Outbox {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self {
            state: Mutex::new(State::new(transport)),
            room: Semaphore::new(ROOM),
            attention: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a message; `None` if there is none by `deadline`.
    pub(super) async fn room(&self, deadline: Instant) -> Result<Option<SemaphorePermit<'_>>> {
        if let Ok(place) = self.room.try_acquire() {
            return Ok(Some(place));
        }
        // Boxed: few messages have to wait, and the future of each would have room for that.
        match Box::pin(timeout_at(deadline, self.room.acquire())).await {
            Ok(place) => Ok(Some(place.map_err(|_| closed())?)),
            Err(_) => Ok(None),
        }
    }

    /// Takes a message and writes it, if that is possible at once; its number, unless none are taken any more.
    pub(super) fn put(&self, ticket: Ticket) -> Option<u64> {
        let mut state = self.state();
        let number = state.put(ticket);
        let calls = state.calls();
        drop(state);
        if calls {
            self.attention.notify_one();
        }
        number
    }

    /// Takes all confirms that have come, for whomever they are, and writes what has room now. Where there is
    /// news of the message of this number, `waker` is woken, if there is one, instead of another.
    pub(super) fn get_on(&self, number: u64, waker: Option<&Waker>) {
        let mut state = self.state();
        if let Some(waker) = waker {
            state.wake_instead(number, waker);
        }
        state.get_on();
        let calls = state.calls();
        drop(state);
        if calls {
            self.attention.notify_one();
        }
    }

    /// Nobody sends the message of this number any more.
    pub(super) fn forsake(&self, number: u64) {
        let mut state = self.state();
        state.forsake(number);
        state.get_on();
    }

    /// Resolves when something is to be done that no sender can do.
    pub(super) async fn attention(&self) {
        self.attention.notified().await;
    }

    /// Takes no further messages.
    pub(super) fn close(&self) {
        self.room.close();
        self.state().accepts = false;
    }

    /// Tells all who wait that it is over, too.
    pub(super) fn give_up(&self) {
        self.close();
        let left = self.state().give_up();
        for mut ticket in left {
            // What was never sent is dropped, and so its caller told that it is over.
            if ticket.written.is_some() {
                ticket.tell(Verdict::Late(Late::Unconfirmed));
            }
        }
    }
}

impl State {
    fn new(transport: Arc<Transport>) -> Self {
        Self {
            is_watched: false,
            accepts: true,
            waiting: VecDeque::new(),
            window: Window::new(),
            settled: Vec::new(),
            channel: None,
            blocked: transport.publishing.blocked(),
            next_number: 0,
            looks_closed: 0,
            got_on: Instant::now(),
            refused: None,
            remedies: 0,
            transport,
        }
    }

    fn put(&mut self, mut ticket: Ticket) -> Option<u64> {
        if !self.accepts {
            return None;
        }
        self.next_number += 1;
        ticket.number = self.next_number;
        if self.waiting.len() >= ROOM {
            // Whoever gives up leaves its message here until somebody looks.
            self.waiting.retain(Ticket::is_wanted);
        }
        self.waiting.push_back(ticket);
        self.pump();
        // What fails at once wakes nobody.
        self.get_on();
        Some(self.next_number)
    }

    /// Whether there is something to be done that no sender can do, and nobody knows.
    fn calls(&mut self) -> bool {
        let calls = self.wants_channel() || !self.is_watched && !self.is_idle();
        self.is_watched |= calls;
        calls
    }

    fn wake_instead(&mut self, number: u64, waker: &Waker) {
        let mut waiting = self.waiting.iter_mut();
        match waiting.find(|ticket| ticket.number == number) {
            Some(ticket) => ticket.sender = Some(waker.clone()),
            None => self.window.wake_instead(number, waker),
        }
    }

    fn forsake(&mut self, number: u64) {
        let mut waiting = self.waiting.iter_mut();
        match waiting.find(|ticket| ticket.number == number) {
            Some(ticket) => ticket.sender = None,
            None => self.window.forsake(number),
        }
    }

    fn get_on(&mut self) -> bool {
        let mut settled = std::mem::take(&mut self.settled);
        self.window.settle(&mut settled);
        let any = !settled.is_empty();
        if any {
            self.settle(&mut settled);
            self.pump();
        }
        self.settled = settled;
        any
    }

    /// Takes all confirms that have come, and what comes for nobody else from now on.
    pub(super) fn poll_on(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.window.wake_else(cx.waker());
        match self.get_on() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.window.is_empty()
    }

    /// Whether something waits for a channel.
    pub(super) fn wants_channel(&self) -> bool {
        self.channel.is_none() && !self.waiting.is_empty()
    }

    pub(super) fn accepts(&self) -> bool {
        self.accepts
    }

    /// The connection that is published on.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.channel.as_ref().map(|(_, live)| live.clone())
    }

    /// Nobody looks at it any more until the next message comes; whether that is right, as it is idle.
    pub(super) fn rest(&mut self) -> bool {
        self.is_watched = !self.is_idle();
        !self.is_watched
    }

    /// Writes what can be written.
    pub(super) fn pump(&mut self) {
        if let Some((channel, _)) = &self.channel
            && !channel.status().connected()
            && self.window.is_empty()
        {
            self.channel = None;
        }
        let Some((channel, _)) = &self.channel else {
            return;
        };
        // On a blocked connection lapin would keep the frames: written later, after the caller was told
        // that they were not sent.
        if self.blocked.borrow().is_some() {
            return;
        }
        while !self.window.is_full()
            && let Some(mut ticket) = self.waiting.pop_front()
        {
            if ticket.is_wanted() {
                ticket.written = Some(Instant::now());
                self.window.start(channel, ticket);
            }
        }
    }

    fn settle(&mut self, settled: &mut Vec<(Ticket, Fate)>) {
        let got_on = |(_, fate): &(Ticket, Fate)| matches!(fate, Fate::Stored | Fate::Returned);
        if settled.iter().any(got_on) {
            self.remedies = 0;
            self.got_on = Instant::now();
            self.refused = None;
        } else if settled.iter().any(|(_, fate)| matches!(fate, Fate::Nacked)) {
            self.be_refused();
        }
        let mut lost = Vec::new();
        let mut reason = None;
        for (mut ticket, fate) in settled.drain(..) {
            match fate {
                Fate::Stored => ticket.tell(Verdict::Stored),
                Fate::Returned => ticket.tell(Verdict::Unroutable),
                Fate::Nacked => ticket.tell(Verdict::Nacked),
                Fate::Lost(trouble) => {
                    // The first error with a code is the server's; others only follow from it.
                    match &reason {
                        Some(Trouble { code: Some(_), .. }) => {}
                        _ => reason = Some(trouble),
                    }
                    lost.push(ticket);
                }
            }
        }
        if let Some(reason) = reason {
            lost.extend(self.window.abandon());
            self.channel = None;
            self.requeue(lost, &reason);
        }
    }

    /// Goes on with a new channel. One that was opened beside another is used only if nothing got on there
    /// meanwhile: that something is stored here, or that it could be opened, shows that the server is alive.
    /// Returns the one that is not used.
    pub(super) fn take(&mut self, opened: Opened, stored: Option<u64>) -> Option<Opened> {
        if self.channel.is_some() && self.remedies == 0 {
            return Some(opened);
        }
        let old = self.channel.take();
        if old.is_some() {
            tracing::warn!(
                "nothing was confirmed for {:.1?}: publishing again on a new channel",
                self.got_on.elapsed()
            );
            let copied = |ticket: &&mut Ticket| Some(ticket.number) == stored;
            if let Some(ticket) = self.window.tickets().find(copied) {
                ticket.tell(Verdict::Stored);
            }
            self.lose(&Trouble::new("nothing is confirmed"));
        }
        self.window.follow(&opened.1);
        self.channel = Some(opened);
        self.got_on = Instant::now();
        old
    }

    /// Messages are refused, and nothing else happens. While a leader is elected that is right, and for a
    /// full queue; but RabbitMQ 3.10 sometimes goes on like that on the channel that saw the old leader.
    fn be_refused(&mut self) {
        let since = *self.refused.get_or_insert_with(Instant::now);
        if since.elapsed() > REFUSAL && self.window.is_empty() {
            self.refused = None;
            // The next message opens another.
            self.channel = None;
        }
    }

    /// What stalls, if something does.
    pub(super) fn stall(&mut self) -> Option<Stall> {
        let (_, live) = self.channel.as_ref()?;
        let written = |ticket: &&mut Ticket| ticket.written;
        let oldest = self.window.tickets().min_by_key(written)?;
        if self.blocked.borrow().is_some() {
            return None;
        }
        Some(Stall {
            live: live.clone(),
            oldest: oldest.request.clone(),
            number: oldest.number,
            since: oldest.written.map_or(self.got_on, |at| at.max(self.got_on)),
            remedies: self.remedies,
        })
    }

    /// Whether nothing was confirmed since this message stalled, and it was not either.
    pub(super) fn stalls_at(&mut self, number: u64) -> bool {
        self.remedies > 0 && self.window.tickets().any(|ticket| ticket.number == number)
    }

    /// Something is tried against a stall.
    pub(super) fn remedied(&mut self) {
        self.remedies += 1;
    }

    /// The channel is gone, and with it the confirms of what is in flight.
    pub(super) fn lose(&mut self, reason: &Trouble) {
        self.channel = None;
        let lost = self.window.abandon();
        self.requeue(lost, reason);
    }

    /// All that wait for a verdict.
    fn give_up(&mut self) -> Vec<Ticket> {
        let mut left = self.window.abandon();
        left.extend(self.waiting.drain(..));
        left
    }

    /// Publishes again what a channel took with it, except what ended the channel.
    fn requeue(&mut self, mut lost: Vec<Ticket>, reason: &Trouble) {
        tracing::debug!(reason = %reason.text, messages = lost.len(), "publishing again on a new channel");
        let found = lost
            .iter()
            .any(|ticket| blame(&ticket.request, reason).is_some());
        // What ends a whole connection from outside is no message's fault.
        let suspect = !found && reason.code.is_some_and(|code| code != CONNECTION_FORCED);
        lost.sort_by_key(|ticket| std::cmp::Reverse(ticket.number));
        let alone = lost.len() == 1;
        for mut ticket in lost {
            ticket.channels_lost += u8::from(suspect);
            let verdict = match ticket.channels_lost >= CHANNELS_PER_MESSAGE {
                true if alone => Some(Verdict::Refused(reason.clone())),
                // One of many ended the channels: which of them is stored cannot be said.
                true => Some(Verdict::Late(Late::Unconfirmed)),
                false => blame(&ticket.request, reason),
            };
            match verdict {
                Some(verdict) => ticket.tell(verdict),
                None if ticket.is_wanted() => self.waiting.push_front(ticket),
                None => {}
            }
        }
    }

    /// Looks after what nobody else does: tells those whose time is up, and gives up a channel that forgets confirms.
    /// Returns the channel.
    pub(super) fn look(&mut self) -> Option<Opened> {
        let now = Instant::now();
        let mut late = 0;
        for ticket in self.window.tickets() {
            if ticket.deadline <= now {
                ticket.tell(Verdict::Late(Late::Unconfirmed));
            }
            late += usize::from(!ticket.is_wanted());
        }
        for ticket in &mut self.waiting {
            if ticket.deadline <= now {
                ticket.tell(Verdict::Late(match ticket.written.is_some() {
                    true => Late::Unconfirmed,
                    false => Late::before_it_was_sent(&self.blocked, &self.transport),
                }));
            }
        }
        self.waiting.retain(Ticket::is_wanted);
        // A closed channel fails its confirms; lapin may forget some.
        let closed = matches!(&self.channel, Some((channel, _)) if !channel.status().connected());
        self.looks_closed = if closed { self.looks_closed + 1 } else { 0 };
        if self.looks_closed > LOOKS_TO_FAIL {
            self.lose(&Trouble::new("the channel ended"));
        }
        // lapin keeps a confirm that nobody awaits until its channel is closed.
        if late <= OVERDUE {
            return None;
        }
        let opened = self.channel.take();
        if opened.is_some() {
            self.lose(&Trouble::new("too many confirms are overdue"));
        }
        opened
    }
}

/// The verdict, if the server's complaint is about this very message.
fn blame(request: &Request, reason: &Trouble) -> Option<Verdict> {
    let exchange = match request.exchange.as_str() {
        "" => "amq.default",
        name => name,
    };
    // `NOT_FOUND - no exchange 'x' in vhost '/'`, `ACCESS_REFUSED - access to exchange 'x' in …`
    let names_exchange = reason.text.contains(&format!("exchange '{exchange}' "));
    // `PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216`
    let size = request.body.len();
    let names_size = reason.text.contains(&format!("message size {size} "));
    match reason.code? {
        404 if names_exchange => Some(Verdict::NoExchange(reason.clone())),
        403 if names_exchange => Some(Verdict::Refused(reason.clone())),
        406 if names_size => Some(Verdict::Refused(reason.clone())),
        _ => None,
    }
}
