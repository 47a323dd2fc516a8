use garenne::task;

#[task(shards = 0)]
async fn task_1() {}

#[task(shards = 1025)]
async fn task_2() {}

#[task(shards = "4")]
async fn task_3() {}

fn main() {}
