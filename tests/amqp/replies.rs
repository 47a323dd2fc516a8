//! The reply queue.

use garenne::broker::{Broker, Route};
use tokio::time::timeout;

use super::fixture::{SOON, connect, proxied, publish, url};

#[tokio::test]
async fn replies_survive_a_cut() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let worker = connect(&url).await;
    let mut replies = broker.replies().await.expect("a reply queue");
    let reply = |id: &str| publish(Route::Reply(replies.address.clone()), id);
    let mut next = async || {
        let reply = timeout(SOON, replies.messages.recv()).await;
        reply.expect("in time").expect("open").id
    };
    worker.publish(reply("1")).await.expect("stored");
    assert_eq!(next().await, "1");
    proxy.refuse(true);
    proxy.cut();
    worker
        .publish(publish(Route::Reply(replies.address.clone()), "2"))
        .await
        .expect("stored");
    proxy.refuse(false);
    while next().await != "2" {}
    let address = replies.address.clone();
    broker.close().await;
    assert!(worker.depth(&address).await.is_err(), "deleted by close");
    worker
        .publish(publish(Route::Reply(address), "3"))
        .await
        .expect("nobody waits");
    worker.close().await;
}
