//! What the child processes do.

use std::future::Future;
use std::io::Read;
use std::time::Duration;

use garenne::{App, SECOND, Worker};

use super::history::{Event, History};
use super::process::{ORDERS, Orders, Role};
use super::producer;

/// More than any call meets of faults that kill its worker.
pub(crate) const MAX_DELIVERIES: u32 = 15;
/// Calls that a worker runs at a time.
const SLOTS: usize = 32;
/// Connecting may fall into a fault.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);

#[test]
#[ignore = "no test, but what the processes of a storm run"]
fn process() {
    let Ok(orders) = std::env::var(ORDERS) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).expect("orders");
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_ansi(false)
        .init();
    std::thread::spawn(|| {
        // The pipe ends with the conductor.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(3);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let app = connect(&orders).await;
        match orders.role {
            Role::Worker => work(&app, &orders).await,
            Role::Producer => producer::produce(&app, &orders).await,
        }
        app.close().await;
    });
}

async fn connect(orders: &Orders) -> App {
    let trying = async {
        loop {
            let name = format!("{:?}-{}", orders.role, orders.number);
            let app = App::builder(&orders.url).name(name);
            match app.send_timeout(SEND_TIMEOUT).connect().await {
                Ok(app) => return app,
                Err(error) => tracing::warn!(%error, "not connected yet"),
            }
            tokio::time::sleep(SECOND / 5).await;
        }
    };
    within(CONNECT_PATIENCE, "connecting", trying).await
}

async fn work(app: &App, orders: &Orders) {
    let noted = History::open(&orders.history);
    // Only when the worker consumes is its shutdown awaited.
    let shutdown = async move {
        noted.note(Event::Ready);
        garenne::shutdown_signal().await;
    };
    Worker::new(app)
        .queue(&*orders.queue, SLOTS)
        .state(History::open(&orders.history))
        .max_deliveries(MAX_DELIVERIES)
        .grace(GRACE)
        .run(shutdown)
        .await
        .expect("a good end");
}

/// Awaits `future`, and panics if it takes longer than `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}
