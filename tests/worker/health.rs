//! What a worker answers when it is asked how it is.

use std::time::Duration;

use garenne::{App, Error};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::on_every_broker;
use crate::support::{self, unique, within};
use crate::tasks::*;

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// The status and the body of an answer.
async fn ask(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
    let request = format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

async fn get(port: u16, path: &str) -> (u16, Value) {
    let (status, body) = ask(port, &format!("GET {path}")).await;
    (status, serde_json::from_str(&body).expect("JSON"))
}

on_every_broker! {
    async fn a_worker_says_how_it_is(app: App) {
        let (port, queue) = (free_port(), unique("health"));
        let (worker, mut said) = worker(&app, &*queue, 1);
        let worker = worker.health(port.to_string()).spawn();
        assert!(worker.ready().await);
        for path in ["/live", "/ready", "/consuming", "/", "/consuming?verbose"] {
            let (status, body) = get(port, path).await;
            assert_eq!(status, 200, "{path}: {body}");
            assert_eq!(body["consuming"], true, "{body}");
            assert_eq!(body["reason"], Value::Null, "{body}");
        }
        assert_eq!(get(port, "/metrics").await.0, 404);
        assert_eq!(ask(port, "POST /live").await.0, 405);
        assert_eq!(ask(port, "HEAD /live").await, (200, String::new()));
        assert_eq!(ask(port, "nonsense").await.0, 405);

        // While it finishes what runs, it is live, but gets nothing new.
        let handle = takes_a_while::call(4000).queue(&*queue).send(&app).await.expect("sent");
        within("the nap's begin", said.recv()).await.expect("started");
        let stopping = tokio::spawn(worker.stop());
        within("the stop's begin", async {
            while get(port, "/ready").await.0 == 200 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }).await;
        let (status, body) = get(port, "/consuming").await;
        assert_eq!((status, &body["reason"]), (503, &"the worker stops".into()));
        assert_eq!(get(port, "/live").await.0, 200);
        handle.result().await.expect("finished");
        stopping.await.expect("no panic").expect("a good end");
        within("the endpoint's end", async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }).await;
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_refuses_the_start() {
    let app = App::in_memory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    for address in ["localhost:80", "nonsense", &taken] {
        let error = worker(&app, "default", 1)
            .0
            .health(address)
            .run(std::future::ready(()))
            .await
            .expect_err("refused");
        assert!(
            matches!(error, Error::Invalid { .. }) && error.to_string().contains(address),
            "{error}"
        );
    }
}

#[tokio::test]
async fn who_asks_nothing_keeps_nobody_from_asking() {
    let app = App::in_memory();
    let port = free_port();
    let worker = worker(&app, "default", 1)
        .0
        .health(port.to_string())
        .spawn();
    assert!(worker.ready().await);
    let mut mute = Vec::new();
    for _ in 0..20 {
        mute.push(TcpStream::connect(("127.0.0.1", port)).await.expect("open"));
    }
    assert_eq!(get(port, "/live").await.0, 200);
    let mut one = mute.pop().expect("twenty");
    // It is hung up on.
    within("the end of patience", async {
        assert_eq!(one.read(&mut [0; 1]).await.unwrap_or(0), 0);
    })
    .await;
    worker.stop().await.expect("a good end");
}

/// Tasks that keep every thread of the runtime busy do not make the process look dead.
#[test]
fn a_stuck_runtime_is_told_from_a_dead_process() {
    let port = free_port();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let app = App::in_memory();
    let running = runtime.block_on(async {
        let running = worker(&app, "default", 1)
            .0
            .health(port.to_string())
            .spawn();
        assert!(running.ready().await);
        running
    });
    runtime.spawn(async { std::thread::sleep(Duration::from_secs(12)) });
    let asking = tokio::runtime::Runtime::new().expect("a runtime");
    asking.block_on(async {
        tokio::time::sleep(Duration::from_millis(11_200)).await;
        assert_eq!(get(port, "/live").await.0, 200);
        let (status, body) = get(port, "/consuming").await;
        assert_eq!(status, 503);
        let reason = body["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains("plain `fn`"), "{reason}");
    });
    runtime.block_on(async { running.stop().await.expect("a good end") });
}
