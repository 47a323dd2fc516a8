use garenne::task;

#[task(ack = "never")]
async fn task_1() {}

#[task(ack = late)]
async fn task_2() {}

#[task(ack = true)]
async fn task_3() {}

fn main() {}
