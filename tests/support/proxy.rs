//! A TCP proxy that does to its connections what networks do: cuts, resets, delays, black holes, ports that
//! refuse.

#![allow(dead_code, reason = "each test crate uses its own part of it")]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// What is read at once, at most.
const CHUNK: usize = 16 * 1024;
/// How often a port that was closed is tried again, a hundred times at most.
const REOPEN: Duration = Duration::from_millis(50);

/// What lasts until other rules are set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Each chunk arrives so much later, in both directions.
    pub(crate) latency: Duration,
    /// Up to so much is added, at random.
    pub(crate) jitter: Duration,
    /// What a direction of a connection carries in a second; `None` is as much as it can.
    pub(crate) bytes_per_second: Option<u64>,
    /// Nothing flows, not even the end of a connection; new connections are accepted and get no answer.
    /// What was on its way arrives when this ends, as after a partition that TCP has survived.
    pub(crate) black_hole: bool,
    /// A connection is reset when it has carried so many bytes, both directions counted.
    pub(crate) cut_after: Option<u64>,
    /// New connections are accepted and closed at once.
    pub(crate) accept_then_close: bool,
    /// The port is closed: new connections are refused.
    pub(crate) closed_port: bool,
}

/// What happens once, to every connection there is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Blow {
    #[default]
    None,
    Cut,
    Reset,
    HalfClose,
}

/// Forwards connections to one address.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    rules: watch::Sender<Rules>,
    blows: watch::Sender<Blow>,
}

impl Proxy {
    /// A proxy for `target`, `host:port`. It ends with the runtime, or when it is dropped.
    pub(crate) async fn start(target: &str) -> Self {
        let listener = free_port().await;
        let address = listener.local_addr().expect("bound");
        let rules = watch::channel(Rules::default()).0;
        let blows = watch::channel(Blow::default()).0;
        tokio::spawn(listen(
            listener,
            target.to_owned(),
            rules.subscribe(),
            blows.subscribe(),
        ));
        Self {
            address,
            rules,
            blows,
        }
    }

    /// Sets what holds from now on, for connections that exist and for new ones.
    pub(crate) fn set(&self, rules: Rules) {
        self.rules.send_replace(rules);
    }

    /// Forwards as well as it can again.
    pub(crate) fn heal(&self) {
        self.set(Rules::default());
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.blows.send_replace(Blow::Cut);
    }

    /// Ends every connection with a reset.
    pub(crate) fn reset(&self) {
        self.blows.send_replace(Blow::Reset);
    }

    /// Tells every client that the server has ended its half; the server is told nothing, and what it
    /// sends goes nowhere.
    pub(crate) fn half_close(&self) {
        self.blows.send_replace(Blow::HalfClose);
    }

    /// Ends new connections at once, or lets them through again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.rules
            .send_modify(|rules| rules.accept_then_close = refuse);
    }
}

/// A port that the system gives to no outgoing connection, so that it can be closed and opened again.
async fn free_port() -> TcpListener {
    for _ in 0..100 {
        let port = 10_000 + u16::try_from(random(10_000)).expect("small");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
    }
    panic!("no port below 20000 is free");
}

/// A number below `bound`.
fn random(bound: u64) -> u64 {
    u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("8"))
        .checked_rem(bound)
        .unwrap_or(0)
}

async fn listen(
    listener: TcpListener,
    target: String,
    mut rules: watch::Receiver<Rules>,
    blows: watch::Receiver<Blow>,
) {
    let address = listener.local_addr().expect("bound");
    let mut listening = Some(listener);
    loop {
        let closed = rules.borrow_and_update().closed_port;
        if closed {
            listening = None;
        } else if listening.is_none() {
            listening = Some(reopen(address).await);
        }
        let accept = async {
            match &listening {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return },
            Ok((client, _)) = accept => {
                if !rules.borrow().accept_then_close {
                    tokio::spawn(forward(client, target.clone(), rules.clone(), blows.clone()));
                }
            }
        }
    }
}

async fn reopen(address: SocketAddr) -> TcpListener {
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        sleep(REOPEN).await;
    }
    panic!("the port of {address} was taken while the proxy had closed it");
}

/// How a direction of a connection ended.
#[derive(Debug, PartialEq)]
enum Ended {
    /// The one who sent has closed its half, and the other was told.
    Half,
    /// It is over for both directions.
    Whole { reset: bool },
}

/// One connection, until it ends.
async fn forward(
    client: TcpStream,
    target: String,
    mut rules: watch::Receiver<Rules>,
    mut blows: watch::Receiver<Blow>,
) {
    blows.mark_unchanged();
    // A connection made in a black hole reaches nobody, until it ends.
    let reached = async {
        let _ = rules.wait_for(|rules| !rules.black_hole).await;
        TcpStream::connect(target).await
    };
    let server = tokio::select! {
        server = reached => server,
        _ = blows.changed() => return,
    };
    let Ok(server) = server else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let passed = AtomicU64::new(0);
    let up = Link::new(rules.clone(), &passed);
    let down = Link::new(rules, &passed);
    // A half-closed connection carries nothing to its client any more.
    let (half_close, half_closing) = mpsc::channel(1);
    let pumps = async {
        let up = up.pump(&from_client, &mut to_server, None);
        let down = down.pump(&from_server, &mut to_client, Some(half_closing));
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        tokio::select! {
            Ended::Whole { reset } = &mut up => reset,
            Ended::Whole { reset } = &mut down => reset,
            else => false,
        }
    };
    let blown = async {
        loop {
            if blows.changed().await.is_err() {
                return false;
            }
            match *blows.borrow_and_update() {
                Blow::None => {}
                Blow::Cut => return false,
                Blow::Reset => return true,
                // Full means that it was told before.
                Blow::HalfClose => drop(half_close.try_send(())),
            }
        }
    };
    let reset = tokio::select! {
        reset = pumps => reset,
        reset = blown => reset,
    };
    if reset {
        let _ = from_client.as_ref().set_zero_linger();
        let _ = from_server.as_ref().set_zero_linger();
        // Dropped, they would end the connections in good order first.
        to_client.forget();
        to_server.forget();
    }
}

/// A direction of a connection.
struct Link<'a> {
    rules: watch::Receiver<Rules>,
    /// What the connection has carried so far.
    passed: &'a AtomicU64,
}

impl<'a> Link<'a> {
    fn new(rules: watch::Receiver<Rules>, passed: &'a AtomicU64) -> Self {
        Self { rules, passed }
    }

    /// Carries bytes until there are no more, or `half_closing` says so.
    async fn pump(
        mut self,
        from: &OwnedReadHalf,
        to: &mut OwnedWriteHalf,
        mut half_closing: Option<mpsc::Receiver<()>>,
    ) -> Ended {
        let mut chunk = vec![0; CHUNK];
        loop {
            let half_close = async {
                match &mut half_closing {
                    Some(asked) => asked.recv().await,
                    None => std::future::pending().await,
                }
            };
            let size = self.chunk();
            let read = tokio::select! {
                read = read(from, &mut chunk[..size]) => read,
                _ = half_close => {
                    let _ = to.shutdown().await;
                    return swallow(from, &mut chunk).await;
                }
            };
            self.hold(*read.as_ref().unwrap_or(&0)).await;
            let Ok(size) = read else {
                return Ended::Whole { reset: true };
            };
            if size == 0 {
                return match to.shutdown().await {
                    Ok(()) => Ended::Half,
                    Err(_) => Ended::Whole { reset: false },
                };
            }
            let (size, cut) = self.allowed(size);
            if to.write_all(&chunk[..size]).await.is_err() || cut {
                return Ended::Whole { reset: true };
            }
        }
    }

    /// How much is read at once: on a slow link, what it carries in a tenth of a second.
    fn chunk(&self) -> usize {
        match self.rules.borrow().bytes_per_second {
            Some(speed) => usize::try_from(speed / 10).unwrap_or(CHUNK).clamp(1, CHUNK),
            None => CHUNK,
        }
    }

    /// Waits as the rules say before `size` bytes arrive.
    async fn hold(&mut self, size: usize) {
        let _ = self.rules.wait_for(|rules| !rules.black_hole).await;
        let rules = self.rules.borrow().clone();
        let jitter = u64::try_from(rules.jitter.as_micros()).unwrap_or(u64::MAX);
        let mut wait = rules.latency + Duration::from_micros(random(jitter));
        if let Some(speed) = rules.bytes_per_second {
            wait += Duration::from_secs_f64(size as f64 / speed.max(1) as f64);
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// How many of `size` bytes may pass, and whether the connection is cut then.
    fn allowed(&self, size: usize) -> (usize, bool) {
        let before = self.passed.fetch_add(size as u64, Ordering::Relaxed);
        match self.rules.borrow().cut_after {
            Some(limit) if before + size as u64 >= limit => {
                (limit.saturating_sub(before) as usize, true)
            }
            _ => (size, false),
        }
    }
}

async fn read(from: &OwnedReadHalf, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Reads what nobody gets.
async fn swallow(from: &OwnedReadHalf, chunk: &mut [u8]) -> Ended {
    loop {
        match read(from, chunk).await {
            Ok(0) => return Ended::Half,
            Ok(_) => {}
            Err(_) => return Ended::Whole { reset: true },
        }
    }
}
