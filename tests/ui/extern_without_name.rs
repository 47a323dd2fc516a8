use garenne::task;

#[task(queue = "celery", extern)]
async fn add(x: i64, y: i64) -> i64;

fn main() {
    let _ = add::call(1, 2);
}
