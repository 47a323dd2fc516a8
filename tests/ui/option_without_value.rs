use garenne::task;

#[task(retries)]
async fn task_1() {}

#[task(timeout("30s"))]
async fn task_2() {}

#[task(queue = )]
async fn task_3() {}

fn main() {}
