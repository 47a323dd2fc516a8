#![deny(unused_must_use)]

use garenne::task;

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn main() {
    add::call(2, 3);
}
