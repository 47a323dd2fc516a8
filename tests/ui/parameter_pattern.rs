#![allow(unused_variables)]

use garenne::task;

#[task]
async fn draw((x, y): (i64, i64), _: u32, [z]: [i64; 1]) {}

fn main() {}
