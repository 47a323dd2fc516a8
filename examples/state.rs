//! What a task borrows is lent by the worker: `&Db` and `&Context` do not travel in the message.

use std::collections::HashMap;
use std::sync::Mutex;

use garenne::{App, Context, TaskError, Worker, task};

/// Stands for a pool of connections.
#[derive(Default)]
struct Db(Mutex<HashMap<String, u32>>);

impl Db {
    fn increment(&self, name: &str) -> Result<u32, String> {
        let mut counters = self.0.lock().map_err(|e| e.to_string())?;
        let counter = counters.entry(name.to_owned()).or_default();
        *counter += 1;
        Ok(*counter)
    }
}

#[task(queue = "visits")]
async fn visit(db: &Db, ctx: &Context, page: String) -> Result<String, TaskError> {
    let count = db.increment(&page)?;
    Ok(format!(
        "{page}: visit {count}, attempt {} from queue {}",
        ctx.attempt(),
        ctx.queue()
    ))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;

    // Without the state, the worker does not even start.
    let stop = std::future::ready(());
    if let Err(error) = Worker::new(&app).queue("visits", 1).run(stop).await {
        println!(
            "refused: {}",
            error.to_string().split(" at ").next().unwrap_or_default()
        );
    }

    let worker = Worker::new(&app)
        .queue("visits", 4)
        .state(Db::default())
        .spawn();
    for page in ["home", "home", "about"] {
        println!("{}", visit::call(page.into()).send(&app).await?.await?);
    }
    worker.stop().await?;
    Ok(())
}
