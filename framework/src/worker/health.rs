//! How a worker is, for whoever supervises it: live, ready, consuming, or why not.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// A question may take this long, with its answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// More of a question is not read.
const LONGEST_QUESTION: usize = 4096;
/// Questions answered at a time.
const QUESTIONS: usize = 32;
/// The worker looks at itself every second. Where it has not for so long, its runtime is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// How a worker is. Shared by those who know and those who ask.
#[derive(Debug, Clone)]
pub(super) struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Why a queue gives nothing, if so.
    queues: BTreeMap<String, Option<String>>,
    /// When the worker last looked at itself.
    looked: Instant,
    /// Why nothing helps any more.
    given_up: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Working,
    Stopping,
}

/// What Kubernetes' probes ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Restart the process?
    Live,
    /// Has it started, and does it reach its broker?
    Ready,
    /// Does it get what waits for it?
    Consuming,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::Starting,
            queues: BTreeMap::new(),
            looked: Instant::now(),
            given_up: None,
        })))
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn works(&self) {
        self.state().phase = Phase::Working;
    }

    pub(super) fn stops(&self) {
        self.state().phase = Phase::Stopping;
    }

    /// A queue is not taken from any more.
    pub(super) fn forget_queue(&self, queue: &str) {
        self.state().queues.remove(queue);
    }

    /// Notes why a queue gives nothing, or that it does.
    pub(super) fn of_queue(&self, queue: &str, trouble: Option<String>) {
        let mut state = self.state();
        state.looked = Instant::now();
        match state.queues.get_mut(queue) {
            Some(known) => *known = trouble,
            None => drop(state.queues.insert(queue.to_owned(), trouble)),
        }
    }

    /// Notes that only a new process helps.
    pub(super) fn give_up(&self, why: String) {
        self.state().given_up = Some(why);
    }

    /// Answers questions at `address`, on a thread of its own: tasks that keep the runtime busy must not
    /// look like a dead process. Ends with the returned sender.
    ///
    /// # Errors
    /// Where `address` is none, or taken.
    pub(super) fn serve(&self, address: &str) -> Result<oneshot::Sender<()>> {
        let refused = |reason: String| Error::invalid("health address", address, reason);
        let at = parse(address).ok_or_else(|| {
            refused("write a port, or an IP address and a port, like 127.0.0.1:8080".into())
        })?;
        let listener = std::net::TcpListener::bind(at).map_err(|e| refused(e.to_string()))?;
        listener
            .set_nonblocking(true)
            .map_err(|e| refused(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| refused(e.to_string()))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let health = self.clone();
        tracing::info!(address = %at, "answering /live, /ready and /consuming");
        std::thread::Builder::new()
            .name("garenne-health".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = health.answer_all(listener) => {}
                    }
                });
            })
            .map_err(|e| refused(e.to_string()))?;
        Ok(stop)
    }

    async fn answer_all(&self, listener: std::net::TcpListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "no health endpoint"),
        };
        let places = Arc::new(Semaphore::new(QUESTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let health = self.clone();
                    tokio::spawn(async move {
                        // Who does not ask, or does not listen, is not waited for.
                        let _ = timeout(PATIENCE, health.answer(stream)).await;
                        drop(place);
                    });
                }
                // Out of file descriptors, for example: better later than in a hot loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Reads one HTTP request and answers it.
    async fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let asked = read_head(&stream).await?;
        let line = String::from_utf8_lossy(&asked);
        let mut words = line.split_ascii_whitespace();
        let (method, target) = (words.next(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (status, body) = match (method, path) {
            (Some("GET" | "HEAD"), "/live") => self.state().reply(Question::Live),
            (Some("GET" | "HEAD"), "/ready") => self.state().reply(Question::Ready),
            (Some("GET" | "HEAD"), "/consuming" | "/") => self.state().reply(Question::Consuming),
            (Some("GET" | "HEAD"), _) => (
                "404 Not Found",
                json!({ "reason": "ask /live, /ready or /consuming" }),
            ),
            _ => ("405 Method Not Allowed", json!({ "reason": "only GET" })),
        };
        let body = format!("{body}\n");
        let mut answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\nconnection: close\r\n\r\n",
            body.len()
        );
        if method != Some("HEAD") {
            answer.push_str(&body);
        }
        write_all(&stream, answer.as_bytes()).await
    }
}

/// Reads to the end of a request's head, or as much as is enough.
async fn read_head(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; LONGEST_QUESTION];
    let mut length = 0;
    while length < head.len() && !head[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        stream.readable().await?;
        match stream.try_read(&mut head[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(length);
    Ok(head)
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl State {
    /// Why not, if not.
    fn against(&self, question: Question) -> Option<String> {
        if let Some(why) = &self.given_up {
            return Some(why.clone());
        }
        if question == Question::Live {
            return None;
        }
        match self.phase {
            Phase::Starting => return Some("the worker starts".into()),
            Phase::Stopping => return Some("the worker stops".into()),
            Phase::Working => {}
        }
        let stuck = self.looked.elapsed();
        if question == Question::Consuming && stuck > STUCK {
            return Some(format!(
                "the runtime's threads have been busy for {stuck:.0?}: \
                 work that blocks belongs in a plain `fn` task"
            ));
        }
        let mut troubles = self.queues.iter().filter_map(|(queue, trouble)| {
            let trouble = trouble.as_ref()?;
            Some(format!("queue `{queue}`: {trouble}"))
        });
        troubles.next()
    }

    fn reply(&self, question: Question) -> (&'static str, Value) {
        let reason = self.against(question);
        let status = match reason {
            None => "200 OK",
            Some(_) => "503 Service Unavailable",
        };
        let is = |question| self.against(question).is_none();
        let body = json!({
            "live": is(Question::Live),
            "ready": is(Question::Ready),
            "consuming": is(Question::Consuming),
            "reason": reason,
            "queues": self.queues.iter().map(|(queue, trouble)| (queue.clone(), json!({
                "consuming": trouble.is_none(),
                "reason": trouble,
            }))).collect::<serde_json::Map<_, _>>(),
        });
        (status, body)
    }
}

/// `8080` is that port on this machine only.
fn parse(address: &str) -> Option<SocketAddr> {
    match address.parse::<u16>() {
        Ok(port) => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => address.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_open_to_this_machine_only() {
        let at = parse("8080").expect("a port");
        assert_eq!(at.to_string(), "127.0.0.1:8080");
        assert!(parse("0.0.0.0:80").is_some());
        for wrong in ["", "localhost", "99999", "a:b"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn each_question_has_its_own_reasons() {
        let health = Health::default();
        let ask = |question| health.state().against(question);
        assert_eq!(ask(Question::Live), None);
        assert_eq!(ask(Question::Ready).as_deref(), Some("the worker starts"));
        health.works();
        health.of_queue("default", None);
        assert_eq!(ask(Question::Consuming), None);
        health.of_queue("default", Some("no connection".into()));
        let why = ask(Question::Consuming).expect("an outage");
        assert_eq!(why, "queue `default`: no connection");
        assert_eq!(ask(Question::Ready), Some(why));
        assert_eq!(ask(Question::Live), None);
        health.of_queue("default", None);
        if let Some(long_ago) = Instant::now().checked_sub(2 * STUCK) {
            health.state().looked = long_ago;
            assert_eq!(ask(Question::Ready), None);
            assert!(ask(Question::Consuming).is_some());
        }
        health.stops();
        assert_eq!(ask(Question::Ready).as_deref(), Some("the worker stops"));
        health.give_up("deaf".into());
        assert_eq!(ask(Question::Live).as_deref(), Some("deaf"));
    }
}
