//! The code of docs/celery.md, and what it says of it.

use garenne::{App, Worker, task};

use super::Interop;
use crate::support::{eventually, within};

const GUIDE: &str = include_str!("../../docs/celery.md");

/// Python's `shop.thumbnail`, under the same name and with the same arguments.
#[task(
    name = "shop.thumbnail",
    retries = 3,
    backoff = "1s..1m",
    timeout = "30s"
)]
async fn thumbnail(path: String, width: u32) -> Result<String, String> {
    Ok(format!("{path}@{width}"))
}

/// Stays in Python.
#[task(name = "shop.notify", queue = "celery", extern)]
async fn notify(text: String, channel: String) -> String;

/// The blocks of code in one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let parts = GUIDE.split(fence.as_str()).skip(1);
    parts.filter_map(|part| part.split("```").next()).collect()
}

#[test]
fn the_guides_code_is_what_is_tested() {
    let sources = [
        ("python", include_str!("../support/celery/guide.py"), 2),
        ("rust", include_str!("guide.rs"), 4),
    ];
    for (language, source, count) in sources {
        let blocks = blocks(language);
        assert_eq!(blocks.len(), count, "{language}");
        // Inside a function it is indented.
        let lines = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
        for block in blocks {
            assert!(
                lines(source).contains(&lines(block)),
                "not tested:\n{block}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_moves_to_rust() -> anyhow::Result<()> {
    let Some(interop) = Interop::new() else {
        return Ok(());
    };
    let python = |what: &str| {
        let program = std::path::Path::new(&interop.celery).with_file_name("python");
        let mut command = interop.command(program);
        command.args(["guide.py", what]);
        command
    };
    assert!(python("declare").status()?.success());
    let mut celery = interop.command(&interop.celery);
    celery.args([
        "-A",
        "guide",
        "worker",
        "--pool",
        "solo",
        "--loglevel",
        "CRITICAL",
    ]);
    celery.args(["-n", &format!("{}@localhost", interop.queue)]);
    let _notifying = super::Worked(celery.spawn()?);
    let images = format!("{}-images", interop.queue);

    let app = App::connect(&interop.broker).await?;
    let worker = Worker::new(&app)
        .queue(images.as_str(), 8)
        .state(super::workflows::Log::default())
        .spawn();
    assert!(worker.ready().await);
    eventually("the Python worker", || async {
        app.depth(&interop.queue).await.is_ok()
    })
    .await;
    let mut client = python("order");
    let said = tokio::task::spawn_blocking(move || client.output()).await??;
    let said: Vec<String> = serde_json::from_slice(&said.stdout)?;
    assert_eq!(said, ["cat.png@100", "chat: dog.png@50"]);

    let celery = interop.queue.as_str();
    let told = notify::call("done".into(), "mail".into())
        .queue(celery)
        .send(&app)
        .await?;
    assert_eq!(told.await?, "mail: done");

    let chain = thumbnail::call("cat.png".into(), 100)
        .queue(images.as_str())
        .then(notify::partial("chat".into()).queue(celery));
    assert_eq!(chain.send(&app).await?.await?, "chat: cat.png@100");

    let failed = notify::call(String::new(), "mail".into())
        .queue(celery)
        .send(&app)
        .await?;
    let failure = failed.await.expect_err("a ValueError");
    assert_eq!(&*failure.error_type, "builtins.ValueError");
    assert_eq!(failure.message, "nothing to say");
    assert!(
        failure
            .traceback
            .is_some_and(|text| text.contains("guide.py"))
    );

    within("the worker's stop", worker.stop()).await?;
    app.delete(&images).await?;
    app.close().await;
    Ok(())
}
