#![allow(unused_variables)]

use garenne::task;

#[task]
async fn send<T: ToString>(value: T) {}

#[task]
async fn repeat<const N: usize>(value: u32) {}

#[task]
async fn borrow<'a>(value: String) {}

#[task]
async fn bounded(value: String)
where
    String: Clone,
{
}

fn main() {}
