use garenne::task;

#[task("add")]
async fn task_1() {}

#[task(retries = 1, "add")]
async fn task_2() {}

fn main() {}
