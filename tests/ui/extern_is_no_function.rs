use garenne::{App, Worker, task};

#[task(name = "proj.tasks.add", extern)]
async fn add(x: i64, y: i64) -> i64;

async fn uses(app: App) {
    let _: i64 = add(1, 2).await;
    let _ = Worker::new(&app).register::<add>();
}

fn main() {}
