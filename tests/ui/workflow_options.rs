use garenne::{group, task};

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn main() {
    let _ = add::call(1, 2).then(add::partial(1).queue("slow")).queue("fast");
    let _ = add::call(1, 2).then(add::partial(1).then(add::partial(2)).queue("fast"));
    let _ = group([add::call(1, 2)]).retries(3);
}
