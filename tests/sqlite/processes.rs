//! Several processes on one file, and what an idle one costs.

use std::time::{Duration, Instant};

use garenne::broker::{Broker, Queue};

use super::child::{child, wait_for};
use super::place::{PATIENCE, Place, close, next, open, to};

#[tokio::test(flavor = "multi_thread")]
async fn two_brokers_on_one_file_hand_over_at_once() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut consumer = b.consume(&Queue::new("q"), 1).await.unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        a.publish(to("q", &n.to_string())).await.unwrap();
        let delivery = next(&mut consumer).await;
        times.push(started.elapsed());
        assert_eq!(
            (delivery.message.id.as_str(), delivery.deliveries),
            (n.to_string().as_str(), 1)
        );
        assert_eq!(delivery.routing_key, "q");
        delivery.ack(None).await.unwrap();
    }
    times.sort();
    println!(
        "publish in one, delivery in the other: median {:?}, worst {:?}",
        times[25], times[49]
    );
    assert!(times[25] < Duration::from_millis(50));
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_gives_its_deliveries_back() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    for n in 0..3 {
        broker.publish(to("q", &n.to_string())).await.unwrap();
    }
    let (mut holder, mut lines) = child("hold", &place.file());
    wait_for(&mut lines, "HOLDING");
    let mut consumer = broker.consume(&Queue::new("q"), 3).await.unwrap();
    assert_eq!(broker.depth("q").await.unwrap().ready, 0);
    holder.kill().unwrap();
    let killed = Instant::now();
    for n in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, n.to_string());
        assert_eq!((delivery.deliveries, delivery.redelivered), (2, true));
        delivery.ack(None).await.unwrap();
    }
    let took = killed.elapsed();
    println!("deliveries of a killed process are back after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    holder.wait().unwrap();
    assert_eq!(
        broker.depth("q").await.unwrap().consumers,
        1,
        "the dead one's consumer is gone"
    );
    close(&[&broker]).await;
    let locks = std::fs::read_dir(format!("{}-locks", place.file().display())).unwrap();
    assert_eq!(locks.count(), 0, "no lock file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_crosses_processes_and_back() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let (mut worker, mut lines) = child("echo", &place.file());
    wait_for(&mut lines, "READY");
    let mut replies = broker.replies().await.unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        let mut request = to("q", &n.to_string());
        request.message.reply_to = Some(replies.address.clone());
        broker.publish(request).await.unwrap();
        let reply = tokio::time::timeout(PATIENCE, replies.messages.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.id, n.to_string());
        times.push(started.elapsed());
    }
    times.sort();
    println!(
        "call to another process and its reply: median {:?}, worst {:?}",
        times[25], times[49]
    );
    assert!(times[25] < Duration::from_millis(100));
    worker.kill().unwrap();
    worker.wait().unwrap();
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_contend_without_loss_or_double() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    for queue in ["work", "done"] {
        broker.declare(&Queue::new(queue)).await.unwrap();
    }
    let started = Instant::now();
    let children: Vec<_> = (0..8).map(|_| child("contend", &place.file())).collect();
    // One that saw its last message taken by another waits for a next; here is one for each.
    let ended = tokio::task::spawn_blocking(move || {
        for (mut child, mut lines) in children {
            wait_for(&mut lines, "DONE");
            child.wait().unwrap();
        }
    });
    let mut extra = 0;
    while !ended.is_finished() {
        broker
            .publish(to("work", &format!("extra-{extra}")))
            .await
            .unwrap();
        extra += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ended.await.unwrap();
    let left = broker.depth("work").await.unwrap().ready;
    let done = broker.depth("done").await.unwrap().ready;
    assert_eq!(left + done, 8 * 250 + extra, "neither lost nor done twice");
    println!(
        "8 processes, 2000 messages published, moved on: {:?}",
        started.elapsed()
    );
    close(&[&broker]).await;
}

/// User and system time of this process, in clock ticks of 10 ms.
#[cfg(target_os = "linux")]
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_costs_nothing() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let (mut idle, mut lines) = child("echo", &place.file());
    wait_for(&mut lines, "READY");
    let before = ticks(idle.id());
    let seconds = 3;
    // What is measured is time passing by.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percent = (ticks(idle.id()) - before) as f64 / seconds as f64;
    println!("an idle worker takes {percent:.2} % of a core");
    assert!(percent < 1.0, "{percent} %");
    idle.kill().unwrap();
    idle.wait().unwrap();
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_reach_every_process() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    a.cancel("early").await.unwrap();
    let mut here = a.cancellations().await.unwrap();
    let mut there = b.cancellations().await.unwrap();
    assert_eq!(
        (&here.known, &there.known),
        (&vec!["early".to_owned()], &vec!["early".to_owned()])
    );
    a.cancel("late").await.unwrap();
    for later in [&mut here.later, &mut there.later] {
        let id = tokio::time::timeout(PATIENCE, later.recv()).await.unwrap();
        assert_eq!(id.as_deref(), Some("late"));
    }
    close(&[&a, &b]).await;
}
