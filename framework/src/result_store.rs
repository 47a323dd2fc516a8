//! Results kept in Redis, in the keys and channels of Celery's Redis backend: Python's `AsyncResult` reads
//! what our workers wrote, our handles read what Python's wrote, any number of times, from any process.
//!
//! A result is the string `celery-task-meta-<id>`, a JSON object as in a reply, and is published on the channel
//! of the same name. Source: `celery.backends.redis` of Celery 5.3 to 5.7.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, PushInfo, PushKind, RedisError, Script, Value};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::broker::url::redact;
use crate::error::{Error, Result};
use crate::message::{Headers, Message};
use crate::reply::{Progress, Reply};
use crate::waiters::{Waiters, Waiting};

mod chord;

pub(crate) use chord::Claim;

/// What stands before an id in a result's key.
const KEY: &str = "celery-task-meta-";
/// How often awaited results are looked for that a lost connection may have hidden.
const LOOK: Duration = Duration::from_secs(5);
/// Results asked for at a time.
const AT_ONCE: usize = 500;
/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to try to keep one result, over however many connections.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// What Redis says while it takes no writes: it is full, cannot save, is a replica, starts, is being set up.
const PASSING: [&str; 10] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOPERM",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
];

/// Keeps a result unless a success is kept already, as Celery does, and tells who waits.
const KEEP: &str = r"
local kept = redis.call('GET', KEYS[1])
if kept then
    local read, result = pcall(cjson.decode, kept)
    if read and type(result) == 'table' and result['status'] == 'SUCCESS' then
        return 0
    end
end
if tonumber(ARGV[2]) > 0 then
    redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
";

/// Keeps the state of a call that still runs, unless it is done.
const SHOW: &str = r"
local kept = redis.call('GET', KEYS[1])
if kept then
    local read, result = pcall(cjson.decode, kept)
    local status = read and type(result) == 'table' and result['status']
    if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then
        return 0
    end
end
if tonumber(ARGV[2]) > 0 then
    redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
";

/// Where results outlive who awaits them.
#[derive(Clone)]
pub(crate) struct ResultStore(Arc<Inner>);

struct Inner {
    redis: ConnectionManager,
    /// For errors and logs, its password masked.
    url: String,
    keep: Script,
    show: Script,
    /// How long a result is kept; zero means for ever.
    expires: Duration,
    waiters: Weak<Waiters>,
    /// Ids whose channels we listen to.
    followed: Mutex<HashSet<String>>,
    looking: OnceCell<()>,
}

impl ResultStore {
    /// Connects to the Redis at `url`; results that are followed go to `waiters`.
    pub(crate) async fn connect(
        url: &str,
        expires: Duration,
        waiters: &Arc<Waiters>,
    ) -> Result<Self> {
        let shown = redact(url);
        let invalid = |error: redis::RedisError| Error::InvalidUrl {
            url: shown.clone(),
            reason: format!("it names no result store: {error}"),
        };
        let failed = |reason: String| Error::Connect {
            url: shown.clone(),
            reason,
        };
        // Only in this version of the protocol one connection takes both commands and messages.
        let separator = if url.contains('?') { '&' } else { '?' };
        let client = Client::open(format!("{url}{separator}protocol=resp3")).map_err(invalid)?;
        let told = Arc::downgrade(waiters);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER))
            .set_automatic_resubscription()
            .set_push_sender(move |push: PushInfo| match told.upgrade() {
                Some(waiters) => {
                    hear(&waiters, &push);
                    Ok(())
                }
                None => Err(()),
            });
        let redis = timeout(
            2 * ANSWER,
            ConnectionManager::new_with_config(client, config),
        )
        .await
        .map_err(|_| failed("no answer".into()))?
        .map_err(|error| failed(format!("{error}; it needs Redis 6 or newer")))?;
        Ok(Self(Arc::new(Inner {
            redis,
            url: shown,
            keep: Script::new(KEEP),
            show: Script::new(SHOW),
            expires,
            waiters: Arc::downgrade(waiters),
            followed: Mutex::default(),
            looking: OnceCell::new(),
        })))
    }

    /// Where it is, for logs.
    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    /// Keeps a reply for who asks for it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where Redis cannot be reached for long, [`Error::Refused`] where it says no.
    pub(crate) async fn keep(&self, reply: &Message) -> Result<()> {
        let what = format!("the result of call `{}`", reply.id);
        let expires = self.0.expires.as_secs();
        let mut keep = self.0.keep.key(key(&reply.id));
        keep.arg(&reply.body[..]).arg(expires);
        let keep = &keep;
        let ask = |mut redis| async move { keep.invoke_async::<i64>(&mut redis).await.map(drop) };
        self.patiently(&what, ask).await
    }

    /// Shows how far a call has come, unless it is done.
    pub(crate) async fn show(&self, progress: &Message) -> Result<()> {
        let what = format!("the progress of call `{}`", progress.id);
        let expires = self.0.expires.as_secs();
        let shown = async |mut redis| {
            let mut show = self.0.show.key(key(&progress.id));
            show.arg(&progress.body[..]).arg(expires);
            show.invoke_async::<i64>(&mut redis).await.map(drop)
        };
        let redis = self.0.redis.clone();
        shown(redis)
            .await
            .map_err(|error| self.refused(&what, &error))
    }

    /// Asks Redis for something, again and again while it cannot be reached, or takes no writes.
    async fn patiently<T, F>(&self, what: &str, ask: impl Fn(ConnectionManager) -> F) -> Result<T>
    where
        F: Future<Output = redis::RedisResult<T>>,
    {
        let mut said = String::from("it does not answer");
        let patience = async {
            loop {
                match ask(self.0.redis.clone()).await {
                    Err(error) if is_passing(&error) => {
                        tracing::warn!(url = self.0.url, "{what} waits for Redis: {error}");
                        said = error.to_string();
                        sleep(PAUSE).await;
                    }
                    done => return done,
                }
            }
        };
        match timeout(PATIENCE, patience).await {
            Ok(done) => done.map_err(|error| self.refused(what, &error)),
            Err(_) => Err(Error::Unavailable {
                what: format!("{what} for {}", self.0.url),
                waited: PATIENCE,
                reason: said,
            }),
        }
    }

    fn refused(&self, what: &str, error: &redis::RedisError) -> Error {
        Error::Refused {
            what: format!("{what} for {}", self.0.url),
            reason: error.to_string(),
        }
    }

    /// Hands the result of `id` to who awaits it, now or when it is there.
    pub(crate) async fn follow(&self, id: &str) -> Result<()> {
        let failed = |error: redis::RedisError| Error::Unavailable {
            what: format!(
                "the question for the result of call `{id}` to {}",
                self.0.url
            ),
            waited: ANSWER,
            reason: error.to_string(),
        };
        self.0
            .looking
            .get_or_init(async || drop(tokio::spawn(look(Arc::downgrade(&self.0)))))
            .await;
        if self.0.followed().insert(id.to_owned()) {
            let mut redis = self.0.redis.clone();
            redis.subscribe(key(id)).await.map_err(failed)?;
        }
        // Only after listening: what comes between the two is heard.
        self.0.fetch(&[id.to_owned()]).await.map_err(failed)
    }
}

impl App {
    /// Connects to the result backend, where one is set.
    pub(crate) async fn connect_results(&self) -> Result<()> {
        let settings = self.settings();
        if let Some(url) = &settings.result_backend {
            let store = ResultStore::connect(url, settings.result_expires, self.waiters()).await?;
            // An error means that there is one already.
            let _ = self.result_cell().set(store);
        }
        Ok(())
    }

    /// Where results are kept, if somewhere.
    pub(crate) fn results(&self) -> Option<&ResultStore> {
        self.result_cell().get()
    }

    /// Awaits the result of a call that may have been sent elsewhere.
    pub(crate) async fn await_kept(&self, id: &str) -> Result<Arc<Waiting>> {
        let Some(results) = self.results() else {
            let reason = "this app keeps no results: give its builder a `result_backend`";
            return Err(Error::invalid("handle", id, reason));
        };
        let waiting = self.waiters().add(id)?;
        results.follow(id).await?;
        Ok(waiting)
    }

    /// Also looks for the result of a sent call where Python's workers may keep it. The call is sent: nothing waits
    /// for a Redis that is away.
    pub(crate) fn follow(&self, waiting: Option<&Waiting>) {
        if let (Some(results), Some(waiting)) = (self.results(), waiting) {
            let (results, id) = (results.clone(), waiting.id().to_owned());
            tokio::spawn(async move {
                if let Err(error) = results.follow(&id).await {
                    // It is looked at again and again.
                    tracing::warn!(id, "{error}");
                }
            });
        }
    }
}

impl Inner {
    fn followed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for results that may be there.
    async fn fetch(&self, ids: &[String]) -> redis::RedisResult<()> {
        let Some(waiters) = self.waiters.upgrade() else {
            return Ok(());
        };
        let mut redis = self.redis.clone();
        let keys: Vec<_> = ids.iter().map(|id| key(id)).collect();
        let kept: Vec<Option<Vec<u8>>> = redis.mget(keys).await?;
        for (id, body) in ids.iter().zip(kept) {
            if let Some(body) = body {
                tell(&waiters, id, body);
            }
        }
        Ok(())
    }

    /// Stops listening for results that nobody awaits any more; returns the ids of the others.
    async fn forget_the_settled(&self) -> Vec<String> {
        let Some(waiters) = self.waiters.upgrade() else {
            return Vec::new();
        };
        let all: Vec<String> = self.followed().iter().cloned().collect();
        let (awaited, settled): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|id| waiters.is_awaited(id));
        let mut redis = self.redis.clone();
        for id in settled {
            self.followed().remove(&id);
            if let Err(error) = redis.unsubscribe(key(&id)).await {
                tracing::debug!(id, "cannot unsubscribe: {error}");
            }
        }
        awaited
    }
}

/// Looks now and then for results that were published while the connection was away.
async fn look(store: Weak<Inner>) {
    loop {
        sleep(LOOK).await;
        let Some(store) = store.upgrade() else { return };
        let awaited = store.forget_the_settled().await;
        for ids in awaited.chunks(AT_ONCE) {
            if let Err(error) = store.fetch(ids).await {
                tracing::debug!(url = store.url, "cannot look for results: {error}");
            }
        }
    }
}

/// Takes what Redis says unasked.
fn hear(waiters: &Waiters, push: &PushInfo) {
    if push.kind != PushKind::Message {
        return;
    }
    if let [Value::BulkString(channel), Value::BulkString(body)] = &push.data[..]
        && let Ok(channel) = std::str::from_utf8(channel)
        && let Some(id) = channel.strip_prefix(KEY)
    {
        tell(waiters, id, body.clone());
    }
}

fn tell(waiters: &Waiters, id: &str, body: Vec<u8>) {
    let message = Message {
        headers: Headers::new(),
        body: body.into(),
        ..Message::default()
    };
    match Reply::decode(&message) {
        Ok(Some(reply)) => waiters.complete(id, reply.outcome),
        // It runs, or is to be retried.
        Ok(None) => {
            if let Some(progress) = Progress::decode(&message) {
                waiters.tell(id, progress.value);
            }
        }
        Err(unreadable) => tracing::warn!(id, %unreadable, "ignored a result in Redis"),
    }
}

fn key(id: &str) -> String {
    format!("{KEY}{id}")
}

/// Whether Redis may take it later: it cannot be reached, or takes no writes.
fn is_passing(error: &RedisError) -> bool {
    // Before Redis 7, what a script is refused is in the middle of a text.
    let mut words = error.code().into_iter().chain(
        error
            .detail()
            .into_iter()
            .flat_map(|text| text.split(|c: char| !c.is_ascii_uppercase())),
    );
    error.is_unrecoverable_error()
        || error.is_io_error()
        || words.any(|word| PASSING.contains(&word))
}

#[cfg(test)]
mod tests {
    use redis::ErrorKind;

    use super::*;

    fn said(code: &str, text: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), Some(text.to_owned()))
    }

    #[test]
    fn a_redis_that_takes_no_writes_is_waited_for() {
        let full = "command not allowed when used memory > 'maxmemory'.";
        for (code, text) in [
            ("OOM", full),
            ("MISCONF", "Redis is configured to save RDB snapshots, but"),
            ("READONLY", "You can't write against a read only replica."),
            ("LOADING", "Redis is loading the dataset in memory"),
            ("NOPERM", "this user has no permissions to run the command"),
            (
                "ERR",
                "Error running script: @user_script:10: -OOM command not allowed",
            ),
        ] {
            assert!(is_passing(&said(code, text)), "{code} {text}");
        }
        assert!(is_passing(&(ErrorKind::Io, "gone").into()));
        let wrong = said(
            "WRONGTYPE",
            "Operation against a key holding the wrong kind",
        );
        assert!(!is_passing(&wrong));
    }
}
