#![allow(unused_variables)]

use garenne::task;

#[task]
fn count(shared: std::rc::Rc<u32>) {}

fn main() {}
