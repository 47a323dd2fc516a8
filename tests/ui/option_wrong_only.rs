use garenne::task;

#[task(retries = -1)]
async fn add(a: i64) -> i64 {
    a
}

fn main() {
    // The mistake in the attribute is the only error.
    let _call: garenne::Call<i64> = add::call(2);
    let _future = add(2);
}
