//! Broadcasts: who listens hears, and nothing is kept for who does not.

use futures_util::future::join_all;
use garenne::broker::{Announcement, BACKLOG, Broker, Channel, ChannelKind, Listener};
use garenne::message::Message;
use tokio::time::timeout;

use super::fixture::{A_MOMENT, Fixture, within};

fn channel(f: &Fixture, kind: ChannelKind) -> Channel {
    Channel::new(kind, &f.name(""))
}

fn announcement(channel: &Channel, key: &str, text: &str) -> Announcement {
    let mut message = Message {
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        body: text.as_bytes().to_vec().into(),
        ..Message::default()
    };
    message.set("hostname", "w@h");
    message.set("expires", 1_795_226_123.5);
    Announcement {
        channel: channel.clone(),
        key: key.to_owned(),
        message,
    }
}

async fn announce(broker: &dyn Broker, channel: &Channel, key: &str, text: &str) {
    let done = within(broker.announce(announcement(channel, key, text))).await;
    done.expect("announced");
}

async fn listen(broker: &dyn Broker, channel: &Channel, name: &str) -> Listener {
    let listener = within(broker.listen(channel, name)).await;
    listener.expect("a listener")
}

async fn hears(listener: &mut Listener, expected: &str) {
    let heard = within(listener.next()).await.expect("an open broker");
    assert_eq!(String::from_utf8_lossy(&heard.body), expected);
}

async fn hears_nothing(listener: &mut Listener) {
    if let Ok(heard) = timeout(A_MOMENT, listener.next()).await {
        panic!("{heard:?} was heard, but nothing should be");
    }
}

pub(crate) async fn an_announcement_reaches_all_who_listen(f: &Fixture) {
    let channel = channel(f, ChannelKind::Event);
    let mut here = listen(&*f.consumer, &channel, "here").await;
    let mut there = listen(&*f.publisher, &channel, "there").await;
    let sent = announcement(&channel, "worker.online", "one");
    within(f.publisher.announce(sent.clone()))
        .await
        .expect("announced");
    let heard = within(here.next()).await.expect("an open broker");
    assert_eq!(
        (&heard.headers, &heard.body, &heard.content_type),
        (
            &sent.message.headers,
            &sent.message.body,
            &sent.message.content_type
        )
    );
    hears(&mut there, "one").await;
    announce(&*f.consumer, &channel, "task.multi", "two").await;
    hears(&mut here, "two").await;
    hears(&mut there, "two").await;
}

pub(crate) async fn a_reply_reaches_only_its_listener(f: &Fixture) {
    let channel = channel(f, ChannelKind::Reply);
    let (one, other) = (f.name("one"), f.name("other"));
    let mut right = listen(&*f.consumer, &channel, &one).await;
    let mut wrong = listen(&*f.consumer, &channel, &other).await;
    announce(&*f.publisher, &channel, &one, "pong").await;
    hears(&mut right, "pong").await;
    hears_nothing(&mut wrong).await;
}

pub(crate) async fn that_nobody_listens_is_no_error(f: &Fixture) {
    for kind in [ChannelKind::Control, ChannelKind::Reply, ChannelKind::Event] {
        announce(&*f.publisher, &channel(f, kind), "nobody", "hello?").await;
    }
}

pub(crate) async fn what_was_announced_before_is_not_heard(f: &Fixture) {
    let channel = channel(f, ChannelKind::Control);
    announce(&*f.publisher, &channel, "", "early").await;
    let mut listener = listen(&*f.consumer, &channel, &f.name("node")).await;
    announce(&*f.publisher, &channel, "", "late").await;
    hears(&mut listener, "late").await;
}

pub(crate) async fn a_name_to_be_controlled_by_is_given_once(f: &Fixture) {
    let channel = channel(f, ChannelKind::Control);
    let name = f.name("node");
    let mut first = listen(&*f.consumer, &channel, &name).await;
    let second = match f.another().await {
        Some(other) => {
            let second = within(other.listen(&channel, &name)).await;
            within(other.close()).await;
            second
        }
        None => within(f.consumer.listen(&channel, &name)).await,
    };
    let error = second.expect_err("the name is taken").to_string();
    assert!(error.contains(&name), "{error}");
    within(f.consumer.listen(&channel, &name))
        .await
        .expect_err("not on the same connection, either");
    // It has done the first one no harm.
    announce(&*f.publisher, &channel, "", "ping").await;
    hears(&mut first, "ping").await;
    drop(first);
    let again = async {
        while f.consumer.listen(&channel, &name).await.is_err() {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    within(again).await;
}

pub(crate) async fn another_prefix_is_another_channel(f: &Fixture) {
    let ours = channel(f, ChannelKind::Event);
    let theirs = Channel::new(ChannelKind::Event, &f.name("theirs."));
    let mut listener = listen(&*f.consumer, &ours, "a").await;
    announce(&*f.publisher, &theirs, "task.sent", "theirs").await;
    announce(&*f.publisher, &ours, "task.sent", "ours").await;
    hears(&mut listener, "ours").await;
}

pub(crate) async fn who_listens_may_be_heard(f: &Fixture) {
    let channel = channel(f, ChannelKind::Event);
    let _listener = listen(&*f.consumer, &channel, "a").await;
    let known = async {
        while !f.publisher.may_be_heard(&channel) {
            tokio::time::sleep(A_MOMENT / 10).await;
        }
    };
    within(known).await;
}

pub(crate) async fn a_slow_listener_holds_up_nobody(f: &Fixture) {
    let channel = channel(f, ChannelKind::Event);
    let mut slow = listen(&*f.consumer, &channel, "slow").await;
    let mut quick = listen(&*f.consumer, &channel, "quick").await;
    let rounds = 2 * BACKLOG / 64;
    for _ in 0..rounds {
        let all = (0..64).map(|_| announce(&*f.publisher, &channel, "task.multi", "many"));
        join_all(all).await;
        for _ in 0..64 {
            hears(&mut quick, "many").await;
        }
    }
    // It hears what there was room for, and what comes when there is room again: some may still be on their way.
    for _ in 0..BACKLOG {
        hears(&mut slow, "many").await;
    }
    announce(&*f.publisher, &channel, "task.multi", "last").await;
    let mut late = 0;
    while within(slow.next()).await.expect("an open broker").body[..] == *b"many" {
        late += 1;
    }
    assert!(BACKLOG + late < 64 * rounds, "some were missed: {late}");
    announce(&*f.publisher, &channel, "task.multi", "after").await;
    hears(&mut slow, "after").await;
}

pub(crate) async fn listeners_end_with_their_broker(f: &Fixture) {
    let channel = channel(f, ChannelKind::Control);
    let mut listener = listen(&*f.consumer, &channel, &f.name("node")).await;
    within(f.consumer.close()).await;
    assert!(within(listener.next()).await.is_none());
    let again = within(f.consumer.listen(&channel, "again")).await;
    again.expect_err("it is closed");
}
