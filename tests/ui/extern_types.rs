use garenne::task;

struct Unknown;

#[task(name = "proj.tasks.add", extern)]
async fn add(x: i64, y: i64) -> i64;

#[task(name = "proj.tasks.takes", extern)]
async fn takes(value: Unknown);

#[task]
async fn shout(text: String) -> String {
    text
}

fn main() {
    let _ = add::call("1", 2);
    let _ = add::call(1, 2).then(shout::partial());
}
