#![allow(unused_variables)]

use garenne::task;

struct Db;

struct View<'a>(&'a str);

#[task]
async fn save(db: &'static Db, view: &View<'_>, twice: &&Db) {}

fn main() {}
