#![allow(unused_variables)]

use garenne::task;

use std::borrow::Cow;

#[task]
async fn borrow(name: Option<&str>, pairs: Vec<(&[u8], &u32)>, text: Cow<'_, str>) {}

fn main() {}
