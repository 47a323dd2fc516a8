use garenne::{Context, task};

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
async fn ping(ctx: &Context) -> String {
    ctx.id().into()
}

fn main() {
    let _ = add::call(1, 2).then(ping::partial());
    let _ = add::call(1, 2).then(ping::call().ignoring_input());
}
