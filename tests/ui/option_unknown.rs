use garenne::task;

#[task(retrys = 3)]
async fn task_1() {}

#[task(max_retries = 3)]
async fn task_2() {}

#[task(colour = "red")]
async fn task_3() {}

#[task(retry)]
async fn task_4() {}

#[task(type = "x")]
async fn task_5() {}

fn main() {}
