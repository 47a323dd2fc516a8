//! Other processes on the same file: this test binary again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use garenne::broker::{Broker, Queue, Route};

use super::place::{next, open, publish, to};

/// Which part a child process plays, and on which file.
const ROLE: &str = "GARENNE_TEST_ROLE";
const FILE: &str = "GARENNE_TEST_FILE";

/// This test binary again, as another process that plays `role` on `file`.
pub(crate) fn child(role: &str, file: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child::child_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env(FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// Reads a child's lines up to one that begins with `word`.
pub(crate) fn wait_for(lines: &mut impl BufRead, word: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the child ended before it said {word}"
        );
        // The test harness writes its own words into the same line.
        if let Some(at) = line.find(word) {
            return line[at..].trim().to_owned();
        }
    }
}

/// Not a test: what the children of the other tests do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else {
        return;
    };
    let broker = open(Path::new(&file)).await;
    match role.as_str() {
        "hold" => {
            let mut consumer = broker.consume(&Queue::new("q"), 3).await.unwrap();
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(next(&mut consumer).await);
            }
            println!("\nHOLDING");
            std::future::pending::<()>().await;
        }
        "publish" => {
            for n in 0.. {
                let id = format!("{}-{n}", std::process::id());
                broker.publish(to("q", &id)).await.unwrap();
                println!("\nCONFIRMED {id}");
            }
        }
        "move" => {
            let mut consumer = broker.consume(&Queue::new("q"), 8).await.unwrap();
            loop {
                let delivery = next(&mut consumer).await;
                let copy = to("done", &delivery.message.id);
                tokio::spawn(async move {
                    delivery.ack(Some(copy)).await.unwrap();
                    println!("\nMOVED");
                });
            }
        }
        "echo" => {
            let mut consumer = broker.consume(&Queue::new("q"), 4).await.unwrap();
            println!("\nREADY");
            loop {
                let delivery = next(&mut consumer).await;
                let address = delivery.message.reply_to.clone().unwrap();
                let id = delivery.message.id.clone();
                delivery
                    .ack(Some(publish(Route::Reply(address), &id)))
                    .await
                    .unwrap();
            }
        }
        "contend" => {
            let mut consumer = broker.consume(&Queue::new("work"), 8).await.unwrap();
            let publisher = {
                let broker = Arc::clone(&broker);
                tokio::spawn(async move {
                    for n in 0..250 {
                        let id = format!("{}-{n}", std::process::id());
                        broker.publish(to("work", &id)).await.unwrap();
                    }
                })
            };
            loop {
                let delivery = next(&mut consumer).await;
                let id = delivery.message.id.clone();
                delivery.ack(Some(to("done", &id))).await.unwrap();
                if publisher.is_finished() && broker.depth("work").await.unwrap().ready == 0 {
                    break;
                }
            }
            publisher.await.unwrap();
            drop(consumer);
            broker.close().await;
            println!("\nDONE");
        }
        other => panic!("no such role: {other}"),
    }
}
