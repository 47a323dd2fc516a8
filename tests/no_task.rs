//! A binary without a task: its worker says how tasks get linked.

use garenne::{App, Error, Worker};

#[tokio::test]
async fn a_worker_without_tasks_does_not_start() {
    let app = App::in_memory();
    let error = Worker::new(&app)
        .queue("default", 1)
        .run(std::future::ready(()))
        .await
        .expect_err("no task");
    assert!(matches!(error, Error::NoTasks));
    assert!(error.to_string().contains("use my_tasks as _;"), "{error}");
}
