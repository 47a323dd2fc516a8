use garenne::task;

#[task(queue = "a" retries = 1)]
async fn task_1() {}

fn main() {}
