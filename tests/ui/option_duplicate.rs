use garenne::task;

#[task(queue = "a", retries = 1, queue = "b")]
async fn task_1() {}

fn main() {}
