use garenne::task;

#[task(queue = "")]
async fn task_1() {}

#[task(queue = "amq.mine")]
async fn task_2() {}

#[task(queue = "a\tb")]
async fn task_3() {}

#[task(queue = 'q')]
async fn task_4() {}

#[task(queue = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq")]
async fn task_5() {}

fn main() {}
