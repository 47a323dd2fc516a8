//! A queue that is divided into several.

use std::collections::BTreeSet;

use garenne::{App, Context, Dead, Queue, group, task};

use crate::on_every_broker;
use crate::support::{self, within};
use crate::tasks::*;

const SHARDS: u32 = 3;

#[task(queue = "divided", shards = 3)]
async fn whereabouts(ctx: &Context, _number: u32) -> String {
    ctx.queue().to_owned()
}

#[task(queue = "divided", shards = 3)]
async fn fails_here(ctx: &Context) -> Result<(), String> {
    Err(ctx.queue().to_owned())
}

#[task(queue = "divided", shards = 3)]
async fn gather(queues: Vec<String>) -> usize {
    queues.into_iter().collect::<BTreeSet<_>>().len()
}

fn all() -> BTreeSet<String> {
    Queue::new("divided").shards(SHARDS).shard_names().collect()
}

on_every_broker! {
    async fn calls_are_spread_over_all_shards_and_those_of_a_key_are_not(app: App) {
        let (worker, _) = worker(&app, "divided", 4);
        let worker = worker.spawn();
        let mut found = BTreeSet::new();
        for sent in app.send_all((0..60).map(whereabouts::call)).await {
            found.insert(within("a result", sent.expect("sent")).await.expect("done"));
        }
        assert_eq!(found, all());
        let of_one = (0..20).map(|n| whereabouts::call(n).shard_key("customer-7"));
        let mut found = BTreeSet::new();
        for sent in app.send_all(of_one).await {
            found.insert(within("a result", sent.expect("sent")).await.expect("done"));
        }
        assert_eq!(found.len(), 1, "{found:?}");
        within("a stop", worker.stop()).await.expect("stopped");
    }

    async fn a_workflow_runs_through_shards(app: App) {
        let (worker, _) = worker(&app, "divided", 3);
        let worker = worker.spawn();
        let calls = (0..30).map(whereabouts::call);
        let chord = group(calls).then(gather::partial());
        let found = within("a result", chord.send(&app).await.expect("sent")).await;
        assert_eq!(found.expect("done"), all().len());
        within("a stop", worker.stop()).await.expect("stopped");
    }

    async fn shards_share_their_dead_letters(app: App) {
        let (worker, _) = worker(&app, "divided", 3);
        let worker = worker.spawn();
        let mut from = BTreeSet::new();
        for sent in app.send_all((0..30).map(|_| fails_here::call())).await {
            let failure = within("a failure", sent.expect("sent")).await.expect_err("failed");
            from.insert(failure.message);
        }
        assert_eq!(from, all());
        let letters = app.dead_letters("divided");
        let listed = within("a list", letters.list(Dead::all())).await.expect("listed");
        let queues: BTreeSet<_> = listed.iter().map(|letter| letter.queue.clone()).collect();
        assert_eq!((listed.len(), queues), (30, all()));
        // Each goes back to where it came from, and dies there again.
        let revived = within("a revival", letters.retry(Dead::all())).await.expect("revived");
        assert_eq!(revived, 30);
        support::eventually("all die again", async || {
            let listed = letters.list(Dead::all()).await.expect("listed");
            listed.len() == 30
        })
        .await;
        within("a stop", worker.stop()).await.expect("stopped");
    }

    async fn what_cannot_be_divided_is_refused(app: App) {
        let (few, _) = worker(&app, "divided", 2);
        let refused = within("a refusal", few.run(std::future::pending())).await.expect_err("too few slots");
        assert!(refused.to_string().contains("divided into 3"), "{refused}");
        for queue in [Queue::new("none").shards(0), Queue::new("many").shards(5000), Queue::exclusive().shards(2)] {
            let refused = app.declare(queue).await.expect_err("refused");
            assert!(refused.to_string().contains("shards"), "{refused}");
        }
        let declared = Queue::new("whole").shards(2);
        app.declare(declared.clone()).await.expect("declared");
        for name in declared.shard_names() {
            app.depth(&name).await.expect("it is there");
        }
    }
}
