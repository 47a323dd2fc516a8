//! Looking at what waits in a queue: nothing of it changes but what is settled.

use garenne::Queue;
use garenne::broker::{Browse, Delivery};
use garenne::error::Error;

use super::fixture::{Fixture, message, take, to_queue, within};

async fn look(f: &Fixture, queue: &Queue) -> Box<dyn Browse> {
    within(f.consumer.browse(queue.name()))
        .await
        .expect("a look")
}

async fn page(look: &mut Box<dyn Browse>, limit: usize) -> Vec<Delivery> {
    within(look.next(limit)).await.expect("a page")
}

fn ids(page: &[Delivery]) -> Vec<&str> {
    let ids = page.iter().map(|delivery| delivery.message.id.as_str());
    ids.collect()
}

async fn close(look: Box<dyn Browse>) {
    within(look.close()).await.expect("an end of the look");
}

/// The ids of all that is ready.
async fn all(f: &Fixture, queue: &Queue) -> Vec<String> {
    let mut look = look(f, queue).await;
    let seen = page(&mut look, 100).await;
    let ids = ids(&seen).into_iter().map(str::to_owned).collect();
    close(look).await;
    ids
}

/// A queue for dead letters with these messages.
async fn letters(f: &Fixture, sent: &[&str]) -> Queue {
    let dead = f.declared("q").await.dead_letters();
    f.send(&dead, sent).await;
    dead
}

pub(crate) async fn a_look_shows_what_is_ready_in_its_order(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut other = message("a");
    other.body = b"\xff any bytes".to_vec().into();
    f.publish(to_queue(&queue, other.clone())).await;
    f.send(&queue, &["b", "c", "d", "e"]).await;
    let mut look = look(f, &queue).await;
    let first = page(&mut look, 2).await;
    assert_eq!(ids(&first), ["a", "b"]);
    assert_eq!(first[0].message, other);
    assert_eq!(
        (first[0].queue.as_str(), first[0].exchange.as_str()),
        (queue.name(), "")
    );
    assert_eq!(ids(&page(&mut look, 2).await), ["c", "d"]);
    assert_eq!(ids(&page(&mut look, 9).await), ["e"]);
    assert_eq!(ids(&page(&mut look, 9).await), [""; 0]);
    close(look).await;
}

pub(crate) async fn a_look_takes_nothing(f: &Fixture) {
    let queue = letters(f, &["a", "b", "c", "d", "e"]).await;
    let mut look = look(f, &queue).await;
    for limit in [2, 1] {
        for delivery in page(&mut look, limit).await {
            within(delivery.release()).await.expect("a release");
        }
    }
    close(look).await;
    assert_eq!(f.depth(&queue).await.ready, 5);
    assert_eq!(all(f, &queue).await, ["a", "b", "c", "d", "e"]);
    let mut consumer = f.consume(&queue, 1).await;
    let mut taken = take(&mut consumer, 5).await;
    taken.sort();
    assert_eq!(taken, ["a", "b", "c", "d", "e"]);
}

/// RabbitMQ 4 deletes what was given back twenty times, unless it is told otherwise.
pub(crate) async fn looking_often_costs_nothing(f: &Fixture) {
    let queue = letters(f, &["a", "b", "c", "d", "e"]).await;
    for round in 0..25 {
        let mut look = look(f, &queue).await;
        let mut seen = page(&mut look, 2).await;
        seen.extend(page(&mut look, round % 4 + 1).await);
        let expected = ["a", "b", "c", "d", "e"];
        assert_eq!(ids(&seen), expected[..seen.len()], "round {round}");
        close(look).await;
    }
    assert_eq!(f.depth(&queue).await.ready, 5);
}

pub(crate) async fn a_dropped_look_takes_nothing(f: &Fixture) {
    let queue = letters(f, &["a", "b", "c"]).await;
    let mut dropped = look(f, &queue).await;
    let seen = page(&mut dropped, 2).await;
    drop(dropped);
    drop(seen);
    f.ready_becomes(&queue, 3).await;
    assert_eq!(all(f, &queue).await, ["a", "b", "c"]);
}

pub(crate) async fn what_is_shown_can_be_taken_off(f: &Fixture) {
    let queue = letters(f, &["a", "b", "c", "d", "e"]).await;
    let mut look = look(f, &queue).await;
    for limit in [3, 2] {
        let seen = page(&mut look, limit).await;
        for delivery in seen.into_iter().rev() {
            if ["b", "c", "e"].contains(&delivery.message.id.as_str()) {
                within(delivery.ack(None)).await.expect("an ack");
            }
        }
    }
    close(look).await;
    assert_eq!(all(f, &queue).await, ["a", "d"]);
}

pub(crate) async fn what_is_shown_can_be_moved(f: &Fixture) {
    let (queue, work) = (letters(f, &["a", "b"]).await, f.declared("work").await);
    let mut look = look(f, &queue).await;
    for delivery in page(&mut look, 2).await {
        let copy = to_queue(&work, message(&format!("{} again", delivery.message.id)));
        within(delivery.retry(copy)).await.expect("a move");
    }
    close(look).await;
    assert_eq!(f.depth(&queue).await.ready, 0);
    let mut consumer = f.consume(&work, 1).await;
    assert_eq!(take(&mut consumer, 2).await, ["a again", "b again"]);
}

pub(crate) async fn what_is_shown_stays_if_its_copy_cannot_be_stored(f: &Fixture) {
    let (queue, nowhere) = (letters(f, &["a", "b"]).await, f.queue("nowhere"));
    let mut look = look(f, &queue).await;
    for delivery in page(&mut look, 1).await {
        let copy = to_queue(&nowhere, message("lost"));
        let outcome = within(delivery.retry(copy)).await;
        assert!(
            matches!(outcome, Err(Error::Unroutable { .. })),
            "{outcome:?}"
        );
    }
    close(look).await;
    assert_eq!(all(f, &queue).await, ["a", "b"]);
}

pub(crate) async fn two_looks_take_each_message_once(f: &Fixture) {
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let queue = letters(f, &names).await;
    let (mut one, mut two) = (look(f, &queue).await, look(f, &queue).await);
    let mut taken = 0;
    loop {
        let (left, right) = (page(&mut one, 3).await, page(&mut two, 3).await);
        if left.is_empty() && right.is_empty() {
            break;
        }
        for delivery in right.into_iter().chain(left) {
            match within(delivery.ack(None)).await {
                Ok(()) => taken += 1,
                Err(error) => assert!(matches!(error, Error::Stale { .. }), "{error}"),
            }
        }
    }
    close(one).await;
    close(two).await;
    assert_eq!((taken, f.depth(&queue).await.ready), (20, 0));
}

pub(crate) async fn a_look_at_no_queue_is_an_error_that_names_it(f: &Fixture) {
    let nowhere = f.queue("nowhere");
    let outcome = within(f.consumer.browse(nowhere.name())).await.map(drop);
    match outcome {
        Err(error @ Error::Refused { .. }) => {
            assert!(error.to_string().contains(nowhere.name()), "{error}");
        }
        other => panic!("{other:?} instead of a refusal"),
    }
}
