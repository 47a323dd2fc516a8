//! Redis goes away while tasks finish, and comes back.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
