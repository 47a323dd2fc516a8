use garenne::task;

#[task = "add"]
async fn add() {}

fn main() {}
