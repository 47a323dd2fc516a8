use garenne::task;

#[task(
    name = "proj.tasks.add",
    retries = 3,
    backoff = "1s..1m",
    timeout = "5s",
    ack = "early",
    priority = 5,
    extern
)]
async fn add(x: i64, y: i64) -> i64;

fn main() {
    let _ = add::call(1, 2);
}
