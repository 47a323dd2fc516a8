use garenne::task;

#[task(retries = -1)]
async fn task_1() {}

#[task(retries = "5")]
async fn task_2() {}

#[task(retries = 4294967296)]
async fn task_3() {}

#[task(retries = 1.5)]
async fn task_4() {}

fn main() {}
