//! Calls that tasks send: they know their parent and root, and inherit the deadline of the whole.

use std::time::{Duration, Instant};

use garenne::{
    App, Context, FailureKind, HOUR, MILLISECOND, MINUTE, RunningWorker, SECOND, TaskError, task,
};

use crate::on_every_broker;
use crate::support::{self, within};

/// `id parent root` of this call and of those below it, the deepest last.
#[task(name = "children.descends")]
async fn descends(ctx: &Context, generations: u32) -> Result<Vec<[String; 3]>, TaskError> {
    let own = [ctx.id(), ctx.parent_id().unwrap_or("none"), ctx.root_id()].map(String::from);
    let mut line = vec![own];
    if generations > 0 {
        let children = ctx.app().send_all([descends::call(generations - 1)]).await;
        for child in children {
            line.extend(child?.await?);
        }
    }
    Ok(line)
}

/// The seconds left to this attempt.
#[task(name = "children.left")]
async fn left(ctx: &Context) -> Option<u64> {
    Some(ctx.deadline()?.duration_since(Instant::now()).as_secs())
}

/// The seconds left to a child with a deadline of its own.
#[task(name = "children.left_to_child", timeout = "1h")]
async fn left_to_child(ctx: &Context, own: Option<u64>) -> Result<Option<u64>, TaskError> {
    let mut child = left::call();
    if let Some(own) = own {
        child = child.deadline(Duration::from_secs(own));
    }
    Ok(child.send(ctx.app()).await?.await?)
}

/// Why a child cannot be sent that is due in an hour.
#[task(name = "children.late_child")]
async fn late_child(ctx: &Context) -> String {
    let sent = left::call().countdown(HOUR).send(ctx.app()).await;
    sent.err().map_or("sent".into(), |error| error.to_string())
}

#[task(name = "children.sleeps", retries = 3, backoff = "1ms..1ms")]
async fn sleeps(for_ms: u64) {
    tokio::time::sleep(Duration::from_millis(for_ms)).await;
}

#[task(name = "children.retries")]
async fn retries(ctx: &Context) -> Result<(), TaskError> {
    let pause = [10 * MILLISECOND, HOUR][usize::from(ctx.attempt() > 1)];
    Err(TaskError::retry_in(pause).because(format!("no luck in attempt {}", ctx.attempt())))
}

fn worker(app: &App) -> RunningWorker {
    let (worker, _) = crate::tasks::worker(app, "default", 5);
    worker.grace(SECOND).spawn()
}

on_every_broker! {
    async fn children_know_their_parent_and_their_root(app: App) {
        let worker = worker(&app);
        let handle = descends::call(3).send(&app).await.expect("sent");
        let line = within("a line", handle).await.expect("four generations");
        assert_eq!(line.len(), 4);
        let mut parent = "none".to_owned();
        for [id, named, root] in &line {
            assert_eq!((named, root), (&parent, &line[0][0]));
            parent.clone_from(id);
        }
        worker.stop().await.expect("stopped");
    }

    async fn a_deadline_reaches_the_children_and_only_a_nearer_one_replaces_it(app: App) {
        let worker = worker(&app);
        for (own, least, most) in [(None, 50, 60), (Some(20), 10, 20), (Some(7200), 50, 60)] {
            let call = left_to_child::call(own).deadline(MINUTE);
            let left = within("a result", call.send(&app).await.expect("sent")).await;
            let left = left.expect("run").expect("a deadline");
            assert!((least..=most).contains(&left), "{own:?}: {left} s");
        }
        let without = left_to_child::call(None).send(&app).await.expect("sent");
        assert_eq!(within("a result", without).await, Ok(None), "a time limit is not inherited");
        let late = late_child::call().deadline(MINUTE).send(&app).await.expect("sent");
        let error = within("a result", late).await.expect("run");
        assert!(error.contains("deadline") && error.contains("could never run"), "{error}");
        worker.stop().await.expect("stopped");
    }

    async fn what_is_past_its_deadline_is_not_started(app: App) {
        let handle = left::call().deadline(MILLISECOND).send(&app).await.expect("sent");
        tokio::time::sleep(5 * MILLISECOND).await;
        let worker = worker(&app);
        let failure = within("a failure", handle).await.expect_err("late");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::Expired, 0));
        let error = left::call().deadline(SECOND).countdown(SECOND).send(&app).await.expect_err("never");
        assert!(error.to_string().contains("could never run"), "{error}");
        worker.stop().await.expect("stopped");
    }

    async fn an_attempt_ends_at_the_deadline_and_is_not_retried(app: App) {
        let worker = worker(&app);
        let sent = Instant::now();
        let handle = sleeps::call(60_000).deadline(SECOND).send(&app).await.expect("sent");
        let failure = within("a failure", handle).await.expect_err("too long");
        assert!(sent.elapsed() >= SECOND);
        assert_eq!((failure.kind, failure.attempts), (FailureKind::TimedOut, 1));
        assert!(failure.message.starts_with("the call's deadline passed while it ran (not run again"), "{failure}");
        // A nearer time limit of one attempt is retried as ever.
        let call = sleeps::call(60_000).timeout(10 * MILLISECOND).deadline(MINUTE);
        let failure = within("a failure", call.send(&app).await.expect("sent")).await.expect_err("too long");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::TimedOut, 4));
        worker.stop().await.expect("stopped");
    }

    async fn a_retry_that_would_be_late_is_not_made(app: App) {
        let worker = worker(&app);
        let handle = retries::call().deadline(MINUTE).send(&app).await.expect("sent");
        let failure = within("a failure", handle).await.expect_err("hopeless");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::Failed, 2));
        assert_eq!(failure.message, "no luck in attempt 2 (not run again: it would be due after the call's deadline)");
        worker.stop().await.expect("stopped");
    }
}
