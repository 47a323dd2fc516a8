//! A topic exchange: subscribers choose by pattern. `*` is one word, `#` any number.

use garenne::{App, Exchange, Queue, Worker, task};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

struct Desk {
    pattern: &'static str,
    read: UnboundedSender<String>,
}

#[task]
async fn wire(desk: &Desk, key: String) {
    desk.read.send(format!("{:<10} {key}", desk.pattern)).ok();
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let topics = Exchange::topic("wire");
    let (read, mut all) = unbounded_channel();
    let mut desks = Vec::new();
    for pattern in ["#", "#.news", "*.critical"] {
        let queue = Queue::exclusive().bind(&topics, pattern);
        let desk = Worker::new(&app)
            .queue(queue, 1)
            .state(Desk {
                pattern,
                read: read.clone(),
            })
            .spawn();
        desk.ready().await;
        desks.push(desk);
    }

    for key in [
        "news",
        "europe.france.news",
        "kernel.critical",
        "kernel.disk.critical",
    ] {
        let _ = wire::call(key.into())
            .publish_to(&topics, key)
            .ignore_result()
            .send(&app)
            .await?;
    }

    let mut lines = Vec::new();
    for _ in 0..7 {
        lines.extend(all.recv().await);
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    for desk in desks {
        desk.stop().await?;
    }
    Ok(())
}
