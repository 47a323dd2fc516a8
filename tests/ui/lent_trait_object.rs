#![allow(unused_variables)]

use garenne::task;

trait Mailer: Send + Sync {}

#[task]
async fn send(mailer: &dyn Mailer, to: String) {}

fn main() {}
