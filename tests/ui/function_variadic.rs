#![allow(unused_variables)]

use garenne::task;

#[task]
unsafe extern "C" fn print(format: String, _: ...) {}

fn main() {}
