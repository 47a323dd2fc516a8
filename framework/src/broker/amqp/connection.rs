//! A supervised connection: whoever needs it connects it again, and everybody sees when the server takes
//! no messages.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::stream;
use crate::broker::url::{BrokerUrl, redact};
use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take to answer one request.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// Channel numbers tried on one connection before it is replaced.
const CHANNEL_ATTEMPTS: usize = 16;
/// Closing hangs on a blocked connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const HEARTBEAT: u16 = 10;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// What the server or the connection had against a request.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// AMQP's reply code, where the server sent one.
    pub(super) code: Option<u16>,
    /// In words.
    pub(super) text: String,
}

impl Trouble {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            code: None,
            text: text.into(),
        }
    }

    /// Whether the server speaks of its own state, which passes: it stops (320), lacks resources (506),
    /// fails inside (541), or the queue's node is down.
    fn passes(&self) -> bool {
        matches!(self.code, Some(320 | 506 | 541)) || self.text.contains("down or inaccessible")
    }

    /// The server's refusal of `what`.
    pub(super) fn refused(self, what: impl Into<String>) -> Error {
        match self.code {
            Some(_) if !self.passes() => Error::Refused {
                what: what.into(),
                reason: self.text,
            },
            _ => Error::Unavailable {
                what: what.into(),
                waited: RPC_TIMEOUT,
                reason: self.text,
            },
        }
    }
}

impl From<lapin::Error> for Trouble {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) => Self {
                code: Some(said.get_id()),
                text: said.get_message().to_string(),
            },
            _ => Self::new(error.to_string()),
        }
    }
}

/// Awaits the server's answer, but not for ever.
pub(super) async fn rpc<T>(
    request: impl Future<Output = lapin::Result<T>>,
) -> std::result::Result<T, Trouble> {
    match timeout(RPC_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(Trouble::from),
        Err(_) => Err(Trouble::new(format!("no answer within {RPC_TIMEOUT:?}"))),
    }
}

/// Waits that grow, each with a random part so that a crowd of clients does not return in step.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }

    /// Waits; the first time not at all.
    pub(super) async fn wait(&mut self) {
        if let Some(steps) = self.0.checked_sub(1) {
            let full = FIRST_BACKOFF
                .saturating_mul(1 << steps.min(10))
                .min(LAST_BACKOFF);
            let random = uuid::Uuid::new_v4().as_u128() as u8;
            sleep(full.mul_f64(0.5 + f64::from(random) / 512.0)).await;
        }
        self.0 = self.0.saturating_add(1);
    }
}

/// A connection that was alive when it was handed out.
pub(super) struct Live {
    connection: Connection,
    /// Opens no channels any more, so another connection is to take its place.
    spent: AtomicBool,
}

impl Live {
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected() && !self.spent.load(Ordering::Relaxed)
    }

    /// Opens a channel.
    ///
    /// When lapin has used all channel numbers and begins anew, it fails with the error that once closed a
    /// number's former channel. That error is not about us, and the next number may be good.
    pub(super) async fn channel(&self) -> std::result::Result<Channel, Trouble> {
        let mut last = String::new();
        for _ in 0..CHANNEL_ATTEMPTS {
            match timeout(RPC_TIMEOUT, self.connection.create_channel()).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => {
                    last = format!("no answer within {RPC_TIMEOUT:?}");
                    break;
                }
            }
            if !self.is_up() {
                break;
            }
        }
        self.spent.store(true, Ordering::Relaxed);
        Err(Trouble::new(format!("no channel can be opened: {last}")))
    }
}

/// Keeps one connection: whoever needs it connects it.
pub(super) struct Slot {
    addresses: Vec<String>,
    name: String,
    state: tokio::sync::Mutex<(Option<Arc<Live>>, Backoff)>,
    blocked: watch::Sender<Option<String>>,
    closing: watch::Receiver<bool>,
    last_error: Mutex<String>,
    connects: AtomicU64,
}

impl Slot {
    pub(super) fn new(url: &BrokerUrl, name: String, closing: watch::Receiver<bool>) -> Self {
        Self {
            addresses: url.addresses.clone(),
            name,
            state: tokio::sync::Mutex::default(),
            blocked: watch::channel(None).0,
            closing,
            last_error: Mutex::default(),
            connects: AtomicU64::new(0),
        }
    }

    /// The live connection, after as many attempts as it takes.
    pub(super) async fn get(&self) -> Result<Arc<Live>> {
        // One at a time: whoever holds the lock connects for all.
        let mut state = self.state.lock().await;
        let (live, backoff) = &mut *state;
        loop {
            if let Some(live) = live.as_ref().filter(|live| live.is_up()) {
                return Ok(live.clone());
            }
            *live = None;
            let mut closing = self.closing.clone();
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return Err(closed()),
                () = backoff.wait() => {}
            }
            if let Ok(connected) = self.try_all().await {
                backoff.reset();
                *live = Some(connected);
            }
        }
    }

    /// Tries each address once.
    async fn try_all(&self) -> Result<Arc<Live>> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match self.try_one(address).await {
                Ok(live) => return Ok(live),
                Err(reason) => reasons.push((redact(address), reason)),
            }
        }
        let (url, reason) = match reasons.len() {
            1 => reasons.remove(0),
            _ => {
                let all = reasons
                    .iter()
                    .map(|(url, reason)| format!("{url}: {reason}"));
                (
                    redact(&self.addresses.join(";")),
                    all.collect::<Vec<_>>().join("; "),
                )
            }
        };
        tracing::debug!(connection = %self.name, %url, %reason, "cannot connect to RabbitMQ");
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&reason);
        Err(Error::Connect { url, reason })
    }

    async fn try_one(&self, address: &str) -> std::result::Result<Arc<Live>, String> {
        let uri = parse(address)?;
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "garenne".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let connection = timeout(CONNECT_TIMEOUT, stream::connect(uri, properties))
            .await
            .map_err(|_| {
                format!(
                    "no answer within {CONNECT_TIMEOUT:?}: is this RabbitMQ's AMQP port, \
                     and does a firewall stand between?"
                )
            })?
            .map_err(|error| explain(&error))?;
        let again = self.connects.fetch_add(1, Ordering::Relaxed) > 0;
        tracing::info!(connection = %self.name, url = %redact(address), again, "connected to RabbitMQ");
        self.blocked.send_replace(None);
        self.watch(&connection);
        Ok(Arc::new(Live {
            connection,
            spent: AtomicBool::new(false),
        }))
    }

    /// Follows what the server says about the connection as a whole.
    fn watch(&self, connection: &Connection) {
        let mut events = Box::pin(connection.events_listener());
        let status = connection.status().clone();
        let (blocked, name) = (self.blocked.clone(), self.name.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(connection = %name, %reason, "RabbitMQ takes no messages");
                        blocked.send_replace(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!(connection = %name, "RabbitMQ takes messages again");
                        blocked.send_replace(None);
                    }
                    // Errors of single channels are told here, too.
                    Event::Error(error) if !status.connected() => {
                        let reason = Trouble::from(error).text;
                        tracing::warn!(connection = %name, %reason, "the connection to RabbitMQ ended");
                        return;
                    }
                    _ => {}
                }
            }
        });
    }

    /// Why the server takes no messages, while it does not.
    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }

    /// What the last attempt to connect failed of.
    pub(super) fn last_error(&self) -> String {
        let reason = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match reason.as_str() {
            "" => "the connection does not get on".into(),
            reason => reason.into(),
        }
    }

    /// Connects, trying each address once.
    pub(super) async fn connect(&self) -> Result<()> {
        let live = self.try_all().await?;
        self.state.lock().await.0 = Some(live);
        Ok(())
    }

    pub(super) async fn close(&self) {
        let live = self.state.lock().await.0.take();
        if let Some(live) = live.filter(|live| live.connection.status().connected()) {
            let _ = timeout(CLOSE_TIMEOUT, live.connection.close(200, "bye".into())).await;
        }
    }
}

fn parse(address: &str) -> std::result::Result<AMQPUri, String> {
    // The parser's own words may repeat the URL with its password.
    let mut uri: AMQPUri = address.parse().map_err(|_| {
        "it is no AMQP URL: write amqp://user:password@host:5672/vhost, \
         with special characters percent-encoded"
            .to_owned()
    })?;
    let tls = cfg!(any(
        feature = "tls-rustls-ring",
        feature = "tls-rustls-aws",
        feature = "tls-native"
    ));
    if uri.scheme == AMQPScheme::AMQPS && !tls {
        return Err(
            "amqps:// needs TLS, which this build of garenne lacks: enable one of its \
                    features `tls-rustls-ring`, `tls-rustls-aws` or `tls-native`"
                .into(),
        );
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(uri)
}

fn explain(error: &lapin::Error) -> String {
    let said = Trouble::from(error.clone());
    let hint = match (said.code, error.kind()) {
        (Some(403), _) => "check the user and the password",
        (Some(530), _) => {
            "check the vhost at the URL's end (`/%2f` is the default one) and the user's permissions on it"
        }
        (_, ErrorKind::IOError(_)) => "check the address, and that RabbitMQ runs there",
        _ => "check the URL and the server's log",
    };
    format!("{} ({hint})", said.text)
}

pub(super) fn closed() -> Error {
    Error::Closed { what: "the broker" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_get_a_heartbeat_and_never_show_their_password() {
        assert_eq!(parse("amqp://h").map(|u| u.query.heartbeat), Ok(Some(10)));
        assert_eq!(
            parse("amqp://h?heartbeat=3").map(|u| u.query.heartbeat),
            Ok(Some(3))
        );
        let error = parse("amqp://u:secret@h:99999999").expect_err("bad port");
        assert!(!error.contains("secret"), "{error}");
    }

    #[cfg(not(any(
        feature = "tls-rustls-ring",
        feature = "tls-rustls-aws",
        feature = "tls-native"
    )))]
    #[test]
    fn tls_that_is_not_built_in_is_named() {
        let error = parse("amqps://h").expect_err("no TLS");
        assert!(error.contains("tls-rustls-ring"), "{error}");
    }
}
