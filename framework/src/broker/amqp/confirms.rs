//! The task that looks after what is published: it opens channels, ends waits whose time is up, and does something
//! about channels on which nothing is confirmed any more.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};

use super::backoff::Backoff;
use super::live::{Live, Trouble, rpc};
use super::outbox::{Opened, Outbox, Stall};
use super::probe::{self, Found};
use super::transport::Transport;
use crate::error::{Error, Result};

/// How exact deadlines are.
const TICK: Duration = Duration::from_millis(20);
/// How long nothing may be stored, though messages are sent, before another channel is tried beside it.
const PROBE: Duration = Duration::from_secs(1);
/// How long nothing may be stored before the channel, and then the connection, is made anew. A quorum queue's
/// new leader takes less; after its election RabbitMQ sometimes leaves what a channel has sent unconfirmed.
const STALL: Duration = Duration::from_secs(8);

/// A channel, and the number of the ticket of which a copy is stored through it; `None` where it is not needed.
type Opening = JoinHandle<Result<Option<(Opened, Option<u64>)>>>;

/// The task.
pub(super) struct Actor {
    transport: Arc<Transport>,
    outbox: Arc<Outbox>,
    opening: Option<Opening>,
    blocked: watch::Receiver<Option<String>>,
    flush: watch::Receiver<bool>,
}

impl Actor {
    pub(super) fn new(
        transport: Arc<Transport>,
        outbox: Arc<Outbox>,
        flush: watch::Receiver<bool>,
    ) -> Self {
        Self {
            outbox,
            opening: None,
            blocked: transport.publishing.blocked(),
            flush,
            transport,
        }
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outbox = self.outbox.clone();
        let mut rested = true;
        loop {
            let (live, idle, accepts) = {
                let mut state = outbox.state();
                state.pump();
                if state.wants_channel() && self.opening.is_none() {
                    let transport = self.transport.clone();
                    self.opening = Some(tokio::spawn(async {
                        Ok(Some((open(transport).await?, None)))
                    }));
                }
                (state.live(), state.rest(), state.accepts())
            };
            if idle && !accepts {
                return;
            }
            if std::mem::replace(&mut rested, idle) {
                tick.reset();
            }
            let mut flush = self.flush.clone();
            tokio::select! {
                biased;
                () = poll_fn(|cx| outbox.state().poll_on(cx)) => {}
                () = ended(&live), if live.is_some() => {
                    outbox.state().lose(&Trouble::new("the connection ended"));
                }
                opened = async { self.opening.as_mut().expect("guarded").await }, if self.opening.is_some() => {
                    self.opening = None;
                    match opened {
                        Ok(Ok(Some((opened, stored)))) => self.take(opened, stored),
                        Ok(Ok(None)) => {}
                        // No answer: the next remedy's turn.
                        Ok(Err(Error::Unavailable { .. })) => {}
                        _ => outbox.give_up(),
                    }
                }
                () = outbox.attention() => {}
                _ = self.blocked.changed() => {}
                // An error means that nobody can send any more.
                _ = flush.wait_for(|flush| *flush), if accepts => outbox.close(),
                _ = tick.tick(), if !idle => self.look(),
            }
        }
    }

    fn take(&self, opened: Opened, stored: Option<u64>) {
        let unused = self.outbox.state().take(opened, stored);
        if let Some((channel, live)) = unused {
            tokio::spawn(close(channel, live));
        }
    }

    fn look(&mut self) {
        let (given_up, stall) = {
            let mut state = self.outbox.state();
            (state.look(), state.stall())
        };
        if let Some((channel, live)) = given_up {
            tokio::spawn(close(channel, live));
        }
        if let Some(stall) = stall
            && self.opening.is_none()
        {
            self.unblock(stall);
        }
    }

    /// Does something about a stall: another channel at first, then another connection.
    fn unblock(&mut self, stall: Stall) {
        match stall.remedies {
            0 if stall.since.elapsed() > PROBE => {
                let (transport, outbox) = (self.transport.clone(), self.outbox.clone());
                self.opening = Some(tokio::spawn(beside(transport, outbox, stall)));
            }
            1 if stall.since.elapsed() > STALL => {
                tracing::warn!("still nothing was confirmed for {STALL:?}: connecting anew");
                self.transport.publishing.leave(&stall.live);
            }
            // The queue may be without its majority, and no connection would mend that.
            _ => return,
        }
        self.outbox.state().remedied();
    }
}

/// It may end with its thread, before all is confirmed.
impl Drop for Actor {
    fn drop(&mut self) {
        self.outbox.give_up();
    }
}

/// Opens another channel beside one that stalls, and looks whether what stalls there is stored here.
async fn beside(
    transport: Arc<Transport>,
    outbox: Arc<Outbox>,
    stall: Stall,
) -> Result<Option<(Opened, Option<u64>)>> {
    let until = stall.since + STALL;
    let unconfirmed = || outbox.state().stalls_at(stall.number);
    let probe = async {
        let (channel, live) = open(transport.clone()).await?;
        let found = probe::look(&channel, &live, &stall.oldest, until, unconfirmed);
        let stored = match found.await {
            Found::Stored => Some(stall.number),
            Found::Unknown => None,
            Found::Needless => {
                tokio::spawn(close(channel, live));
                return Ok(None);
            }
            // It is not the channel, so it may be the node.
            Found::Silence => {
                transport.publishing.leave_for_others(&live);
                None
            }
        };
        Ok(Some(((channel, live), stored)))
    };
    timeout_at(until + STALL, probe).await.unwrap_or_else(|_| {
        Err(Error::Unavailable {
            what: "another channel".into(),
            waited: STALL,
            reason: "no answer".into(),
        })
    })
}

async fn close(channel: Arc<Channel>, live: Arc<Live>) {
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
            Ok(channel) => return Ok((Arc::new(channel), live)),
            Err(trouble) => tracing::debug!(reason = %trouble.text, "no channel to publish on"),
        }
    }
}
