//! One queue in several, for what is more than one core of the broker carries: a consistent hash of a key chooses the
//! shard, so the calls of one customer stay in order, and a further shard moves few customers.

use garenne::{App, Worker, task};

const SHARDS: u64 = 4;

#[task]
async fn bill(customer: String) -> usize {
    customer.len()
}

/// The shard of a key, from 0: the jump consistent hash of Lamping and Veach (2014), of the key's FNV-1a.
fn shard(key: &str, shards: u64) -> u64 {
    let mut hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let (mut chosen, mut next) = (0, 0);
    while next < shards {
        chosen = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let jump = (1_u64 << 31) as f64 / ((hash >> 33) + 1) as f64;
        next = ((chosen + 1) as f64 * jump) as u64;
    }
    chosen
}

/// The one place that says how many shards there are.
fn queue_of(customer: &str) -> String {
    format!("bills.{}", shard(customer, SHARDS))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    // A worker takes from all of them; where that is too much for one, let each take from some.
    let worker = (0..SHARDS).fold(Worker::new(&app), |worker, n| {
        worker.queue(format!("bills.{n}"), 2)
    });
    let worker = worker.spawn();

    let customers: Vec<String> = (0..1000).map(|n| format!("customer-{n}")).collect();
    let calls = customers
        .iter()
        .map(|customer| bill::call(customer.clone()).queue(queue_of(customer)));
    let mut answers = 0;
    for sent in app.send_all(calls.collect::<Vec<_>>()).await {
        sent?.await?;
        answers += 1;
    }
    println!("{answers} bills over {SHARDS} queues");
    let mut shares = [0; SHARDS as usize];
    for customer in &customers {
        shares[shard(customer, SHARDS) as usize] += 1;
    }
    println!(
        "each has its share: {}",
        shares.iter().all(|share| (200..300).contains(share))
    );
    let moved = customers
        .iter()
        .filter(|customer| shard(customer, SHARDS) != shard(customer, SHARDS + 1))
        .count();
    println!(
        "a fifth shard would move a fifth of the customers: {}",
        (150..250).contains(&moved)
    );
    worker.stop().await?;
    Ok(())
}
