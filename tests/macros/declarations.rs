//! Tasks whose functions are elsewhere.

use garenne::testing::{assert_sent, drain};
use garenne::{App, Call, FailureKind, Partial, SECOND, TaskError, group, task};

/// Adds two numbers, in Python.
#[task(
    name = "proj.tasks.add",
    queue = "celery",
    priority = 4,
    expires = "1h",
    extern
)]
pub(crate) async fn add(x: i64, y: i64) -> i64;

#[task(extern, name = "proj.tasks.report")]
fn report(day: String) -> Result<u64, TaskError>;

#[task(name = "proj.tasks.nothing", extern)]
pub(crate) async fn r#nothing();

/// Also declared where it is: only the task itself is registered.
mod client {
    #[garenne::task(name = "nested.visible", extern)]
    #[cfg_attr(any(), deprecated)]
    pub(crate) async fn seen(count: u32) -> u32;

    #[garenne::task(name = "proj.tasks.gone", extern)]
    #[cfg(any())]
    pub(crate) async fn gone(missing: DoesNotExist);
}

#[test]
fn a_declaration_gives_calls_of_its_types_and_registers_nothing() {
    let _: Call<i64> = add::call(2, 3);
    let _: Partial<i64, i64> = add::partial(3);
    let _: Call<u64> = report::call("day".into());
    let _: Call<()> = nothing::call();
    let names: Vec<&str> = super::linked().iter().map(|task| task.name).collect();
    let declared = names.iter().filter(|name| name.starts_with("proj."));
    assert_eq!(declared.count(), 0, "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_runs_waits() {
    let app = App::in_memory();
    let handle = add::call(2, 3).send(&app).await.expect("sent");
    assert_sent(&app, &add::call(2, 3));
    assert_eq!(app.depth("celery").await.expect("a queue").ready, 1);
    let failure = handle
        .result_within(SECOND)
        .await
        .expect_err("nobody runs it");
    assert_eq!(failure.kind, FailureKind::Unknown);
    // A worker of this binary's does not know it.
    drain(&app).await;
    let late = add::call(2, 3).send(&app).await.expect("sent");
    drain(&app).await;
    assert_eq!(
        late.result().await.expect_err("unknown").kind,
        FailureKind::Rejected
    );
}

#[tokio::test(start_paused = true)]
async fn the_options_are_the_senders() {
    let app = App::in_memory();
    let all = group([add::call(1, 2), add::call(3, 4).queue("slow").priority(9)]);
    let chain = add::call(1, 2).then(add::partial(3)).then(add::partial(4));
    let chord = all.then(super::results::total::partial());
    let _ = chain.send(&app).await.expect("sent");
    assert_eq!(app.depth("celery").await.expect("a queue").ready, 1);
    let _ = chord.send(&app).await.expect("sent");
    assert_eq!(app.depth("celery").await.expect("a queue").ready, 2);
    assert_eq!(app.depth("slow").await.expect("a queue").ready, 1);
}

#[tokio::test(start_paused = true)]
async fn where_the_task_itself_is_linked_it_runs() {
    let app = App::in_memory();
    let handle = client::seen::call(4).send(&app).await.expect("sent");
    garenne::testing::drain_with(garenne::Worker::new(&app).state(super::Db)).await;
    assert_eq!(handle.await, Ok(5));
}
