#![deny(unused_must_use)]

use garenne::{group, task};

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn main() {
    add::call(2, 3).then(add::partial(1));
    group([add::call(2, 3)]);
    add::partial(1);
}
