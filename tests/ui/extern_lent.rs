use garenne::{Context, task};

struct Db;

#[task(name = "billing.report", extern)]
async fn report(db: &Db, ctx: &Context, day: String) -> u64;

#[task(name = "billing.show", extern)]
async fn show(day: &str) -> String;

fn main() {
    let _ = show::call("monday".into());
}
