//! Redis goes away while tasks finish, and comes back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use garenne::{Ack, Handle, RunningWorker, SECOND, Worker, task};

use super::{Stage, chords};
use crate::support::{eventually, unique, within};

/// A Redis server of a test's own, killed at the end.
struct Redis {
    port: u16,
    dir: PathBuf,
    server: Child,
}

impl Redis {
    /// `None`, said aloud, where there is no `redis-server`.
    async fn start() -> Option<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let dir = std::env::temp_dir().join(unique("redis"));
        std::fs::create_dir(&dir).expect("a folder");
        let Ok(server) = serve(port, &dir) else {
            eprintln!("skipped: there is no `redis-server`");
            return None;
        };
        let redis = Self { port, dir, server };
        redis.listens().await;
        Some(redis)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its answer to a command, which it is to take.
    fn ask(&self, command: &str) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("Redis");
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("asked");
        let mut answer = [0; 64];
        let size = stream.read(&mut answer).expect("answered");
        let answer = String::from_utf8_lossy(&answer[..size]);
        assert!(!answer.starts_with('-'), "{command}: {answer}");
    }

    fn stop(&mut self) {
        self.server.kill().expect("killed");
        self.server.wait().expect("ended");
    }

    async fn come_back(&mut self) {
        self.server = serve(self.port, &self.dir).expect("redis-server");
        self.listens().await;
    }

    async fn listens(&self) {
        let address = (Ipv4Addr::LOCALHOST, self.port);
        eventually("Redis", || async { TcpStream::connect(address).is_ok() }).await;
    }
}

fn serve(port: u16, dir: &PathBuf) -> std::io::Result<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .spawn()
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

#[task(name = "outage.double")]
async fn double(number: i64) -> i64 {
    2 * number
}

/// How often [`count`] ran, for each test that counts.
static RUNS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

#[task(name = "outage.count")]
async fn count(which: usize, size: usize) -> String {
    RUNS[which].fetch_add(1, Ordering::SeqCst);
    "x".repeat(size)
}

async fn busy(stage: &Stage, app: &garenne::App) -> RunningWorker {
    let worker = Worker::new(app)
        .queue(&*stage.queue, 4)
        .state(chords::Log::default())
        .grace(SECOND)
        .spawn();
    assert!(worker.ready().await);
    worker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_wait_for_redis_and_no_call_is_lost() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let Some(mut redis) = Redis::start().await else {
        return;
    };
    stage.redis = redis.url();
    let app = stage.app().await;
    let worker = busy(&stage, &app).await;
    redis.stop();
    let mut sent = Vec::new();
    for number in 0..12 {
        let call = double::call(number).queue(&*stage.queue);
        let call = if number % 3 == 0 {
            call.ack(Ack::Early)
        } else {
            call
        };
        let begun = Instant::now();
        sent.push(within("a send", call.send(&app)).await.expect("sent"));
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "a send waits for Redis"
        );
    }
    // Some of them are done by now, and wait with their slots.
    tokio::time::sleep(2 * SECOND).await;
    redis.come_back().await;
    let elsewhere = stage.app().await;
    for (number, call) in (0..).zip(sent) {
        let kept: Handle<i64> = Handle::from_id(&elsewhere, call.id()).await.expect("Redis");
        assert_eq!(within("a kept result", kept).await, Ok(2 * number));
        assert_eq!(within("a result", call).await, Ok(2 * number));
    }
    worker.stop().await.expect("stopped");
    assert_eq!(app.dead_letters(&stage.queue).count().await.ok(), Some(0));
    elsewhere.close().await;
    stage.clean(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_while_redis_is_away_gives_its_calls_back() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let Some(mut redis) = Redis::start().await else {
        return;
    };
    stage.redis = redis.url();
    let app = stage.app().await;
    let worker = busy(&stage, &app).await;
    redis.stop();
    let call = double::call(21).queue(&*stage.queue);
    let sent = call.send(&app).await.expect("sent");
    let id = sent.id().to_owned();
    let is_taken = || async {
        app.depth(&stage.queue)
            .await
            .is_ok_and(|depth| depth.ready == 0)
    };
    eventually("it is taken", is_taken).await;
    within("a stop", worker.stop()).await.expect("stopped");
    redis.come_back().await;
    let elsewhere = stage.app().await;
    let worker = busy(&stage, &elsewhere).await;
    let kept: Handle<i64> = Handle::from_id(&elsewhere, id).await.expect("Redis");
    assert_eq!(within("a kept result", kept).await, Ok(42));
    worker.stop().await.expect("stopped");
    elsewhere.close().await;
    stage.clean(&app).await;
}

/// A result that Redis does not take is no reason to run its task again.
async fn refused(which: usize, size: usize, refuse: fn(&Redis, &str), take: fn(&Redis, &str)) {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let Some(redis) = Redis::start().await else {
        return;
    };
    stage.redis = redis.url();
    let app = stage.app().await;
    let worker = busy(&stage, &app).await;
    let id = unique("refused");
    refuse(&redis, &id);
    let call = count::call(which, size).queue(&*stage.queue).id(&*id);
    let sent = call.send(&app).await.expect("sent");
    let runs = || RUNS[which].load(Ordering::SeqCst);
    eventually("it runs", || async { runs() > 0 }).await;
    // It comes again every second, or is waited with.
    tokio::time::sleep(4 * SECOND).await;
    take(&redis, &id);
    let result = within("a result", sent).await.expect("a result");
    assert_eq!(result.len(), size);
    assert_eq!(runs(), 1);
    worker.stop().await.expect("stopped");
    assert_eq!(app.dead_letters(&stage.queue).count().await.ok(), Some(0));
    stage.clean(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_is_waited_for() {
    let full = |redis: &Redis, _: &str| redis.ask("CONFIG SET maxmemory 1");
    let room = |redis: &Redis, _: &str| redis.ask("CONFIG SET maxmemory 0");
    refused(0, 9, full, room).await;
}

/// Redis refuses to write over what is no result.
fn occupy(redis: &Redis, id: &str) {
    redis.ask(&format!("RPUSH celery-task-meta-{id} x"));
}

fn vacate(redis: &Redis, id: &str) {
    redis.ask(&format!("DEL celery-task-meta-{id}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_redis_refuses_is_not_computed_again() {
    refused(1, 9, occupy, vacate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_that_redis_refuses_is_not_computed_again() {
    refused(2, 100_000, occupy, vacate).await;
}
