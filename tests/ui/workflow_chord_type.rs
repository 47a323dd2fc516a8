use garenne::{group, task};

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
async fn total(values: Vec<f64>) -> f64 {
    values.iter().sum()
}

#[task]
async fn sums(groups: Vec<Vec<i64>>) -> Vec<i64> {
    groups.into_iter().flatten().collect()
}

fn main() {
    let _ = group([add::call(1, 2), add::call(3, 4)]).then(total::partial());
    let _ = group([group([add::call(1, 2)])]).then(sums::partial()).then(total::partial());
    let _ = add::call(1, 2).then(group([add::partial(1)])).then(sums::partial());
    let _ = group([add::call(1, 2)]).collect_results().then(total::partial());
}
