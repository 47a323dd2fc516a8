//! Calls by hand: a request each, and a table of who awaits which answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use lapin::options::BasicAckOptions;
use lapin::types::ShortString;
use lapin::{Channel, Consumer};
use tokio::sync::oneshot;

use crate::post::{Letter, Post};

/// What is acknowledged together where nobody waits for it.
pub(crate) const GROUP: usize = 64;

/// Calls, and awaits what is answered.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) post: Post,
    pub(crate) queue: ShortString,
    pub(crate) reply_queue: ShortString,
    pub(crate) text: Arc<str>,
    pub(crate) waiting: Waiting,
}

/// Who awaits the answer to the call of this id.
pub(crate) type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<u64>>>>;

impl Caller {
    pub(crate) async fn call(&self, number: usize) -> Result<u64> {
        let answer = self.send(number).await?.await?;
        ensure!(answer == number as u64, "somebody else's reply");
        Ok(answer)
    }

    /// Resolves when the broker has it; the answer comes where it says.
    pub(crate) async fn send(&self, number: usize) -> Result<oneshot::Receiver<u64>> {
        let (answer, answered) = oneshot::channel();
        let letter = Letter::request(&self.queue, number, &self.text).reply_to(&self.reply_queue);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(letter.id().to_owned(), answer);
        self.post.send(letter).await?;
        Ok(answered)
    }
}

/// Hands out what is answered.
pub(crate) async fn read_replies(
    channel: Channel,
    mut replies: Consumer,
    waiting: Waiting,
) -> Result<()> {
    let mut unacked = 0;
    while let Some(reply) = replies.next().await.transpose()? {
        let id = reply.properties.correlation_id().clone();
        let id = id.as_ref().map_or("", ShortString::as_str);
        let waiter = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        if let Some(waiter) = waiter {
            let _ = waiter.send(crate::post::read_reply(&reply.data)?);
        }
        unacked += 1;
        if unacked == GROUP {
            unacked = 0;
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(reply.delivery_tag, options).await?;
        }
    }
    Ok(())
}
