use garenne::task;

#[task(name = "")]
async fn task_1() {}

#[task(name = "a\nb")]
async fn task_2() {}

#[task(name = 5)]
async fn task_3() {}

#[task(name = add)]
async fn task_4() {}

#[task(name = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn")]
async fn task_5() {}

fn main() {}
