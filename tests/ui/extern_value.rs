use garenne::task;

#[task(name = "proj.tasks.add", extern = true)]
async fn add(x: i64, y: i64) -> i64;

#[task(name = "proj.tasks.sub", extern, extern)]
async fn sub(x: i64, y: i64) -> i64;

fn main() {}
