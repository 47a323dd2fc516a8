//! What a call's outcome leaves in the result backend before its delivery is settled: results, and parts of
//! Celery's chords. Whoever is killed in between does it again, to the same effect.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::Shared;
use super::continuation::{ChordPart, Consequences, Continuation};
use super::settle::{PATIENCE, PAUSE};
use crate::broker::Route;
use crate::error::{Error, Result};
use crate::failure::{Failure, FailureKind};
use crate::message::Signature;
use crate::result_store::{Claim, ResultStore};

/// The class of the exception that a chord's body fails with whose members have failed.
const CHORD_ERROR: &str = "celery.exceptions.ChordError";

impl Shared {
    /// Keeps what follows the call in the result backend, if the app has one. The bodies of the chords that are
    /// complete now are among what comes `next`; returns the claims to them.
    ///
    /// # Errors
    /// What [`ResultStore::keep`] says, unless the work `is_ours_alone`, as no delivery stands for it any more:
    /// then it is tried for longer, and what fails is only logged.
    pub(super) async fn keep(
        &self,
        continuation: &Continuation<'_>,
        outcome: Result<&RawValue, &Failure>,
        next: &mut Consequences,
        home: &(dyn Fn(&str) -> Route + Sync),
        is_ours_alone: bool,
    ) -> Result<Vec<Claim>> {
        let Some(results) = self.app.results() else {
            return Ok(Vec::new());
        };
        let store = Patient {
            results,
            tries: if is_ours_alone { PATIENCE } else { 0 },
        };
        let now = self.app.now();
        next.kept.extend(continuation.kept_reply(outcome, now));
        let mut claims = Vec::new();
        let mut parts = VecDeque::from(std::mem::take(&mut next.parts));
        loop {
            for reply in next.kept.drain(..) {
                store.ask(|| results.keep(&reply)).await?;
            }
            for chord in next.chords.drain(..) {
                let begun = || results.begin_chord(&chord.group, chord.size);
                store.ask(begun).await?;
            }
            let Some(part) = parts.pop_front() else {
                return Ok(claims);
            };
            let ChordPart {
                group,
                index,
                body,
                reply,
            } = part;
            let brought = || results.add_part(&group, index, &reply);
            let Some(Some(complete)) = store.ask(brought).await? else {
                continue;
            };
            let outcome = complete
                .results
                .map_err(|text| chord_error(&body, &reply.id, text));
            let after = continuation.after_chord(&body, outcome, now, home);
            next.publish.extend(after.publish);
            next.chords.extend(after.chords);
            next.kept.extend(after.kept);
            parts.extend(after.parts);
            claims.push(complete.claim);
        }
    }

    /// Says of chords whether their bodies are sent.
    pub(super) async fn end_chords(&self, claims: Vec<Claim>, are_sent: bool) {
        if let Some(results) = self.app.results() {
            for claim in claims {
                results.end_chord(&claim, are_sent).await;
            }
        }
    }
}

/// Asks the result backend as often as what is asked for is worth.
struct Patient<'a> {
    results: &'a ResultStore,
    /// How often a failure is borne; 0 where a failure is the caller's to bear.
    tries: u32,
}

impl Patient<'_> {
    async fn ask<T, F>(&self, ask: impl Fn() -> F) -> Result<Option<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = self.tries;
        loop {
            match ask().await {
                Ok(done) => return Ok(Some(done)),
                Err(error) if self.tries == 0 => return Err(error),
                Err(error @ Error::Unavailable { .. }) if tries > 1 => {
                    tries -= 1;
                    tracing::warn!("an early acknowledged call waits to be reported: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    let url = self.results.url();
                    tracing::error!(url, "an early acknowledged call is not reported: {error}");
                    return Ok(None);
                }
            }
        }
    }
}

fn chord_error(body: &RawValue, member: &str, text: String) -> Failure {
    let task = Signature::decode(body).map_or_else(|_| String::new(), |body| body.task);
    Failure {
        error_type: CHORD_ERROR.into(),
        ..Failure::new(task, member, FailureKind::Failed, text)
    }
}
