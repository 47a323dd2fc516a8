//! What `#[task]` writes, and what it says of mistakes.

mod tasks {
    use garenne::task;
    #[task(
        name = "t.add",
        queue = "q",
        retries = 5,
        backoff = "1s..5m",
        timeout = "30s",
        priority = 3,
        expires = "1h",
        ack = "early"
    )]
    pub async fn add(a: i64, b: i64) -> i64 {
        a + b
    }
}
#[test]
fn t() {
    println!("{:?}", <tasks::add as garenne::Task>::DEFINITION);
    drop(tasks::add::call(1, 2));
}
