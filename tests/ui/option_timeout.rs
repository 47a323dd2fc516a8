use garenne::task;

#[task(timeout = 30)]
async fn task_1() {}

#[task(timeout = 30s)]
async fn task_2() {}

#[task(timeout = "30")]
async fn task_3() {}

#[task(timeout = "s")]
async fn task_4() {}

#[task(timeout = "")]
async fn task_5() {}

#[task(timeout = "30 weeks")]
async fn task_6() {}

#[task(timeout = "0s")]
async fn task_7() {}

#[task(timeout = "1.2.3s")]
async fn task_8() {}

#[task(timeout = "50000d")]
async fn task_9() {}

fn main() {}
