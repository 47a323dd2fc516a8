//! The reply queue.

use garenne::broker::{Broker, Route};

use super::fixture::{connect, proxied, publish, recv, url};

#[tokio::test]
async fn replies_survive_a_cut() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let worker = connect(&url).await;
    let mut replies = broker.replies().await.expect("a reply queue");
    let reply = |id: &str| publish(Route::Reply(replies.address.clone()), id);
    worker.publish(reply("1")).await.expect("stored");
    assert_eq!(recv(&mut replies.messages).await.id, "1");
    proxy.refuse(true);
    proxy.cut();
    worker
        .publish(publish(Route::Reply(replies.address.clone()), "2"))
        .await
        .expect("stored");
    proxy.refuse(false);
    while recv(&mut replies.messages).await.id != "2" {}
    let address = replies.address.clone();
    broker.close().await;
    assert!(worker.depth(&address).await.is_err(), "deleted by close");
    worker
        .publish(publish(Route::Reply(address), "3"))
        .await
        .expect("nobody waits");
    worker.close().await;
}
