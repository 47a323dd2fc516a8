//! What Python sees of a call that runs, and how long results are kept.

use garenne::{App, Context, Handle, SECOND, Worker, task};
use serde_json::json;

use super::{Stage, add, chords};
use crate::support::within;

#[task(name = "rust.tells")]
async fn tells(ctx: &Context) -> u32 {
    for step in 1..=2 {
        ctx.progress(&json!({"done": step})).await;
        // Time enough to be looked at.
        tokio::time::sleep(SECOND).await;
    }
    3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_rust_see_the_progress_of_a_call_by_its_id() {
    let Some(stage) = Stage::new() else { return };
    if stage.script("chords.py", &["declare"]).await.is_none() {
        return;
    }
    let app = stage.app().await;
    let sent = tells::call().queue(&*stage.queue);
    let sent = sent.send(&app).await.expect("sent");
    let elsewhere = stage.app().await;
    let theirs: Handle<u32> = Handle::from_id(&elsewhere, sent.id())
        .await
        .expect("a handle");
    let mut progress = theirs.progress();
    let id = sent.id().to_owned();
    let watching = async {
        let seen = stage.script("chords.py", &["state", &id]).await;
        seen.expect("as before")
    };
    let working = async {
        // Python takes its time to start.
        tokio::time::sleep(SECOND).await;
        let worker = Worker::new(&app).queue(&*stage.queue, 1);
        let worker = worker.state(chords::Log::default()).grace(SECOND).spawn();
        let mut seen = Vec::new();
        while let Some(news) = progress.next().await {
            seen.push(news);
        }
        (worker, seen)
    };
    let (python, (worker, rust)) =
        within("the call", async { tokio::join!(watching, working) }).await;
    let states = json!([
        ["PENDING", null],
        ["PROGRESS", {"done": 1}],
        ["PROGRESS", {"done": 2}],
        ["SUCCESS", 3]
    ]);
    assert_eq!(python, states);
    assert_eq!(rust, [json!({"done": 1}), json!({"done": 2})]);
    worker.stop().await.expect("stopped");
    elsewhere.close().await;
    stage.clean(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_expire() {
    let Some(stage) = Stage::new() else { return };
    let builder = App::builder(&*stage.broker).result_backend(&*stage.redis);
    let app = builder
        .result_expires(2 * SECOND)
        .connect()
        .await
        .expect("both");
    let worker = Worker::new(&app).queue(&*stage.queue, 1);
    let worker = worker.state(chords::Log::default()).grace(SECOND).spawn();
    let sent = add::call(1, 1).queue(&*stage.queue);
    let sent = sent.send(&app).await.expect("sent");
    let id = sent.id().to_owned();
    assert_eq!(within("a result", sent).await, Ok(2));
    let kept: Handle<i64> = Handle::from_id(&app, &*id).await.expect("a handle");
    assert_eq!(within("a result", kept).await, Ok(2));
    tokio::time::sleep(3 * SECOND).await;
    let gone: Handle<i64> = Handle::from_id(&app, &*id).await.expect("a handle");
    assert!(gone.result_within(SECOND).await.is_err(), "it has expired");
    worker.stop().await.expect("stopped");
    stage.clean(&app).await;
}
