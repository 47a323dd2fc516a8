//! Calls that follow each other, run side by side, and meet again. Nobody waits in a worker for anybody else: what
//! follows a call travels with it, and a group's results are collected in the broker.

use garenne::{App, Failure, Worker, group, task};

#[task]
async fn fetch(page: String) -> Result<String, String> {
    match &*page {
        "lost" => Err("404".into()),
        _ => Ok(format!("all about {page}")),
    }
}

#[task]
async fn words(text: String) -> usize {
    text.split(' ').count()
}

#[task]
async fn sum(counts: Vec<usize>) -> usize {
    counts.iter().sum()
}

#[task]
async fn describe(count: usize, what: String) -> String {
    format!("{count} {what}")
}

#[task]
async fn found(pages: Vec<Result<String, Failure>>) -> usize {
    pages.iter().filter(|page| page.is_ok()).count()
}

#[task]
async fn apologise(failure: Failure, to: String) {
    println!("sorry, {to}: {}", failure.message);
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let worker = Worker::new(&app).queue("default", 4).spawn();
    worker.ready().await;

    // One after the other: each gets the result of the one before as its first argument.
    let chain = fetch::call("bees".into())
        .then(words::partial())
        .then(describe::partial("words".into()));
    println!("{}", chain.send(&app).await?.await?);

    // Side by side. The results come in the members' order …
    let pages = ["ants", "bees", "wasps"];
    let all = group(pages.map(|page| fetch::call(page.into())))
        .send(&app)
        .await?;
    println!("{:?}", all.await?);
    // … or as they are done.
    let counts = group(pages.map(|page| fetch::call(page.into()).then(words::partial())));
    let handle = counts.send(&app).await?;
    let mut results = handle.results();
    while let Some((index, count)) = results.next().await {
        let _ = (index, count?);
    }

    // Side by side, and then one that gets all results: it is sent once, when the last of them is there.
    let counts = group(pages.map(|page| fetch::call(page.into()).then(words::partial())));
    let total = counts
        .then(sum::partial())
        .then(describe::partial("words in all".into()));
    println!("{}", total.send(&app).await?.await?);

    // One result for several, which meet again.
    let twice = fetch::call("ants".into())
        .then(group([words::partial(), words::partial()]))
        .then(sum::partial());
    println!("twice: {}", twice.send(&app).await?.await?);

    // The first failure is the whole's, at once, unless failures are collected beside results.
    let pages = ["ants", "lost"];
    let broken = group(pages.map(|page| fetch::call(page.into())))
        .on_error(apologise::partial("Ann".into()));
    if let Err(failure) = broken.send(&app).await?.await {
        println!("{} failed: {}", failure.task, failure.message);
    }
    let some = group(pages.map(|page| fetch::call(page.into())))
        .collect_results()
        .then(found::partial());
    println!("found {} of {}", some.send(&app).await?.await?, pages.len());

    worker.stop().await?;
    Ok(())
}
