//! One queue in several, for what is more than one core of the broker carries: `shards` is all that says so. The calls
//! of one customer go to one of them, by a consistent hash of their `shard_key`.

use std::collections::{BTreeMap, BTreeSet};

use garenne::{App, Context, Worker, task};

#[task(queue = "bills", shards = 4)]
async fn bill(ctx: &Context, customer: String) -> (String, String) {
    (customer, ctx.queue().to_owned())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    // It takes from all of them, with two slots each.
    let worker = Worker::new(&app).queue("bills", 8).spawn();

    let calls = (0..1000).map(|n| {
        let customer = format!("customer-{}", n % 100);
        bill::call(customer.clone()).shard_key(customer)
    });
    let mut queues: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sent in app.send_all(calls).await {
        let (customer, queue) = sent?.await?;
        queues.entry(queue).or_default().insert(customer);
    }
    println!("queues: {:?}", queues.keys().collect::<Vec<_>>());
    let customers: usize = queues.values().map(BTreeSet::len).sum();
    println!("{customers} customers, each in one of them");
    worker.stop().await?;
    Ok(())
}
