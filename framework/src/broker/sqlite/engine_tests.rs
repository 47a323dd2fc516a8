//! Tests of the writer thread with a file that cannot grow, which no caller could arrange from outside.

use std::time::Duration;

use super::*;
use crate::broker::sqlite::command::Outgoing;
use crate::broker::sqlite::schema;
use crate::broker::{Publish, Queue, Route};
use crate::error::Error;

fn outgoing(size: usize) -> Outgoing {
    let message = Message {
        body: vec![b'x'; size].into(),
        ..Message::default()
    };
    let publish = Publish {
        route: Route::Queue("q".into()),
        message,
        delay: Duration::ZERO,
        deadline: Duration::ZERO,
    };
    Outgoing::new(publish, SystemTime::now()).expect("it can be encoded")
}

#[tokio::test]
async fn a_full_disk_refuses_what_grows_and_lets_the_rest_go_on() {
    let name = format!("garenne-{}", uuid::Uuid::new_v4().simple());
    let place = std::env::temp_dir().join(name);
    let path = place.join("queue.db");
    let db = schema::open(&path).expect("opened");
    let pages: i64 = db
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .expect("read");
    db.pragma_update_and_check(None, "max_page_count", pages + 40, |_| Ok(()))
        .expect("set");
    let (handle, inbox) = Handle::new();
    let syncing = Syncing::new(&db, true).expect("set");
    let heard = Heard::default();
    let engine =
        Engine::new(db, syncing, path.clone(), handle.clone(), inbox, heard).expect("registered");
    let thread = std::thread::spawn(move || engine.run());
    let publish = async |size| {
        let patience = Duration::from_secs(20);
        handle.publish(outgoing(size), patience).await.0
    };

    let (sender, mut deliveries) = mpsc::channel(3);
    let subscribe = Request::Subscribe {
        number: 1,
        queue: Queue::new("q"),
        slots: 2,
        deliveries: sender,
    };
    handle.call(subscribe).await.expect("subscribed");
    for _ in 0..2 {
        publish(10).await.expect("stored");
    }
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(deliveries.recv().await.expect("open").expect("delivered"));
    }
    let large = (0..60).map(|_| publish(8000));
    let mut stored = 0;
    for outcome in futures_util::future::join_all(large).await {
        match outcome {
            Ok(()) => stored += 1,
            Err(Error::Blocked { reason, .. }) => {
                assert!(reason.contains("free space"), "{reason}")
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!((5..40).contains(&stored), "{stored}");
    for delivery in held {
        delivery.ack(None).await.expect("settling needs no room");
    }
    for _ in 0..stored {
        let delivery = deliveries.recv().await.expect("open").expect("delivered");
        delivery.ack(None).await.expect("settled");
    }
    publish(8000).await.expect("there is room again");

    let (closed, done) = oneshot::channel();
    handle.send(Command::Close(closed));
    done.await.expect("closed");
    thread.join().expect("ended");
    std::fs::remove_dir_all(place).expect("removed");
}
