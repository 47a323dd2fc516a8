use garenne::task;

#[task(name = "proj.tasks.first", extern)]
async fn first<T>(values: Vec<T>) -> T;

#[task(name = "proj.tasks.last", extern)]
async fn last(values: Vec<impl Send>) -> i64;

fn main() {}
