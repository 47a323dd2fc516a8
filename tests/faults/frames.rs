//! Connections that are cut inside a frame, at many places of the conversation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use garenne::App;

use super::child::WorkerProcess;
use super::place::{Place, alone, figure, long};
use super::proxy::{Proxy, Rules};
use super::tasks::marks;
use crate::support::within;

/// The first bytes open the connection, the next ones the channels and queues, then come messages.
const LAST: u64 = 6_000;

#[test]
fn a_cut_at_any_byte_is_survived() {
    alone("a_cut_at_any_byte_is_survived", Place::quorum, cuts);
}

async fn cuts(place: Place) {
    // A panic in one of lapin's threads would go unnoticed.
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, print) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::SeqCst);
        print(panic);
    }));
    let step = if long() { 7 } else { 157 };
    let proxy = Proxy::start(&place.server()).await;
    let url = place.through(proxy.address);
    let _worker = WorkerProcess::start(&place, 4);
    let (mut sent, mut refused) = (Vec::new(), 0);
    for (n, bytes) in (1..LAST).step_by(step).enumerate() {
        let n = n as u64;
        // Every connection ends after so many bytes, until the link is healed.
        proxy.set(Rules {
            cut_after: Some(bytes),
            ..Rules::default()
        });
        let connecting = App::builder(&url)
            .send_timeout(10 * garenne::SECOND)
            .connect();
        let app = match within("an outcome", connecting).await {
            Ok(app) => app,
            Err(error) => {
                assert!(
                    error.to_string().contains(&proxy.address.to_string()),
                    "{error}"
                );
                refused += 1;
                proxy.heal();
                place.app().await
            }
        };
        let sending = tokio::spawn({
            let (app, queue) = (app.clone(), place.queue.clone());
            async move { marks::call(n, 0).queue(&queue).send(&app).await }
        });
        tokio::time::sleep(Duration::from_millis(60)).await;
        proxy.heal();
        let handle = within("sending", sending).await.expect("no panic");
        assert_eq!(
            within("a result", handle.expect("sent")).await,
            Ok(n),
            "{bytes}"
        );
        sent.push(n);
        app.close().await;
    }
    let mut ran: Vec<String> = place.lines();
    let runs = ran.len();
    ran.sort_unstable();
    ran.dedup();
    figure!(
        place,
        "cut after {} numbers of bytes up to {LAST}: connecting failed {refused} times, 0 of {} calls lost, {} run twice",
        sent.len(),
        sent.len(),
        runs - ran.len()
    );
    assert_eq!(ran.len(), sent.len(), "each ran");
    assert_eq!(panics.load(Ordering::SeqCst), 0, "no thread panicked");
    // The hook that printed is gone; the standard one does the same.
    drop(std::panic::take_hook());
    place.leave(place.app().await).await;
}
