#![allow(unused_variables)]

use garenne::task;

#[task]
async fn send(value: impl ToString, all: Vec<impl ToString>) {}

fn main() {}
