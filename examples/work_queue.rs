//! Fair dispatch: a fast and a slow worker share 20 uneven jobs, each taking the next one when it is free.
//! Then one of them dies in the middle of a job, and nothing is lost.

use std::time::Duration;

use garenne::{App, RunningWorker, Worker, task};

struct Workshop {
    name: &'static str,
    /// How long one unit of effort takes here.
    pace: Duration,
}

/// Returns who did the job.
#[task(queue = "jobs")]
async fn job(workshop: &Workshop, effort: u32) -> String {
    tokio::time::sleep(workshop.pace * effort).await;
    workshop.name.to_owned()
}

fn open(app: &App, name: &'static str, pace: u64) -> RunningWorker {
    let pace = Duration::from_millis(pace);
    Worker::new(app)
        .queue("jobs", 1)
        .state(Workshop { name, pace })
        .spawn()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let (fast, slow) = (open(&app, "fast", 5), open(&app, "slow", 40));

    let mut done = (0, 0);
    for sent in app.send_all((0..20).map(|n| job::call(1 + n % 4))).await {
        match sent?.await?.as_str() {
            "fast" => done.0 += 1,
            _ => done.1 += 1,
        }
    }
    println!(
        "{} jobs done; the fast worker did more: {}",
        done.0 + done.1,
        done.0 > done.1
    );
    fast.stop().await?;

    let long = job::call(25).send(&app).await?;
    while app.depth("jobs").await?.ready > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    slow.abort().await; // as if its process had been killed
    println!("the slow worker died in the middle of a job");
    let spare = open(&app, "spare", 5);
    println!("the job was done by the {} one", long.await?);
    spare.stop().await?;
    Ok(())
}
