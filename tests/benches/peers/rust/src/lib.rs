//! What all contenders in Rust share: what a job does, and how a client is steered.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{BufRead, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt, TryStreamExt};

/// An argument of every job.
pub const TEXT: &str = "0123456789012345678901234567890123456789";

static COUNT: LazyLock<Option<File>> = LazyLock::new(|| {
    let path = std::env::var_os("PEERS_COUNT")?;
    OpenOptions::new().append(true).open(path).ok()
});

/// All that a job does: one byte more in the file by which the driver counts.
pub fn ran() {
    if let Some(mut file) = COUNT.as_ref() {
        file.write_all(b".").ok();
    }
}

/// A variable of the driver's: `PEERS_URL`, `PEERS_QUEUE`.
pub fn told(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is missing: tests/benches/peers/run sets it"))
}

/// One library's way of sending jobs.
pub trait Client {
    /// Sends `count` jobs, each after the one before it was accepted.
    fn one(&mut self, count: usize) -> impl Future<Output = Result<()>>;

    /// Sends `count` jobs in the fastest way there is.
    fn many(&mut self, _count: usize) -> impl Future<Output = Result<()>> {
        async { bail!("cannot") }
    }

    /// Sends `count` jobs, `in_flight` at a time, and awaits each one's result; the round trips.
    fn rpc(
        &mut self,
        _count: usize,
        _in_flight: usize,
    ) -> impl Future<Output = Result<Vec<Duration>>> {
        async { bail!("cannot") }
    }
}

/// Does what the lines of the standard input say, and answers each with a line.
pub async fn serve(mut client: impl Client) -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| {
            words
                .get(place)
                .and_then(|word| word.parse().ok())
                .context("a number")
        };
        let answer = match words.first() {
            Some(&"one") => client.one(number(1)?).await.map(|()| Vec::new()),
            Some(&"many") => client.many(number(1)?).await.map(|()| Vec::new()),
            Some(&"rpc") => client.rpc(number(1)?, number(2)?).await,
            _ => bail!("what is {line:?}?"),
        };
        match answer {
            Ok(times) => {
                let times: Vec<_> = times
                    .iter()
                    .map(|time| time.as_micros().to_string())
                    .collect();
                println!("done {}", times.join(" "));
            }
            Err(error) => println!("failed {}", format!("{error:#}").replace('\n', " ")),
        }
    }
    Ok(())
}

/// Calls `once` for each of `count` jobs, `in_flight` at a time, and measures each.
pub async fn timed<F>(
    count: usize,
    in_flight: usize,
    once: impl Fn(usize) -> F,
) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<()>>,
{
    let calls = futures_util::stream::iter(0..count).map(|number| {
        let call = once(number);
        async move {
            let began = Instant::now();
            call.await?;
            anyhow::Ok(began.elapsed())
        }
    });
    calls.buffer_unordered(in_flight).try_collect().await
}
