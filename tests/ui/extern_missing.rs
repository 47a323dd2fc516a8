use garenne::task;

#[task(name = "proj.tasks.add")]
async fn add(x: i64, y: i64) -> i64;

fn main() {
    let _ = add::call(1, 2).then(add::partial(3));
}
