//! The walk through a dead-letter queue, page by page, and its letters one by one.

use std::fmt;

use super::{Dead, DeadLetter, DeadLetters};
use crate::broker::{Browse, Delivery};
use crate::error::Result;

/// Messages fetched at a time: what bounds the memory, whatever the queue's length.
const PAGE: usize = 100;

/// Dead letters one by one. Made by [`DeadLetters::stream`].
#[must_use = "nothing is fetched until its letters are taken with `.next().await`"]
pub struct Letters {
    page: std::vec::IntoIter<DeadLetter>,
    state: State,
}

enum State {
    New(DeadLetters, Dead),
    Walking(Walk),
    Done,
}

impl Letters {
    /// The next letter; `None` at the end.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`]; nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<DeadLetter>> {
        loop {
            if let Some(letter) = self.page.next() {
                return Some(Ok(letter));
            }
            match self.turn().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
            }
        }
    }

    pub(super) fn new(letters: DeadLetters, which: Dead) -> Self {
        Self {
            page: Vec::new().into_iter(),
            state: State::New(letters, which),
        }
    }

    /// Goes one step on; false at the end.
    async fn turn(&mut self) -> Result<bool> {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::New(letters, which) => State::Walking(Walk::start(&letters, which).await?),
            State::Walking(mut walk) => {
                let page = walk.page().await?;
                if page.is_empty() {
                    walk.close().await?;
                    return Ok(false);
                }
                let letters = page.into_iter().map(|(letter, _)| letter);
                self.page = letters.collect::<Vec<_>>().into_iter();
                State::Walking(walk)
            }
            State::Done => return Ok(false),
        };
        Ok(true)
    }
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters").finish_non_exhaustive()
    }
}

/// A walk through a dead-letter queue, from its head to what was its end.
pub(super) struct Walk {
    look: Box<dyn Browse>,
    letters: DeadLetters,
    which: Dead,
    /// Messages not seen yet of those that there were at the beginning.
    unseen: usize,
}

impl Walk {
    pub(super) async fn start(letters: &DeadLetters, which: Dead) -> Result<Self> {
        let unseen = usize::try_from(letters.count().await?).unwrap_or(usize::MAX);
        Ok(Self {
            look: letters.app.broker().browse(&letters.name()).await?,
            letters: letters.clone(),
            which,
            unseen,
        })
    }

    /// The next selected letters; none at the end.
    pub(super) async fn page(&mut self) -> Result<Vec<(DeadLetter, Delivery)>> {
        let mut page = Vec::new();
        while page.is_empty() && self.unseen > 0 && self.which.limit != Some(0) {
            let wanted = self.which.reach().min(PAGE).min(self.unseen);
            let shown = self.look.next(wanted).await?;
            self.unseen = match shown.len() {
                0 => 0,
                seen => self.unseen.saturating_sub(seen),
            };
            for mut delivery in shown {
                let message = std::mem::take(&mut delivery.message);
                let prefix = self.letters.app.prefix();
                let letter = DeadLetter::read(message, &self.letters.queue, prefix);
                if !self.which.selects(&letter) || self.which.limit == Some(0) {
                    continue;
                }
                if self.which.skip > 0 {
                    self.which.skip -= 1;
                    continue;
                }
                self.which.limit = self.which.limit.map(|limit| limit - 1);
                page.push((letter, delivery));
            }
        }
        Ok(page)
    }

    pub(super) async fn close(self) -> Result<()> {
        self.look.close().await
    }
}
