use garenne::task;

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
async fn greet(name: String, times: u32) -> String {
    name.repeat(times as usize)
}

fn main() {
    let _ = add::call(2, 3).then(greet::partial(2));
    let _ = add::call(2, 3).then(add::partial(1)).then(greet::partial(2));
    let _ = add::call(2, 3).then(add::call(1, 2));
}
