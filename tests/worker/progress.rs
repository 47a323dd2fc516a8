//! What running tasks tell of their progress.

use garenne::broker::{Publish, Queue, Route};
use garenne::message::{Arguments, Message};
use garenne::{App, Context, Failure, MILLISECOND, RunningWorker, SECOND, task};
use serde_json::{Value, json};

use crate::on_every_broker;
use crate::support::{self, within};

/// Tells its progress in a hot loop for so many milliseconds; returns the last number told.
#[task(name = "progress.counts")]
async fn counts(ctx: &Context, for_ms: u32) -> u64 {
    let start = std::time::Instant::now();
    let mut n = 0;
    while start.elapsed() < for_ms * MILLISECOND {
        n += 1;
        ctx.progress(&n).await;
    }
    n
}

#[task(name = "progress.counts_on_a_thread")]
fn counts_on_a_thread(ctx: &Context, to: u64) -> u64 {
    for n in 1..=to {
        ctx.progress(&n);
        std::thread::sleep(MILLISECOND);
    }
    to
}

#[task(name = "progress.tells", retries = 1, backoff = "1ms..1ms")]
async fn tells(ctx: &Context) -> Result<(), String> {
    ctx.progress(&json!({"attempt": ctx.attempt()})).await;
    if ctx.attempt() == 1 {
        // For longer than the pause between two reports.
        tokio::time::sleep(150 * MILLISECOND).await;
    }
    Err("no luck".into())
}

fn worker(app: &App) -> RunningWorker {
    let (worker, _) = crate::tasks::worker(app, "default", 2);
    worker.grace(SECOND).spawn()
}

on_every_broker! {
    async fn progress_reaches_who_awaits_and_the_last_always_does(app: App) {
        let worker = worker(&app);
        for on_thread in [false, true] {
            let call = match on_thread {
                false => counts::call(400),
                true => counts_on_a_thread::call(250),
            };
            let handle = call.send(&app).await.expect("sent");
            let mut progress = handle.progress_as::<u64>();
            let mut told = Vec::new();
            while let Some(n) = within("progress, or its end", progress.next()).await {
                told.push(n);
            }
            let last = within("a result", handle).await.expect("a number");
            assert_eq!(told.last(), Some(&last), "{told:?}");
            assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
            assert!((2..=8).contains(&told.len()), "{told:?}");
            assert_eq!(within("the end", progress.next()).await, None);
        }
        worker.stop().await.expect("stopped");
    }

    async fn each_attempt_tells_and_what_has_no_meaning_here_is_skipped(app: App) {
        let worker = worker(&app);
        let handle = tells::call().send(&app).await.expect("sent");
        let (mut progress, mut numbers) = (handle.progress(), handle.progress_as::<u64>());
        for attempt in [1, 2] {
            let told = within("progress", progress.next()).await;
            assert_eq!(told, Some(json!({ "attempt": attempt })));
        }
        assert_eq!(within("the end", progress.next()).await, None);
        assert_eq!(within("the end", numbers.next()).await, None);
        let _: Failure = within("a failure", handle).await.expect_err("no luck");
        worker.stop().await.expect("stopped");
    }

    async fn nothing_is_told_where_nobody_waits(app: App) {
        let worker = worker(&app);
        let handle = counts::call(30).ignore_result().send(&app).await.expect("sent");
        assert_eq!(within("the end", handle.progress().next()).await, None);
        worker.stop().await.expect("stopped");
    }

    async fn a_hot_loop_does_not_flood_the_broker(app: App) {
        let mut replies = app.broker().replies().await.expect("replies");
        let queue = Queue::new(format!("{}default", app.prefix()));
        app.broker().declare(&queue).await.expect("declared");
        let worker = worker(&app);
        for ignored in [true, false] {
            let mut arguments = Arguments::default();
            arguments.args.push(serde_json::value::to_raw_value(&300).expect("JSON"));
            let mut message = Message::new(support::unique("call"), "progress.counts", &arguments);
            message.reply_to = Some(replies.address.clone());
            message.set("ignore_result", ignored);
            let route = Route::Queue(queue.name().to_owned());
            let publish = Publish { route, message, delay: std::time::Duration::ZERO, deadline: 10 * SECOND };
            app.broker().publish(publish).await.expect("published");
        }
        let mut states = Vec::new();
        while states.last().is_none_or(|state| state != "SUCCESS") {
            let message = within("a reply", replies.messages.recv()).await.expect("open");
            let body: Value = serde_json::from_slice(&message.body).expect("JSON");
            states.push(body["status"].as_str().unwrap_or_default().to_owned());
        }
        let progress = states.iter().filter(|state| *state == "PROGRESS").count();
        // Thousands were told; the call that nobody awaits sent none.
        assert!((2..=5).contains(&progress), "{states:?}");
        assert_eq!(progress + 1, states.len(), "{states:?}");
        let more = tokio::time::timeout(200 * MILLISECOND, replies.messages.recv()).await;
        assert!(more.is_err(), "{more:?} after the reply");
        worker.stop().await.expect("stopped");
    }
}
