#![allow(unused_variables)]

use garenne::task;

struct Image;

#[task]
async fn thumbnail(image: Image, width: u32) {}

fn main() {}
