use garenne::task;

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn main() {
    let _call = add::call("2", 3);
}
