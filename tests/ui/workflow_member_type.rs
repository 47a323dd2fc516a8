use garenne::{group, task};

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
async fn greet(name: String) -> String {
    name
}

fn main() {
    let _ = group([add::call(1, 2), greet::call("Ann".into())]);
    let _ = group([1, 2]);
}
