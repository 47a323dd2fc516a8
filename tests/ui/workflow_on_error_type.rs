use garenne::{Failure, task};

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
async fn report(failure: Failure, to: String) {
    println!("to {to}: {failure}");
}

fn main() {
    let _ = add::call(1, 2).then(add::partial(1)).on_error(report::partial("ann".into()));
    let _ = add::call(1, 2).then(add::partial(1)).on_error(add::partial(1));
}
