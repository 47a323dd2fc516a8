//! Tasks of another crate are found, if the crate is linked; so are those in modules and function bodies.

mod support;

use garenne::registry::Registry;
use garenne::{App, Call, Worker};
use garenne_test_linked as _;
use support::within;

mod deep {
    pub(crate) mod down {
        use garenne::task;

        #[task]
        pub(crate) async fn in_a_module(n: u8) -> u8 {
            n + 1
        }
    }
}

#[tokio::test]
async fn tasks_are_found_wherever_they_are() {
    #[garenne::task]
    async fn in_a_function_body(n: u8) -> u8 {
        n + 2
    }

    let names: Vec<_> = Registry::linked()
        .expect("no duplicates")
        .iter()
        .map(|task| task.name)
        .collect();
    assert_eq!(names, ["in_a_function_body", "in_a_module", "linked.greet"]);

    let app = App::in_memory();
    let worker = Worker::new(&app)
        .queue("default", 1)
        .register::<in_a_function_body>()
        .spawn();
    let greeting = Call::<String>::named("linked.greet")
        .arg("you")
        .expect("JSON")
        .send(&app)
        .await
        .expect("sent");
    assert_eq!(
        within("a result", greeting).await.as_deref(),
        Ok("hello from another crate, you")
    );
    let two = in_a_function_body::call(0).send(&app).await.expect("sent");
    assert_eq!(within("a result", two).await, Ok(2));
    let two = deep::down::in_a_module::call(1)
        .send(&app)
        .await
        .expect("sent");
    assert_eq!(within("a result", two).await, Ok(2));
    worker.stop().await.expect("stopped");
}
