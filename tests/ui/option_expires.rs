use garenne::task;

#[task(expires = 3600)]
async fn task_1() {}

#[task(expires = "soon")]
async fn task_2() {}

#[task(expires = "0ms")]
async fn task_3() {}

fn main() {}
