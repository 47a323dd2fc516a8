#![allow(unused_variables)]

use garenne::task;

use std::cell::Cell;

#[task]
async fn count(counter: &Cell<u32>) {}

fn main() {}
