//! Rolling restarts: workers are told to stop, one after the other, again and again, while calls flow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::child::{Spawn, WorkerProcess};
use super::place::{Place, figure, on};
use super::tasks::marks;
use crate::support::within;

const WORKERS: usize = 4;
const SLOTS: usize = 4;
const GRACE: Duration = Duration::from_secs(5);
/// A short run of a test that has a long one, too: `GARENNE_TEST_LONG=1`.
const SHORT: (usize, u64) = (3, 1_500);
const LONG: (usize, u64) = (20, 10_000);
/// Handles kept at a time: there are always enough calls in the queue.
const AWAITED: usize = 300;

on!(alone rolling_restarts_lose_and_repeat_nothing: sqlite quorum);

async fn rolling_restarts_lose_and_repeat_nothing(place: Place) {
    let (rounds, calls) = if super::place::long() { LONG } else { SHORT };
    let spawn = || Spawn::at(&place).slots(SLOTS).grace(GRACE).start();
    let mut workers: VecDeque<WorkerProcess> = (0..WORKERS).map(|_| spawn()).collect();
    let app = place.app().await;
    let start = Instant::now();
    // Calls flow as long as workers are restarted, then until there were enough of them.
    let restarts = async {
        let mut stops = Vec::new();
        for _ in 0..rounds * WORKERS {
            let mut oldest = workers.pop_front().expect("a worker");
            let told = Instant::now();
            oldest.signal("TERM");
            let status = oldest.ended().await;
            assert!(status.success(), "{status}");
            stops.push(told.elapsed());
            workers.push_back(tokio::task::block_in_place(spawn));
        }
        stops
    };
    let (done, restarted) = tokio::sync::watch::channel(false);
    let restarts = async {
        let stops = restarts.await;
        done.send_replace(true);
        stops
    };
    let flow = async {
        let endless = (0..).map(|n| marks::call(n, 20).queue(&place.queue));
        let mut sending = app.send_all(endless);
        let (mut awaited, mut sent) = (VecDeque::new(), 0);
        while sent < calls || !*restarted.borrow() {
            let handle = within("sending", sending.next()).await.expect("endless");
            awaited.push_back(handle.expect("sent"));
            sent += 1;
            if awaited.len() >= AWAITED {
                let n = sent - awaited.len() as u64;
                let handle = awaited.pop_front().expect("many");
                assert_eq!(within("a result", handle).await, Ok(n));
            }
        }
        drop(sending);
        for (n, handle) in (sent - awaited.len() as u64..).zip(awaited) {
            assert_eq!(within("a result", handle).await, Ok(n));
        }
        sent
    };
    let (mut stops, sent) = tokio::join!(restarts, flow);
    stops.sort_unstable();
    figure!(
        place,
        "{} restarts in {:.1?} while {sent} calls flowed; a stop took {:.0?}, at most {:.0?}",
        stops.len(),
        start.elapsed(),
        stops[stops.len() / 2],
        stops[stops.len() - 1],
    );
    assert!(stops[stops.len() - 1] < GRACE, "{stops:?}");
    // `n attempt`: none was lost, none ran twice, no attempt was spent.
    let mut lines = place.lines();
    assert!(lines.iter().all(|line| line.ends_with(" 1")), "attempts");
    let mut ran: Vec<u64> = lines
        .drain(..)
        .map(|line| line.split(' ').next().and_then(|n| n.parse().ok()))
        .map(|n| n.expect("a number"))
        .collect();
    ran.sort_unstable();
    // What `send_all` had sent ahead when it was dropped may have run, too.
    ran.retain(|n| *n < sent);
    assert_eq!(ran.len() as u64, sent, "lost or repeated");
    assert!(ran.into_iter().eq(0..sent), "each call ran just once");
    drop(workers);
    place.leave(app).await;
}
