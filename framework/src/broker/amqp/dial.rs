//! Connecting: each address in turn, and again, until a server lets us in.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::Backoff;
use super::handled::Handled;
use super::live::Trouble;
use super::stream::{self, Sanitized};
use crate::broker::url::redact;
use crate::error::Error;

/// How long a server may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After how much silence the next attempt begins beside the one that goes on: a peer that accepts and
/// says nothing must not keep us from the server that is back behind it.
const PATIENCE: Duration = Duration::from_secs(1);
const HEARTBEAT: u16 = 10;
/// The longest frame in bytes, RabbitMQ's own default. Where lapin hears it from the server only, it makes its buffers,
/// of 32 frames each, anew and writes all of them: 16 MiB that an idle worker would never use.
const FRAME_MAX: u32 = 128 * 1024;

/// A connection's socket, to be shut beside lapin, which keeps a thread and a connection for as long as a
/// mute peer lets it.
#[derive(Clone, Default)]
pub(super) struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    pub(super) fn shut(&self) {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = socket {
            // An error means that it is shut already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Shuts the socket of an attempt that nobody awaits any more.
struct ShutOnDrop(Option<Socket>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            socket.shut();
        }
    }
}

/// A server that let us in.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) socket: Socket,
    pub(super) handled: Handled,
    /// The address, its password masked.
    pub(super) url: String,
    /// Its place among the addresses.
    pub(super) place: usize,
}

/// How often to try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    /// Each address once.
    One,
    /// As often as it takes.
    Endless,
}

/// Tries the addresses in turn, from the `first` on: the next one when the one before has failed, or has been mute for a
/// while. Passes over all addresses are spaced by a growing, random wait. Every failure is told to `failed`.
///
/// # Errors
/// [`Error::Connect`] after the last pass.
pub(super) async fn dial(
    addresses: &[String],
    first: usize,
    name: &str,
    passes: Passes,
    failed: impl Fn(&Error),
) -> Result<Dialled, Error> {
    let mut attempts = FuturesUnordered::new();
    let mut reasons = Vec::new();
    let mut backoff = Backoff::default();
    let (mut begun, mut next) = (0, Instant::now() + backoff.next());
    loop {
        let more = passes == Passes::Endless || begun < addresses.len();
        tokio::select! {
            Some((address, done)) = attempts.next(), if !attempts.is_empty() => {
                let reason = match done {
                    Ok(dialled) => return Ok(dialled),
                    Err(reason) => reason,
                };
                let error = Error::Connect { url: redact(address), reason };
                failed(&error);
                reasons.push(error);
                reasons.drain(..reasons.len().saturating_sub(addresses.len()));
                let pass_ended = begun % addresses.len() == 0;
                let wait = if pass_ended { backoff.next() } else { Duration::ZERO };
                next = next.min(Instant::now() + wait);
            }
            () = sleep_until(next), if more => {
                let place = (first + begun) % addresses.len();
                let address = addresses[place].as_str();
                attempts.push(async move { (address, dial_one(address, place, name).await) });
                begun += 1;
                next = Instant::now() + PATIENCE;
            }
            else => return Err(all(addresses, reasons)),
        }
    }
}

/// One error of the failures at all addresses.
fn all(addresses: &[String], mut reasons: Vec<Error>) -> Error {
    if reasons.len() == 1 {
        return reasons.remove(0);
    }
    let each = reasons.iter().map(|error| match error {
        Error::Connect { url, reason } => format!("{url}: {reason}"),
        other => other.to_string(),
    });
    Error::Connect {
        url: redact(&addresses.join(";")),
        reason: each.collect::<Vec<_>>().join("; "),
    }
}

async fn dial_one(address: &str, place: usize, name: &str) -> Result<Dialled, String> {
    let uri = parse(address)?;
    match timeout(CONNECT_TIMEOUT, shake_hands(uri, name)).await {
        Ok(Ok((connection, socket, handled))) => Ok(Dialled {
            connection,
            socket,
            handled,
            url: redact(address),
            place,
        }),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err(format!(
            "no answer within {CONNECT_TIMEOUT:?}: is this RabbitMQ's AMQP port, \
             and does a firewall stand between?"
        )),
    }
}

/// Connects and logs in. Dropped in between, it leaves nothing behind.
async fn shake_hands(uri: AMQPUri, name: &str) -> lapin::Result<(Connection, Socket, Handled)> {
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "garenne".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let tokio = lapin::runtime::default_runtime()?;
    // Without TLS at first, so that the socket can be seen.
    let mut plain = uri.clone();
    plain.scheme = AMQPScheme::AMQP;
    let mut stream = plain
        .connect_with_config_async(TLSConfig::default(), &tokio)
        .await?;
    let mut shut = ShutOnDrop(None);
    if let AsyncTcpStream::Plain(stream) = &stream {
        shut.0 = Some(Socket::new(duplicate(stream.get_ref())?));
    }
    if uri.scheme == AMQPScheme::AMQPS {
        stream = stream
            .into_tls(&uri.authority.host, TLSConfig::default())
            .await?;
    }
    let handled = Handled::default();
    let stream = Sanitized::new(stream).telling(handled.clone());
    let stream = Mutex::new(Some(stream));
    let connected = Connection::connector(
        uri,
        stream::runtime(),
        // lapin may ask again after a failure, which is for us to try again.
        async move |_, _| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream =
                stream.ok_or(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))?;
            Ok(AsyncTcpStream::Plain(stream))
        },
        properties,
    );
    let connection = connected.await?;
    Ok((connection, shut.0.take().unwrap_or_default(), handled))
}

#[cfg(unix)]
fn duplicate(stream: &tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    use std::os::fd::AsFd;
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate(stream: &tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    Ok(stream.as_socket().try_clone_to_owned()?.into())
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
    uri.query.frame_max.get_or_insert(FRAME_MAX);
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
