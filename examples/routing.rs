//! A direct exchange: log lines go by severity. One worker keeps errors on disk, another shows all.

use garenne::{App, Exchange, Queue, Worker, task};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

struct Sink {
    name: &'static str,
    lines: UnboundedSender<String>,
}

#[task]
async fn log_line(sink: &Sink, severity: String, text: String) {
    sink.lines
        .send(format!("{}: {severity}: {text}", sink.name))
        .ok();
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let logs = Exchange::direct("logs.direct");
    let (lines, mut written) = unbounded_channel();

    let disk = Queue::new("logs.disk").bind(&logs, "error");
    let screen = Queue::exclusive()
        .bind(&logs, "info")
        .bind(&logs, "warning")
        .bind(&logs, "error");
    let disk = Worker::new(&app)
        .queue(disk, 1)
        .state(Sink {
            name: "disk",
            lines: lines.clone(),
        })
        .spawn();
    let screen = Worker::new(&app)
        .queue(screen, 1)
        .state(Sink {
            name: "screen",
            lines,
        })
        .spawn();
    disk.ready().await;
    screen.ready().await;

    for (severity, text) in [
        ("info", "started"),
        ("warning", "slow"),
        ("error", "on fire"),
    ] {
        let call = log_line::call(severity.into(), text.into()).publish_to(&logs, severity);
        let _ = call.ignore_result().send(&app).await?;
    }

    let mut all = Vec::new();
    for _ in 0..4 {
        all.extend(written.recv().await);
    }
    all.sort();
    println!("{}", all.join("\n"));
    disk.stop().await?;
    screen.stop().await?;
    Ok(())
}
