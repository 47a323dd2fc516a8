//! Cancelled calls, told through a stream.

use std::time::Duration;

use garenne::broker::{Broker, Publish, Route};
use garenne::message::Message;
use tokio::time::Instant;

use super::fixture::{connect, proxied, recv, unique, url};

#[tokio::test]
async fn cancellations_are_known_to_those_who_come_later() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&url).await;
    let (before, after, late) = (unique("before"), unique("after"), unique("late"));
    broker.cancel(&before).await.expect("cancelled");
    let reader = connect(&through).await;
    let start = Instant::now();
    let mut known = reader.cancellations().await.expect("history");
    println!("{} known in {:?}", known.known.len(), start.elapsed());
    assert!(known.known.contains(&before));
    broker.cancel(&after).await.expect("cancelled");
    assert_eq!(next_of(&mut known.later, &[&after, &late]).await, after);
    proxy.cut();
    broker.cancel(&late).await.expect("cancelled");
    assert_eq!(next_of(&mut known.later, &[&after, &late]).await, late);
    broker.close().await;
    reader.close().await;
}

/// What a cancelled call that is due in a month goes through shortly before: here without the month.
#[tokio::test]
async fn a_cancellation_is_told_again_through_the_ladder() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let mut known = broker.cancellations().await.expect("history");
    let (first, id) = (unique("first"), unique("again"));
    broker.cancel(&first).await.expect("cancelled");
    assert_eq!(next_of(&mut known.later, &[&first]).await, first);
    let start = Instant::now();
    let delay = Duration::from_millis(300);
    let publish = Publish {
        route: Route::Queue("garenne.cancelled".into()),
        message: Message {
            id: id.clone(),
            body: id.clone().into_bytes().into(),
            ..Message::default()
        },
        delay,
        deadline: Duration::from_secs(10),
    };
    broker.publish(publish).await.expect("published");
    assert_eq!(next_of(&mut known.later, &[&id]).await, id);
    assert!(start.elapsed() >= delay);
    broker.close().await;
}

/// The next of `ids`: other tests cancel, too.
async fn next_of(later: &mut tokio::sync::mpsc::Receiver<String>, ids: &[&str]) -> String {
    loop {
        let id = recv(later).await;
        if ids.contains(&id.as_str()) {
            return id;
        }
    }
}
