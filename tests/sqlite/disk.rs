//! The disk: full, read-only, or no longer holding the file.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use garenne::broker::{Broker, Publish, Queue};
use garenne::error::Error;
use garenne::{App, Worker};

use super::place::{PATIENCE, Place, close, next, open, to, try_open};

/// Where the tests of a small disk find it.
const DISK: &str = "GARENNE_TEST_DISK";

/// Runs the test named `name` again on a disk of its own of 6 MiB, mounted for that process alone.
fn on_a_small_disk(name: &str) {
    let place = Place::new();
    let script = format!(
        "mount -t tmpfs -o size=6m none '{}' && exec \"$@\"",
        place.0.display()
    );
    let mounted = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            &script,
            "sh",
        ]);
        unshare.args(command).env(DISK, &place.0);
        unshare.output()
    };
    if !mounted(&["true"]).is_ok_and(|probe| probe.status.success()) {
        println!("skipped: this system lets its users mount nothing");
        return;
    }
    let binary = std::env::current_exe().unwrap();
    let test = format!("disk::{name}");
    let command = [binary.to_str().unwrap(), "--exact", &test, "--nocapture"];
    let output = mounted(&command).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let ran = said.contains("1 passed");
    assert!(
        output.status.success() && ran,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn large(id: &str) -> Publish {
    let mut publish = to("q", id);
    publish.message.body = vec![b'x'; 20_000].into();
    publish
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers() {
    let Some(disk) = std::env::var_os(DISK) else {
        return on_a_small_disk("a_full_disk_refuses_and_recovers");
    };
    let file = Path::new(&disk).join("queue.db");
    let ballast = Path::new(&disk).join("ballast");
    std::fs::write(&ballast, vec![0; 3 << 20]).unwrap();
    let broker = open(&file).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    broker.declare(&Queue::new("work")).await.unwrap();
    broker.publish(to("q", "held")).await.unwrap();
    let held = next(&mut consumer).await;
    let mut stored = Vec::new();
    let refused = loop {
        let id = stored.len().to_string();
        let publish = Publish {
            deadline: Duration::from_secs(1),
            ..large(&id)
        };
        match broker.publish(publish).await {
            Ok(()) => stored.push(id),
            Err(error) => break error,
        }
        assert!(stored.len() < 400, "6 MiB hold no more");
    };
    assert!(matches!(refused, Error::Blocked { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(
        text.contains("free space") && text.contains("queue.db"),
        "{text}"
    );
    println!("{} stored, then: {text}", stored.len());

    // A settlement that stores something waits until there is room.
    let settled = tokio::spawn(held.ack(Some(to("work", "follows"))));
    tokio::time::sleep(Duration::from_millis(300)).await;
    std::fs::remove_file(ballast).unwrap();
    settled.await.unwrap().unwrap();
    broker.publish(large("after")).await.unwrap();
    stored.push("after".into());
    for id in &stored {
        let delivery = next(&mut consumer).await;
        assert_eq!(
            &delivery.message.id, id,
            "all that was confirmed, and nothing else"
        );
        delivery.ack(None).await.unwrap();
    }
    assert_eq!(broker.depth("q").await.unwrap().ready, 0);
    assert_eq!(broker.depth("work").await.unwrap().ready, 1);
    close(&[&broker]).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_said_to_be_one() {
    let Some(disk) = std::env::var_os(DISK) else {
        return on_a_small_disk("a_read_only_disk_is_said_to_be_one");
    };
    let file = Path::new(&disk).join("queue.db");
    let broker = open(&file).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    broker.publish(to("q", "1")).await.unwrap();
    close(&[&broker]).await;
    let before = std::fs::read(&file).unwrap();
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", how]).arg(&disk).status().unwrap();
        assert!(mounted.success());
    };
    remount("remount,ro");
    let error = try_open(&file, "").await.map(drop).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("queue.db") && text.contains("cannot be"),
        "{text}"
    );
    assert!(std::fs::read(&file).unwrap() == before, "it is left alone");
    remount("remount,rw");
    let broker = open(&file).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.id, "1");
    close(&[&broker]).await;
}

/// What a broker says whose file is gone: nothing is confirmed that nobody would ever see.
#[cfg(unix)]
async fn assert_displaced(broker: &dyn Broker, consumer: &mut garenne::broker::Consumer) {
    let end = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let said = [
        broker.publish(to("q", "lost")).await.unwrap_err(),
        broker.depth("q").await.unwrap_err(),
        broker.declare(&Queue::new("new")).await.unwrap_err(),
        end.expect("an end").expect("a reason").unwrap_err(),
    ];
    for error in said {
        let text = error.to_string();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(
            text.contains("queue.db") && text.contains("deleted, moved or replaced"),
            "{text}"
        );
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_confirms_nothing_more() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    std::fs::remove_file(place.file()).unwrap();
    assert_displaced(&*broker, &mut consumer).await;
    assert!(!place.file().exists(), "nothing is invented");
    close(&[&broker]).await;
}

#[cfg(unix)]
#[garenne::task]
async fn endless() {
    std::future::pending().await
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_file_is_gone_does_not_wait_for_what_runs() {
    let place = Place::new();
    let url = format!("sqlite://{}", place.file().display());
    let app = App::connect(&url).await.unwrap();
    let worker = Worker::new(&app).queue("default", 1);
    let worker = worker.grace(Duration::from_millis(10));
    let worker = tokio::spawn(worker.run(std::future::pending()));
    let _ = endless::call().ignore_result().send(&app).await.unwrap();
    while app.depth("default").await.unwrap().ready > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::remove_file(place.file()).unwrap();
    let ended = tokio::time::timeout(PATIENCE, worker).await;
    let error = ended.expect("it ends").unwrap().unwrap_err().to_string();
    assert!(error.contains("deleted, moved or replaced"), "{error}");
    app.close().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_not_written_to_by_who_had_the_old_one() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    broker.publish(to("q", "held")).await.unwrap();
    let held = next(&mut consumer).await;
    let aside = place.0.join("aside");
    std::fs::create_dir(&aside).unwrap();
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        std::fs::rename(place.0.join(name), aside.join(name)).unwrap();
    }
    let other = open(&place.file()).await;
    other.declare(&Queue::new("q")).await.unwrap();
    assert_displaced(&*broker, &mut consumer).await;
    let settled = held.ack(None).await;
    assert!(matches!(settled, Err(Error::Refused { .. })), "{settled:?}");
    assert_eq!(other.depth("q").await.unwrap().ready, 0);
    close(&[&broker, &other]).await;

    // The old file has kept what it had.
    let old = open(&aside.join("queue.db")).await;
    let mut consumer = old.consume(&Queue::new("q"), 1).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.id, "held");
    close(&[&old]).await;
}
