use garenne::task;

#[task(priority = 256)]
async fn task_1() {}

#[task(priority = -1)]
async fn task_2() {}

#[task(priority = "high")]
async fn task_3() {}

fn main() {}
