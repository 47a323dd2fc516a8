use garenne::task;

#[task]
struct Add {
    a: i64,
}

#[task]
mod tasks {}

fn main() {
    let _add = Add { a: 1 };
}
