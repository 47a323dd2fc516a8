//! Two tasks of one name: the worker names both by file and line.

use garenne::{App, Error, Worker, task};

#[task(name = "twin")]
async fn first() {}

#[task(name = "twin")]
async fn second() {}

#[tokio::test]
async fn two_tasks_of_one_name_refuse_the_start() {
    let app = App::in_memory();
    let error = Worker::new(&app)
        .queue("default", 1)
        .run(std::future::ready(()))
        .await
        .expect_err("twins");
    let Error::DuplicateTask {
        name,
        first,
        second,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(name, "twin");
    assert!(
        first.ends_with("duplicate_task.rs:5") || first.ends_with("duplicate_task.rs:6"),
        "{first}"
    );
    assert!(
        second.ends_with("duplicate_task.rs:8") || second.ends_with("duplicate_task.rs:9"),
        "{second}"
    );
    assert!(error.to_string().contains("name = "), "{error}");
}
