//! The task that owns the channel on which messages are published: it writes them, follows their confirms,
//! and publishes again under their ids what a channel took with it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::backoff::Backoff;
use super::live::{Live, Trouble, rpc};
use super::probe::{self, Found};
use super::publish::{BACKLOG, Late, Request, Ticket, Verdict, unsent};
use super::transport::Transport;
use super::window::{Fate, Window};
use crate::error::{Error, Result};

/// How exact deadlines are.
const TICK: Duration = Duration::from_millis(20);
/// How long nothing may be stored, though messages are sent, before another channel is tried beside it.
const PROBE: Duration = Duration::from_secs(1);
/// How long nothing may be stored before the channel, and then the connection, is made anew. A quorum queue's
/// new leader takes less; after its election RabbitMQ sometimes leaves what a channel has sent unconfirmed.
const STALL: Duration = Duration::from_secs(8);
/// How long a channel may refuse one message after the other before another is tried.
const REFUSAL: Duration = Duration::from_millis(500);
/// How many ticks the confirms of a closed channel may take to fail.
const TICKS_TO_FAIL: u32 = 10;
/// Channels that may end under a message before it is held responsible.
const CHANNELS_PER_MESSAGE: u8 = 3;
/// AMQP's code for an operator's `close_connection`, or a server's shutdown.
const CONNECTION_FORCED: u16 = 320;
/// Confirms that may stay away before the channel is given up.
const OVERDUE: usize = 256;

type Opened = (Channel, Arc<Live>);
/// A channel, and the number of the ticket of which a copy is stored through it.
type Opening = JoinHandle<Result<(Opened, Option<u64>)>>;

/// The task.
pub(super) struct Actor {
    transport: Arc<Transport>,
    requests: mpsc::Receiver<Ticket>,
    accepts: bool,
    waiting: VecDeque<Ticket>,
    window: Window,
    /// With the connection, which lives as long as someone holds it.
    channel: Option<Opened>,
    opening: Option<Opening>,
    blocked: watch::Receiver<Option<String>>,
    flush: watch::Receiver<bool>,
    next_number: u64,
    /// Ticks that the channel has been closed with confirms still open.
    ticks_closed: u32,
    /// When something was last stored, or a channel opened.
    got_on: Instant,
    /// Since when messages are refused, one after the other.
    refused: Option<Instant>,
    /// What has been tried against that: nothing, another channel, another connection.
    remedies: u32,
}

impl Actor {
    pub(super) fn new(
        transport: Arc<Transport>,
        requests: mpsc::Receiver<Ticket>,
        flush: watch::Receiver<bool>,
    ) -> Self {
        Self {
            requests,
            accepts: true,
            waiting: VecDeque::new(),
            window: Window::new(),
            channel: None,
            opening: None,
            blocked: transport.publishing.blocked(),
            flush,
            next_number: 0,
            ticks_closed: 0,
            got_on: Instant::now(),
            refused: None,
            remedies: 0,
            transport,
        }
    }

    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pump();
            let idle = self.waiting.is_empty() && self.window.is_empty();
            if idle && !self.accepts {
                return;
            }
            let accepts = self.accepts && self.waiting.len() < BACKLOG;
            let mut flush = self.flush.clone();
            let flushing = *flush.borrow();
            let live = self.channel.as_ref().map(|(_, live)| live.clone());
            tokio::select! {
                biased;
                settled = poll_fn(|cx| self.window.poll_settled(cx)) => self.settle(settled),
                () = ended(&live), if live.is_some() => self.lose(&Trouble::new("the connection ended")),
                opened = async { self.opening.as_mut().expect("guarded").await }, if self.opening.is_some() => {
                    self.opening = None;
                    match opened {
                        Ok(Ok((opened, stored))) => self.take(opened, stored),
                        // No answer: the next remedy's turn.
                        Ok(Err(Error::Unavailable { .. })) => {}
                        _ => self.accepts = false,
                    }
                    if !self.accepts {
                        self.give_up();
                    }
                }
                count = self.requests.recv_many(&mut batch, BACKLOG), if accepts => {
                    self.accepts = count > 0;
                    for mut ticket in batch.drain(..) {
                        self.next_number += 1;
                        ticket.number = self.next_number;
                        self.waiting.push_back(ticket);
                    }
                }
                _ = self.blocked.changed() => {}
                _ = flush.wait_for(|flush| *flush), if !flushing => self.requests.close(),
                _ = tick.tick(), if !idle => self.expire(),
            }
        }
    }

    /// Writes what can be written.
    fn pump(&mut self) {
        if let Some((channel, _)) = &self.channel
            && !channel.status().connected()
            && self.window.is_empty()
        {
            self.channel = None;
        }
        let Some((channel, _)) = &self.channel else {
            if self.opening.is_none() && !self.waiting.is_empty() {
                let transport = self.transport.clone();
                self.opening = Some(tokio::spawn(async { Ok((open(transport).await?, None)) }));
            }
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

    fn settle(&mut self, settled: Vec<(Ticket, Fate)>) {
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
        for (mut ticket, fate) in settled {
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
    fn take(&mut self, (channel, live): Opened, stored: Option<u64>) {
        if self.channel.is_some() && self.remedies == 0 {
            tokio::spawn(close(channel, live));
            return;
        }
        if let Some((old, live)) = self.channel.take() {
            tracing::warn!(
                "nothing was confirmed for {:.1?}: publishing again on a new channel",
                self.got_on.elapsed()
            );
            let copied = |ticket: &&mut Ticket| Some(ticket.number) == stored;
            if let Some(ticket) = self.window.tickets().find(copied) {
                ticket.tell(Verdict::Stored);
            }
            self.lose(&Trouble::new("nothing is confirmed"));
            tokio::spawn(close(old, live));
        }
        self.channel = Some((channel, live));
        self.got_on = Instant::now();
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

    /// Does something about a stall: another channel at first, then another connection.
    fn unblock(&mut self) {
        let Some((_, live)) = &self.channel else {
            return;
        };
        let written = |ticket: &&mut Ticket| ticket.written;
        let Some(oldest) = self.window.tickets().min_by_key(written) else {
            return;
        };
        let since = oldest.written.map_or(self.got_on, |at| at.max(self.got_on));
        if self.opening.is_some() || self.blocked.borrow().is_some() {
            return;
        }
        match self.remedies {
            0 if since.elapsed() > PROBE => {
                let (transport, until) = (self.transport.clone(), since + STALL);
                let (number, request) = (oldest.number, oldest.request.clone());
                self.opening = Some(tokio::spawn(async move {
                    let probe = async {
                        let (channel, live) = open(transport.clone()).await?;
                        let stored = match probe::look(&channel, &live, &request, until).await {
                            Found::Stored => Some(number),
                            Found::Unknown => None,
                            // It is not the channel, so it may be the node.
                            Found::Silence => {
                                transport.publishing.leave_for_others(&live);
                                None
                            }
                        };
                        Ok(((channel, live), stored))
                    };
                    timeout_at(until + STALL, probe).await.unwrap_or_else(|_| {
                        Err(Error::Unavailable {
                            what: "another channel".into(),
                            waited: STALL,
                            reason: "no answer".into(),
                        })
                    })
                }));
            }
            1 if since.elapsed() > STALL => {
                tracing::warn!("still nothing was confirmed for {STALL:?}: connecting anew");
                self.transport.publishing.leave(live);
            }
            // The queue may be without its majority, and no connection would mend that.
            _ => return,
        }
        self.remedies += 1;
    }

    /// The channel is gone, and with it the confirms of what is in flight.
    fn lose(&mut self, reason: &Trouble) {
        self.channel = None;
        let lost = self.window.abandon();
        self.requeue(lost, reason);
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

    /// Tells those whose time is up.
    fn expire(&mut self) {
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
                    false => unsent(&self.blocked, &self.transport),
                }));
            }
        }
        self.waiting.retain(Ticket::is_wanted);
        // A closed channel fails its confirms; lapin may forget some.
        let closed = matches!(&self.channel, Some((channel, _)) if !channel.status().connected());
        self.ticks_closed = if closed { self.ticks_closed + 1 } else { 0 };
        if self.ticks_closed > TICKS_TO_FAIL {
            self.lose(&Trouble::new("the channel ended"));
        }
        // lapin keeps a confirm that nobody awaits until its channel is closed.
        if late > OVERDUE
            && let Some((channel, live)) = self.channel.take()
        {
            self.lose(&Trouble::new("too many confirms are overdue"));
            tokio::spawn(close(channel, live));
        }
        self.unblock();
    }

    fn give_up(&mut self) {
        self.requests.close();
        self.waiting.clear();
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

async fn close(channel: Channel, live: Arc<Live>) {
    let _ = timeout(Duration::from_secs(2), channel.close(200, "bye".into())).await;
    drop(live);
}

/// Resolves when the connection has ended.
async fn ended(live: &Option<Arc<Live>>) {
    match live {
        Some(live) => live.ended().await,
        None => std::future::pending().await,
    }
}

async fn open(transport: Arc<Transport>) -> Result<Opened> {
    let mut backoff = Backoff::default();
    loop {
        backoff.wait().await;
        let live = transport.publishing.get().await?;
        let opened = async {
            let channel = live.channel().await?;
            let select = channel.confirm_select(ConfirmSelectOptions::default());
            live.guard(rpc(select)).await?;
            Ok::<_, Trouble>(channel)
        };
        match opened.await {
            Ok(channel) => return Ok((channel, live)),
            Err(trouble) => tracing::debug!(reason = %trouble.text, "no channel to publish on"),
        }
    }
}
