#![allow(unused_variables)]

use garenne::task;

struct Db;

#[task]
async fn save(db: &mut Db, day: String) {}

fn main() {}
