use garenne::task;

#[task(name = "proj.tasks.add", extern)]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {
    let _ = add::call(1, 2);
}
