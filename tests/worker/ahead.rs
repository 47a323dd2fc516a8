//! Short calls that are taken ahead of the slots.

use futures_util::future::try_join_all;
use garenne::{App, Prefetch, RunningWorker, task};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::on_every_broker;
use crate::support::{self, within};
use crate::tasks::*;

#[task]
async fn short(log: &Log, number: u32) -> u32 {
    log.say("begun");
    tokio::task::yield_now().await;
    log.say("done");
    number
}

/// Calls as they ran.
struct Said(UnboundedReceiver<String>);

impl Said {
    /// How many have begun, and how many ran at a time at most.
    fn count(&mut self) -> (usize, usize) {
        let (mut begun, mut now, mut most) = (0, 0_usize, 0);
        while let Ok(said) = self.0.try_recv() {
            if said == "begun" {
                begun += 1;
                now += 1;
                most = most.max(now);
            } else {
                now -= 1;
            }
        }
        (begun, most)
    }

    /// Waits for it; how many have begun meanwhile.
    async fn reaches(&mut self, what: &str) -> usize {
        let found = within(what, async {
            let mut begun = 0;
            loop {
                match self.0.recv().await {
                    Some(said) if said == what => return Some(begun),
                    Some(said) => begun += usize::from(said == "begun"),
                    None => return None,
                }
            }
        });
        found.await.expect("the worker has not ended")
    }
}

fn worker(app: &App, slots: usize) -> (RunningWorker, Said) {
    let (worker, said) = crate::tasks::worker(app, "default", slots);
    (worker.prefetch(Prefetch::Adaptive).spawn(), Said(said))
}

on_every_broker! {
    async fn short_calls_run_once_and_no_more_than_the_slots_at_a_time(app: App) {
        for slots in [1, 3] {
            let (worker, mut said) = worker(&app, slots);
            let mut handles = Vec::new();
            for sent in app.send_all((0..1_000).map(short::call)).await {
                handles.push(sent.expect("sent").into_future());
            }
            let results = within("all results", try_join_all(handles)).await.expect("results");
            assert_eq!(results, (0..1_000).collect::<Vec<_>>());
            let (begun, most) = said.count();
            assert_eq!(begun, 1_000);
            assert!(most <= slots, "{most}");
            worker.stop().await.expect("stopped");
        }
    }

    async fn what_was_taken_ahead_of_a_long_call_runs_elsewhere(app: App) {
        let (busy, mut said) = worker(&app, 1);
        for sent in app.send_all((0..500).map(|n| short::call(n).ignore_result())).await {
            let _ = sent.expect("sent");
        }
        let long = takes_a_while::call(60_000).send(&app).await.expect("sent");
        let mut handles = Vec::new();
        for sent in app.send_all((500..600).map(short::call)).await {
            handles.push(sent.expect("sent").into_future());
        }
        let before = said.reaches("started").await;
        let (other, mut others) = worker(&app, 1);
        let results = within("the other worker", try_join_all(handles)).await.expect("results");
        assert_eq!(results, (500..600).collect::<Vec<_>>());
        // Some of those before the long call may have gone back behind it, on a machine that is busy.
        assert_eq!(before + others.count().0, 600, "each runs once");
        other.stop().await.expect("stopped");
        // It takes calls again when the long one has ended.
        long.cancel().await.expect("cancelled");
        let again = short::call(7).send(&app).await.expect("sent");
        assert_eq!(within("a short call", again).await, Ok(7));
        busy.stop().await.expect("stopped");
    }

    async fn a_stop_hands_back_what_was_taken_ahead(app: App) {
        let (stopping, mut said) = worker(&app, 1);
        let mut handles = Vec::new();
        for sent in app.send_all((0..800).map(short::call)).await {
            handles.push(sent.expect("sent").into_future());
        }
        for _ in 0..200 {
            said.reaches("done").await;
        }
        within("the stop", stopping.stop()).await.expect("stopped");
        let done = 200 + said.count().0;
        let (next, mut others) = worker(&app, 1);
        let results = within("the next worker", try_join_all(handles)).await.expect("results");
        assert_eq!(results, (0..800).collect::<Vec<_>>());
        assert_eq!(done + others.count().0, 800, "none ran twice");
        next.stop().await.expect("stopped");
    }
}
