#![allow(unused_variables)]

use garenne::task;

use std::path::Path;

#[task]
async fn borrow(
    name: &str,
    items: &[u8],
    text: &String,
    list: &Vec<Option<i64>>,
    file: &Path,
    fixed: &'static str,
    changed: &mut String,
) {
}

fn main() {
    // The struct is there all the same: no second error here.
    let _call = borrow::call(
        String::new(),
        vec![1],
        String::new(),
        vec![None],
        "a".into(),
        String::new(),
        String::new(),
    );
}
