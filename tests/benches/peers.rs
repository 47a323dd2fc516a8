//! Garenne's side of the comparison with other task queues: a client and a worker, which `tests/benches/peers/run`
//! starts as it starts the others'. See docs/performance.md.

use std::time::Duration;

use anyhow::{Context as _, Result};
use garenne::{App, Call, Prefetch, Queue, Worker, task};

/// A library where the others use it.
#[allow(unreachable_pub)]
#[path = "peers/rust/src/lib.rs"]
mod contender;

use contender::{Client, TEXT, ran, timed, told};

#[task(name = "peers.noop")]
async fn noop(number: u64, _text: String) -> u64 {
    ran();
    number
}

struct Ours {
    app: App,
    queue: Queue,
}

impl Ours {
    fn call(&self, number: usize) -> Call<u64> {
        noop::call(number as u64, TEXT.to_owned()).queue(self.queue.clone())
    }
}

impl Client for Ours {
    async fn one(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            let _ = self.call(number).ignore_result().send(&self.app).await?;
        }
        Ok(())
    }

    async fn many(&mut self, count: usize) -> Result<()> {
        let calls = (0..count).map(|number| self.call(number).ignore_result());
        let mut sending = self.app.send_all(calls);
        while let Some(sent) = sending.next().await {
            let _ = sent?;
        }
        Ok(())
    }

    async fn rpc(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>> {
        timed(count, in_flight, |number| {
            let call = self.call(number);
            async {
                call.send(&self.app).await?.await?;
                Ok(())
            }
        })
        .await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.first().map(String::as_str);
    if !matches!(role, Some("client" | "worker")) {
        println!("not measured: tests/benches/peers/run does");
        return Ok(());
    }
    let app = App::connect(told("PEERS_URL")?).await?;
    let queue = Queue::new(told("PEERS_QUEUE")?);
    app.declare(queue.clone()).await?;
    if role == Some("client") {
        let ours = Ours {
            app: app.clone(),
            queue,
        };
        contender::serve(ours).await?;
        app.close().await;
        return Ok(());
    }
    let slots = arguments.get(1).context("how many slots?")?.parse()?;
    let prefetch = match arguments.get(2).map(String::as_str) {
        Some("adaptive") => Prefetch::Adaptive,
        _ => Prefetch::Strict,
    };
    let worker = Worker::new(&app).queue(queue, slots).prefetch(prefetch);
    Ok(worker.run(garenne::shutdown_signal()).await?)
}
