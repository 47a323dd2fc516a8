//! Commands to a worker: what changes it while it works.

use std::sync::Arc;
use std::time::{Duration, TryFromFloatSecsError};

use serde_json::Value;

use super::{Answer, Ear};
use crate::broker::Queue;
use crate::control::request::Request;
use crate::control::{ADD_CONSUMER, POOL_SHRINK};
use crate::task::Definition;
use crate::worker::Shared;
use crate::worker::cancel::spared;
use crate::worker::lanes::Change;

/// Slots that a command may add or take at a time.
const MOST_SLOTS: f64 = 10_000.0;
/// Ids that a command may cancel at a time.
const MOST_IDS: usize = 10_000;

impl Ear {
    /// Does what is asked; `None` if nobody knows what that is.
    pub(super) async fn steer(&self, request: &Request) -> Option<Answer> {
        let shared = &self.shared;
        Some(match request.method.as_str() {
            "revoke" => self.revoke(request, request.is_true("terminate")),
            "terminate" => self.revoke(request, true),
            "revoke_by_stamped_headers" => self.revoke_by_stamps(request),
            "rate_limit" => self.rate_limit(request),
            "time_limit" => self.time_limit(request),
            "pool_grow" => self.resize(request, Change::Grow, "pool will grow").await,
            "pool_shrink" | POOL_SHRINK => {
                self.resize(request, Change::Shrink, "pool will shrink")
                    .await
            }
            "add_consumer" | ADD_CONSUMER => self.add_consumer(request).await,
            "cancel_consumer" => self.cancel_consumer(request).await,
            "enable_events" => Answer::ok(match shared.teller.enable(true) {
                true => "task events enabled",
                false => "task events already enabled",
            }),
            "disable_events" => Answer::ok(match shared.teller.enable(false) {
                true => "task events disabled",
                false => "task events already disabled",
            }),
            "heartbeat" => {
                shared.tell_alive().await;
                Answer::Value(Value::Null)
            }
            "shutdown" => {
                tracing::info!("told by remote control to stop");
                shared.told_to_stop.notify_one();
                Answer::Silence
            }
            "autoscale" => Answer::error("ValueError('Autoscale not enabled')"),
            "pool_restart" => Answer::error("ValueError('Pool restarts not enabled')"),
            // Python's workers agree by these on who does something; nobody waits for us.
            "election" => Answer::Silence,
            _ => return None,
        })
    }

    fn revoke(&self, request: &Request, terminate: bool) -> Answer {
        let mut ids = request.texts("task_id");
        if ids.is_empty() {
            return Answer::error("no `task_id`");
        }
        ids.truncate(MOST_IDS);
        let running: Vec<String> = self
            .shared
            .activity
            .calls()
            .iter()
            .map(|had| had.message.id.clone())
            .collect();
        for id in &ids {
            match terminate {
                true => self.shared.cancelled.end(id),
                false => self.shared.cancelled.spare(id),
            }
        }
        tracing::info!(?ids, terminate, "cancelled by remote control");
        let names: Vec<String> = ids
            .iter()
            .map(|id| format!("'{}'", id.escape_debug()))
            .collect();
        let ended: Vec<&str> = ids
            .iter()
            .filter(|id| running.contains(id))
            .map(String::as_str)
            .collect();
        let answer = match (terminate, ended.as_slice()) {
            (false, _) => format!("tasks {{{}}} flagged as revoked", names.join(", ")),
            (true, []) => "terminate: tasks unknown".into(),
            (true, ended) => format!("terminate: {}", ended.join(", ")),
        };
        let remembered = match terminate {
            true => ids,
            false => ids.iter().map(|id| spared(id)).collect(),
        };
        tokio::spawn(remember(self.shared.clone(), remembered));
        Answer::ok(answer)
    }

    fn task(&self, request: &Request) -> Option<&'static Definition> {
        self.shared.tasks.get(request.text("task_name")?)
    }

    fn rate_limit(&self, request: &Request) -> Answer {
        let Some(task) = self.task(request) else {
            return Answer::error("unknown task");
        };
        let rate = match request.argument("rate_limit") {
            None => "0".to_owned(),
            Some(Value::String(rate)) => rate.clone(),
            Some(rate) => rate.to_string(),
        };
        match self.shared.limits.set_rate(task.name, &rate) {
            Ok(()) => {
                tracing::info!(task = task.name, rate, "rate limited by remote control");
                Answer::ok("new rate limit set successfully")
            }
            Err(wrong) => Answer::error(wrong),
        }
    }

    fn time_limit(&self, request: &Request) -> Answer {
        let Some(task) = self.task(request) else {
            return Answer::error("unknown task");
        };
        let limit = match nearer(request.number("hard"), request.number("soft")) {
            Ok(limit) => limit,
            Err(error) => return Answer::error(format!("ValueError('{error}')")),
        };
        self.shared.limits.set_timeout(task.name, limit);
        tracing::info!(task = task.name, ?limit, "time limited by remote control");
        Answer::ok("time limits set successfully")
    }

    async fn resize(&self, request: &Request, change: fn(usize) -> Change, done: &str) -> Answer {
        let count = request.number("n").unwrap_or(1.0);
        if !(1.0..=MOST_SLOTS).contains(&count) {
            return Answer::error(format!("ValueError('n is from 1 to {MOST_SLOTS}')"));
        }
        self.wish(change(count as usize), done).await
    }

    async fn wish(&self, change: Change, done: &str) -> Answer {
        match self.wishes.make(change).await {
            Ok(()) => Answer::ok(done),
            Err(reason) => Answer::error(reason),
        }
    }

    async fn add_consumer(&self, request: &Request) -> Answer {
        let Some(name) = request.text("queue") else {
            return Answer::error("no `queue`");
        };
        let queue = Queue::new(name);
        if let Err(error) = queue.validate() {
            return Answer::error(error.to_string());
        }
        let most = self
            .shared
            .queues
            .borrow()
            .iter()
            .map(|(_, slots)| *slots)
            .max();
        let slots = match request.number("concurrency") {
            Some(slots) if (1.0..=MOST_SLOTS).contains(&slots) => slots as usize,
            Some(_) => return Answer::error(format!("concurrency is from 1 to {MOST_SLOTS}")),
            // As many as the largest of the others.
            None => most.unwrap_or(1),
        };
        let queue = queue.prefixed(self.shared.app.prefix());
        self.wish(Change::Add(queue, slots), &format!("add consumer {name}"))
            .await
    }

    async fn cancel_consumer(&self, request: &Request) -> Answer {
        let Some(name) = request.text("queue") else {
            return Answer::error("no `queue`");
        };
        let queue = format!("{}{name}", self.shared.app.prefix());
        self.wish(
            Change::Cancel(queue),
            &format!("no longer consuming from {name}"),
        )
        .await
    }
}

/// The nearer one of two time limits in seconds; as in Celery, 0 is none. A task of ours is dropped when its time is
/// up, and may clean up then, so the soft one ends it.
fn nearer(hard: Option<f64>, soft: Option<f64>) -> Result<Option<Duration>, TryFromFloatSecsError> {
    let limits = [hard, soft].into_iter().flatten();
    let limits: Vec<_> = limits
        .map(Duration::try_from_secs_f64)
        .collect::<Result<_, _>>()?;
    Ok(limits.into_iter().filter(|limit| !limit.is_zero()).min())
}

/// Has the broker remember cancelled calls, for workers that start later.
async fn remember(shared: Arc<Shared>, ids: Vec<String>) {
    for id in ids {
        if let Err(error) = shared.app.broker().cancel(&id).await {
            tracing::warn!(
                id,
                "cancelled until this worker ends, but not remembered: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_time_limit_counts_and_zero_is_none() {
        let second = Duration::from_secs(1);
        for (hard, soft, limit) in [
            (Some(10.0), Some(5.0), Some(5 * second)),
            (Some(5.0), Some(10.0), Some(5 * second)),
            (Some(10.0), None, Some(10 * second)),
            (None, Some(5.0), Some(5 * second)),
            (Some(0.0), Some(5.0), Some(5 * second)),
            (Some(0.0), Some(0.0), None),
            (None, None, None),
        ] {
            assert_eq!(nearer(hard, soft), Ok(limit), "{hard:?} {soft:?}");
        }
        assert!(nearer(Some(-1.0), None).is_err());
        assert!(nearer(None, Some(f64::NAN)).is_err());
    }
}
