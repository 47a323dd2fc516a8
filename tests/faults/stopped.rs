//! A worker process is told to stop while calls flow.

use std::collections::VecDeque;

use super::child::WorkerProcess;
use super::place::{Place, figure, on};
use super::tasks::nap;
use crate::support::within;

const CALLS: u64 = 2_000;

on!(alone a_graceful_stop_loses_and_repeats_nothing: sqlite quorum);

async fn a_graceful_stop_loses_and_repeats_nothing(place: Place) {
    let app = place.app().await;
    let mut sending = app.send_all((0..CALLS).map(|n| nap::call(n, 5).queue(&place.queue)));
    let mut awaited = VecDeque::new();
    while let Some(sent) = within("sending", sending.next()).await {
        awaited.push_back(sent.expect("sent"));
    }
    let mut stopping = WorkerProcess::start(&place, 8);
    let _staying = WorkerProcess::start(&place, 8);
    let mut left = 0;
    for (n, handle) in (0..).zip(awaited) {
        assert_eq!(within("a result", handle).await, Ok(n));
        if n == CALLS / 5 {
            left = app.depth(&place.queue).await.expect("a queue").ready;
            stopping.signal("TERM");
        }
    }
    let status = stopping.ended().await;
    assert!(status.success(), "{status}");
    let mut ran: Vec<u64> = place
        .lines()
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    ran.sort_unstable();
    figure!(
        place,
        "{} of {CALLS} calls ran, {left} of them waited at SIGTERM",
        ran.len()
    );
    assert!(left > 0, "the stop came too late to mean anything");
    assert!(ran.into_iter().eq(0..CALLS), "each call ran just once");
    place.leave(app).await;
}
