//! A web handler that calls a task and awaits it: the page answers when the worker has.
//!
//! `cargo run --example web`, then open http://127.0.0.1:3000/thumbnail?width=64

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use garenne::{App, SECOND, Worker, task};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Thumbnail {
    width: u32,
    height: u32,
}

/// A plain function: it may keep a core busy without keeping the web server waiting.
#[task(queue = "images", timeout = "10s")]
fn thumbnail(width: u32) -> Result<Thumbnail, String> {
    let height = (width * 3)
        .checked_div(4)
        .filter(|height| *height > 0)
        .ok_or("too small")?;
    Ok(Thumbnail { width, height })
}

#[derive(Deserialize)]
struct Size {
    width: u32,
}

async fn page(
    State(app): State<App>,
    Query(size): Query<Size>,
) -> Result<Json<Thumbnail>, (StatusCode, String)> {
    let sent = thumbnail::call(size.width)
        .expires(5 * SECOND)
        .send(&app)
        .await;
    let handle = sent.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let result = handle.result_within(10 * SECOND).await;
    result
        .map(Json)
        .map_err(|failure| (StatusCode::UNPROCESSABLE_ENTITY, failure.message))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    // Usually a process of its own, or many.
    let worker = Worker::new(&app).queue("images", 2).spawn();
    let address = std::env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let routes = Router::new().route("/thumbnail", get(page)).with_state(app);
    axum::serve(listener, routes)
        .with_graceful_shutdown(garenne::shutdown_signal())
        .await?;
    worker.stop().await?;
    Ok(())
}
