#![allow(unused_variables)]

use garenne::task;

#[task]
async fn draw(x: i64, #[cfg(unix)] y: i64) {}

fn main() {}
