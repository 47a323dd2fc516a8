//! Arguments, workflows, requests, other workers, queues.

use std::time::{Duration, UNIX_EPOCH};

use garenne::{
    Ack, App, Call, Error, HOUR, Partial, Rate, SECOND, Scheduler, Worker, every, group, task,
};
use serde_json::{Map, json};

use super::{Pythons, on, raw, start, texts};
use crate::Interop;
use crate::support::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_argument_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    pythons.echo("none", |call| call).await;
    for value in [f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, -0.0] {
        pythons
            .echo("a float", |call| call.arg(value).expect("JSON"))
            .await;
    }
    for text in texts() {
        pythons
            .echo("a text", |call| {
                call.arg(&text)
                    .expect("JSON")
                    .kwarg(&*text, &text)
                    .expect("JSON")
            })
            .await;
    }
    pythons
        .echo("integers", |call| {
            call.arg((u64::MAX, i64::MIN)).expect("JSON")
        })
        .await;
    pythons
        .echo("many", |call| {
            (0..1000).fold(call, |call, n| call.arg(n).expect("JSON"))
        })
        .await;
    pythons
        .echo("large", |call| call.arg("é".repeat(1 << 20)).expect("JSON"))
        .await;
    for name in ["", "args", "task_id", "kwargs", "__class__", "callbacks"] {
        pythons
            .echo("a name", |call| call.kwarg(name, 1).expect("JSON"))
            .await;
    }
    // These may end in a failure, or in nothing at all where Python cannot read them, but in no worker's end.
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let odd = [
        "1e400".to_owned(),
        "9".repeat(30),
        "9".repeat(5000),
        r#""\ud800""#.to_owned(),
        r#"{"a":1,"a":2}"#.to_owned(),
        nested(100),
        nested(150),
    ];
    for depth in [200, 400, 900, 200_000] {
        let queue = &*pythons.workers[0].queue;
        let call = Call::<()>::named("harmless.first")
            .arg(raw(&nested(depth)))
            .expect("JSON");
        call.queue(queue)
            .send(&pythons.app)
            .await
            .expect_err("too deep");
    }
    let typed = [
        ("no-such-type", json!(1)),
        ("uuid", json!({"hex": "x"})),
        ("datetime", json!("yesterday")),
        ("decimal", json!([])),
        ("base64", json!("?")),
        ("bytes", json!(null)),
    ];
    let typed =
        typed.map(|(kind, value)| json!({"__type__": kind, "__value__": value}).to_string());
    let unhashable = json!({"__type__": [], "__value__": {}}).to_string();
    for text in odd.into_iter().chain(typed).chain([unhashable]) {
        for queue in pythons.queues() {
            let first = Call::<()>::named("harmless.first")
                .arg(raw(&text))
                .expect("JSON");
            let named = Call::<()>::named("harmless.echo")
                .kwarg("x", raw(&text))
                .expect("JSON");
            for call in [first, named] {
                let _ = call.queue(queue).send(&pythons.app).await.expect("sent");
            }
        }
        pythons.unhurt(text.get(..40).unwrap_or(&text)).await;
    }
    pythons.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_workflow_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    for queue in pythons.queues() {
        let app = &pythons.app;
        let call = || {
            Call::<i64>::named("harmless.first")
                .queue(queue)
                .arg(7)
                .expect("JSON")
        };
        let next = || Partial::<i64, i64>::named("harmless.first").queue(queue);
        let seven = |what, sent: Result<garenne::Handle<i64>, Error>| async move {
            let outcome = within(what, sent.expect("sent")).await;
            assert_eq!(outcome, Ok(7), "{what}");
        };
        for time in [
            Duration::MAX,
            300 * 365 * 24 * HOUR,
            9000 * 365 * 24 * HOUR,
            HOUR,
        ] {
            let step = next()
                .expires(time)
                .timeout(time)
                .backoff(SECOND..time)
                .retries(u32::MAX);
            seven("times", call().then(step).send(app).await).await;
            seven(
                "a deadline",
                call()
                    .deadline(time)
                    .then(next().deadline(time))
                    .send(app)
                    .await,
            )
            .await;
        }
        for (n, text) in texts().into_iter().enumerate() {
            let id = format!("{n}{}", text.chars().take(5).collect::<String>());
            let step = next()
                .id(id)
                .header(text.as_str(), json!([u64::MAX, {"🦀": null}]))
                .priority(255)
                .ack(Ack::Early);
            seven("options", call().then(step).send(app).await).await;
        }
        let then = next()
            .eta(UNIX_EPOCH)
            .kwarg("", raw("1e400"))
            .expect("JSON");
        seven(
            "an eta",
            call()
                .then(then)
                .then(next().countdown(Duration::from_millis(1)))
                .send(app)
                .await,
        )
        .await;
        let mut long = call().then(next());
        for _ in 0..100 {
            long = long.then(next());
        }
        seven("a long chain", long.send(app).await).await;
        let members = (0..50).map(|_| call());
        let all = within("a group", group(members).send(app).await.expect("sent")).await;
        assert_eq!(all, Ok(vec![7; 50]));
        // Python gets no more than the id of what has failed, where the callback is not its own.
        let failing = Call::<i64>::named("harmless.fail")
            .queue(queue)
            .arg("🦀\0")
            .expect("JSON");
        let told = Partial::<garenne::Failure, ()>::named("harmless.echo")
            .queue(queue)
            .header("x", 1)
            .expires(Duration::MAX);
        let failed = failing
            .then(next())
            .on_error(told)
            .send(app)
            .await
            .expect("sent");
        within("a failure", failed).await.expect_err("it fails");
    }
    pythons.unhurt("workflows").await;
    pythons.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    let nodes = pythons.workers.iter().map(|python| &*python.node);
    let control = pythons.app.control().to(nodes).timeout(20 * SECOND);
    for method in ["election", "add_consumer", "pool_shrink"] {
        control
            .request(method, Map::new())
            .await
            .expect_err("it would end a worker");
    }
    control.pool_grow(usize::MAX).await.expect_err("too many");
    // In its own way a Python worker would declare this queue, and end when that is refused.
    let ours = format!("{}-ours", pythons.workers[0].queue);
    pythons.app.declare(ours.as_str()).await.expect("declared");
    for queue in [&*ours, "no-such-queue", "amq.gone", "", "🦀"] {
        let said = control.add_consumer(queue, 2).await.expect("asked");
        for python in &pythons.workers {
            said[&python.node]
                .as_ref()
                .expect_err("Python does not know it");
        }
        control.cancel_consumer(queue).await.expect("asked");
    }
    pythons.unhurt("a queue").await;
    let nobody = pythons
        .app
        .control()
        .to(["nobody@nowhere"])
        .timeout(SECOND / 10);
    for text in texts().into_iter().chain([String::new()]) {
        control.revoke(text.as_str()).await.expect("asked");
        control.terminate(text.as_str()).await.expect("asked");
        control
            .rate_limit(&text, Rate::per(1, SECOND))
            .await
            .expect("asked");
        control
            .time_limit(&text, Duration::MAX)
            .await
            .expect("asked");
        control.query_task([text.as_str()]).await.expect("asked");
        let arguments = Map::from_iter([(text.clone(), json!([{"🦀": null}]))]);
        nobody
            .request(&text, arguments.clone())
            .await
            .expect("asked");
        control.request("ping", arguments).await.expect("asked");
    }
    pythons.unhurt("texts").await;
    let ping = "harmless.ping";
    for rate in [
        Rate::per(u32::MAX, Duration::ZERO),
        Rate::per(u32::MAX, Duration::MAX),
        Rate::per(0, SECOND),
    ] {
        control.rate_limit(ping, rate).await.expect("asked");
    }
    control.rate_limit(ping, None).await.expect("asked");
    for limit in [Some(Duration::MAX), None] {
        control.time_limit(ping, limit).await.expect("asked");
    }
    control.pool_shrink(usize::MAX).await.expect("asked");
    control.enable_events().await.expect("asked");
    control.heartbeat().await.expect("sent");
    control
        .query_task((0..2000).map(|n| n.to_string()))
        .await
        .expect("asked");
    pythons.unhurt("requests").await;
    pythons.app.delete(&ours).await.expect("deleted");
    pythons.part().await;
}

/// Python's workers listen to what others tell of themselves, and greet who starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_neighbour_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    let own = format!("{}-rust", pythons.workers[0].queue);
    for name in ["no-at", "🦀@é", "a@b@c", "x@localhost", "'\"%s@{}"] {
        let worker = Worker::new(&pythons.app)
            .name(name)
            .queue(own.as_str(), 1)
            .state(crate::workflows::Log::default())
            .grace(SECOND)
            .spawn();
        assert!(worker.ready().await);
        pythons
            .app
            .control()
            .timeout(SECOND / 2)
            .heartbeat()
            .await
            .expect("sent");
        pythons.unhurt(name).await;
        worker.stop().await.expect("stopped");
    }
    pythons.unhurt("neighbours that are gone").await;
    pythons.app.delete(&own).await.expect("deleted");
    pythons.part().await;
}

#[task(name = "harmless.first", extern)]
async fn first(of: i64) -> i64;

/// A worker of Celery's ends if its queue was made in another way than its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_queue_is_made_that_is_a_python_workers_to_make() {
    let Some(interop) = Interop::new() else {
        return;
    };
    let app = App::connect(&interop.broker).await.expect("RabbitMQ");
    let own = on(&interop, "solo");
    let call = || first::call(7).queue(own.queue.as_str());
    let next = || first::partial().queue(own.queue.as_str());
    let refused = [
        call().send(&app).await.map(drop),
        call().countdown(HOUR).send(&app).await.map(drop),
        app.send_all([call()])
            .next()
            .await
            .expect("an outcome")
            .map(drop),
        group([call(), call()]).send(&app).await.map(drop),
        call().then(next()).send(&app).await.map(drop),
        crate::add::call(1, 2)
            .queue(format!("{}-rust", own.queue))
            .then(next())
            .send(&app)
            .await
            .map(drop),
    ];
    for outcome in refused {
        let error = outcome.expect_err("there is no queue").to_string();
        assert!(
            error.contains(&own.queue) && error.contains("does not exist"),
            "{error}"
        );
    }
    let ticking = Scheduler::new(&app).add("tick", every(SECOND), call());
    let soon = tokio::time::sleep(3 * SECOND);
    ticking.run(soon).await.expect("a schedule");
    app.depth(&own.queue).await.expect_err("there is no queue");

    let mut python = start(&interop, "solo");
    python.ready(&app).await;
    assert_eq!(
        within(
            "a result",
            call().then(next()).send(&app).await.expect("sent")
        )
        .await,
        Ok(7)
    );
    assert_eq!(python.worker.0.try_wait().expect("a process"), None);
    for queue in [own.queue.clone(), format!("{}-rust", own.queue)] {
        app.delete(&queue).await.ok();
    }
    app.close().await;
}
