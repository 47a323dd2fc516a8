//! Tests of the writer thread by what it is asked for, with a file that cannot grow: no caller could arrange that from
//! outside.

use std::time::Duration;

use super::*;
use crate::broker::sqlite::consume::Claimed;
use crate::broker::sqlite::outgoing::tests::outgoing;
use crate::broker::sqlite::{schema, store};
use crate::broker::{Delivery, Incoming, Publish, Queue, Route};
use crate::error::Error;
use crate::message::Message;

async fn next<T>(received: &mut Incoming<T>) -> T {
    let next = tokio::time::timeout(Duration::from_secs(20), received.recv());
    next.await.expect("in time").expect("open")
}

/// The writer thread of a file that cannot grow by more than 40 pages.
struct Small {
    place: PathBuf,
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Small {
    fn open() -> Self {
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
            Engine::new(db, syncing, path, handle.clone(), inbox, heard).expect("registered");
        let thread = std::thread::spawn(move || engine.run());
        Self {
            place,
            handle,
            thread,
        }
    }

    async fn publish(&self, size: usize) -> Result<(), Error> {
        let patience = Duration::from_secs(20);
        self.handle.publish(outgoing("q", size), patience).await.0
    }

    /// Two deliveries, and where others come.
    async fn hold_two(&self) -> (Vec<Delivery>, Incoming<Result<Delivery, Error>>) {
        let (sender, deliveries) = mpsc::channel(3);
        let made = |claimed: Result<_, _>| claimed.map(Claimed::delivery);
        let mut deliveries = Incoming::made_of(deliveries, made);
        let subscribe = Request::Subscribe {
            number: 1,
            queue: Queue::new("q"),
            slots: 2,
            deliveries: sender,
        };
        self.handle.call(subscribe).await.expect("subscribed");
        for _ in 0..2 {
            self.publish(10).await.expect("stored");
        }
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(next(&mut deliveries).await.expect("delivered"));
        }
        (held, deliveries)
    }

    /// Publishes what is too much; how many were stored.
    async fn fill(&self) -> usize {
        let large = (0..60).map(|_| self.publish(8000));
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
        stored
    }

    async fn close(self) {
        let (closed, done) = oneshot::channel();
        self.handle.send(Command::Close(closed));
        done.await.expect("closed");
        self.thread.join().expect("ended");
        std::fs::remove_dir_all(self.place).expect("removed");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_what_grows_and_lets_the_rest_go_on() {
    let small = Small::open();
    let (held, mut deliveries) = small.hold_two().await;
    let stored = small.fill().await;
    for delivery in held {
        delivery.ack(None).await.expect("settling needs no room");
    }
    for _ in 0..stored {
        let delivery = next(&mut deliveries).await.expect("delivered");
        delivery.ack(None).await.expect("settled");
    }
    small.publish(8000).await.expect("there is room again");
    small.close().await;
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_takes_nothing_with_it() {
    let small = Small::open();
    let declare = Request::Declare(Queue::new("q"));
    small.handle.call(declare).await.expect("declared");
    small.publish(10).await.expect("stored");
    let reader = schema::open_reader(&small.place.join("queue.db")).expect("opened");
    let look = || store::look(&reader, "q", None, 99).expect("read");
    let (first, print) = look().remove(0);
    let take = small.handle.call(Request::Take {
        seq: first.seq,
        queue: "q".into(),
        print,
        first: vec![outgoing("q", 10), outgoing("nowhere", 10)],
    });
    let others = || futures_util::future::join_all((0..20).map(|_| small.publish(10)));
    let (before, taken, after) = tokio::join!(others(), take, others());
    assert!(matches!(taken, Err(Error::Unroutable { .. })), "{taken:?}");
    assert!(before.iter().chain(&after).all(Result::is_ok));
    assert_eq!(look().len(), 41);
    drop(reader);
    small.close().await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_settled_when_there_is_room() {
    let small = Small::open();
    let (mut held, mut deliveries) = small.hold_two().await;
    let (address, (sender, replies)) = ("garenne.reply.mine", mpsc::channel(1));
    let mut replies = Incoming::made_of(replies, Packed::message);
    let listen = Request::Replies {
        address: address.into(),
        messages: sender,
    };
    small.handle.call(listen).await.expect("listening");
    let stored = small.fill().await;
    let reply = Publish {
        route: Route::Reply(address.into()),
        message: Message {
            body: vec![b'x'; 40_000].into(),
            ..Message::default()
        },
        delay: Duration::ZERO,
        deadline: Duration::ZERO,
    };
    let answered = Box::new(held.remove(0));
    answered.settle(vec![reply]).await.expect("on its way");
    let handle = small.handle.clone();
    let mut flush = tokio::spawn(async move { handle.call(Request::Flush).await });
    // Tried again at least once.
    let early = tokio::time::timeout(Duration::from_millis(400), &mut flush).await;
    assert!(early.is_err(), "it is not settled");
    let none_yet = tokio::time::timeout(Duration::ZERO, replies.recv());
    assert!(none_yet.await.is_err());
    // What makes room.
    let mut made = held;
    for _ in 0..stored {
        for delivery in made.drain(..) {
            delivery.ack(None).await.expect("settled");
        }
        made.push(next(&mut deliveries).await.expect("delivered"));
    }
    // Nor does what others ask for meanwhile keep it waiting.
    while !flush.is_finished() {
        small.publish(10).await.expect("stored");
        for delivery in made.drain(..) {
            delivery.ack(None).await.expect("settled");
        }
        made.push(next(&mut deliveries).await.expect("delivered"));
    }
    flush.await.expect("no panic").expect("settled");
    assert_eq!(next(&mut replies).await.body.len(), 40_000);
    drop(made);
    small.close().await;
}
