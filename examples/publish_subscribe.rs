//! A fanout exchange: every subscriber gets its own copy of each message.

use garenne::{App, Exchange, Queue, RunningWorker, Worker, task};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

struct Subscriber {
    name: &'static str,
    heard: UnboundedSender<String>,
}

#[task]
async fn on_weather(subscriber: &Subscriber, sky: String) {
    subscriber
        .heard
        .send(format!("{} heard: {sky}", subscriber.name))
        .ok();
}

/// A worker with a queue of its own, which is gone when the worker is.
async fn subscribe(
    app: &App,
    name: &'static str,
    heard: &UnboundedSender<String>,
) -> RunningWorker {
    let own = Queue::exclusive().bind(&Exchange::fanout("weather"), "");
    let worker = Worker::new(app)
        .queue(own, 1)
        .state(Subscriber {
            name,
            heard: heard.clone(),
        })
        .spawn();
    worker.ready().await;
    worker
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let (heard, mut all) = unbounded_channel();
    let subscribers = [
        subscribe(&app, "farmer", &heard).await,
        subscribe(&app, "pilot", &heard).await,
        subscribe(&app, "sailor", &heard).await,
    ];

    for sky in ["sun", "storm"] {
        let call = on_weather::call(sky.into()).publish_to(&Exchange::fanout("weather"), "");
        let _ = call.ignore_result().send(&app).await?;
    }

    let mut lines = Vec::new();
    for _ in 0..6 {
        lines.extend(all.recv().await);
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    for subscriber in subscribers {
        subscriber.stop().await?;
    }
    Ok(())
}
