use garenne::task;

#[task(backoff = 1)]
async fn task_1() {}

#[task(backoff = "5m..1s")]
async fn task_2() {}

#[task(backoff = "1s..")]
async fn task_3() {}

#[task(backoff = "0s..5m")]
async fn task_4() {}

#[task(backoff = 1..5)]
async fn task_5() {}

fn main() {}
