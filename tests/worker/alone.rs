//! What needs no broker but memory: starting, closing, paused time.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use garenne::{App, Error, FailureKind, HOUR, SECOND, Worker};

use crate::support::{TempFile, within};
use crate::tasks::*;

#[tokio::test]
async fn a_worker_that_cannot_work_does_not_start() {
    let app = App::in_memory();
    let shutdown = || std::future::ready(());
    let all = |worker: Worker| worker.state(log().0).state(Naps(AtomicU32::new(0)));

    let error = Worker::new(&app)
        .queue("default", 1)
        .run(shutdown())
        .await
        .expect_err("no state");
    let text = error.to_string();
    assert!(matches!(error, Error::MissingState { .. }), "{text}");
    assert!(
        text.contains("tests/worker/tasks.rs:") && text.contains("Worker::state"),
        "{text}"
    );

    let error = all(Worker::new(&app))
        .run(shutdown())
        .await
        .expect_err("no queue");
    assert!(matches!(error, Error::NoQueues), "{error}");
    let error = all(Worker::new(&app))
        .queue("default", 0)
        .run(shutdown())
        .await
        .expect_err("no slot");
    assert!(error.to_string().contains("concurrency"), "{error}");
    let error = all(Worker::new(&app))
        .queue("amq.x", 1)
        .run(shutdown())
        .await
        .expect_err("bad name");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let error = all(all(Worker::new(&app)))
        .queue("default", 1)
        .run(shutdown())
        .await
        .expect_err("twice");
    assert!(error.to_string().contains("two values"), "{error}");
    all(Worker::new(&app))
        .queue("default", 1)
        .register::<add>()
        .run(shutdown())
        .await
        .expect("registered twice is fine");
}

#[tokio::test(start_paused = true)]
async fn hours_of_retries_pass_in_no_time() {
    let app = App::in_memory();
    let (worker, _) = worker(&app, "default", 1);
    let worker = worker.spawn();
    let call = flaky::call(12).retries(20).backoff(SECOND..HOUR);
    let start = tokio::time::Instant::now();
    assert_eq!(call.send(&app).await.expect("sent").await, Ok(12));
    assert!(start.elapsed() > SECOND);
    let late = tells::call("later".into()).countdown(24 * HOUR);
    late.send(&app)
        .await
        .expect("sent")
        .result_within(25 * HOUR)
        .await
        .expect("run");
    worker.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_closed_app_tells_who_waits() {
    let app = App::in_memory();
    let handle = add::call(1, 2).send(&app).await.expect("sent");
    let waiting = tokio::spawn(handle.result());
    app.close().await;
    let failure = within("an answer", waiting)
        .await
        .expect("no panic")
        .expect_err("closed");
    assert_eq!(failure.kind, FailureKind::Unknown);
    assert!(matches!(
        add::call(1, 2).send(&app).await,
        Err(Error::Closed { .. })
    ));
}

#[tokio::test]
async fn state_is_shared_by_all_slots() {
    let app = App::in_memory();
    let (log, mut said) = log();
    let naps = Arc::new(AtomicU32::new(0));
    let worker = Worker::new(&app)
        .queue("default", 4)
        .state(log)
        .state(Naps(AtomicU32::new(0)))
        .state(naps);
    let worker = worker.spawn();
    for sent in app
        .send_all((0..4).map(|n: i32| tells::call(n.to_string())))
        .await
    {
        within("a run", sent.expect("sent")).await.expect("run");
    }
    let mut texts = Vec::new();
    for _ in 0..4 {
        texts.push(said.recv().await.expect("open"));
    }
    texts.sort();
    assert_eq!(texts, ["0", "1", "2", "3"]);
    worker.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_awaited_handle_keeps_its_app() {
    let file = TempFile::new("db");
    let app = App::connect(file.url()).await.expect("a new file");
    let handle = {
        let passing = App::builder(file.url())
            .send_timeout(Duration::MAX)
            .connect()
            .await
            .expect("the file");
        add::call(2, 3).send(&passing).await.expect("sent")
    };
    let waiting = tokio::spawn(handle.into_future());
    let (worker, _) = worker(&app, "default", 1);
    let worker = worker.spawn();
    assert_eq!(within("a result", waiting).await.expect("no panic"), Ok(5));
    worker.stop().await.expect("stopped");
    app.close().await;
}
