use garenne::task;

use std::rc::Rc;

#[task]
async fn wait() {
    let shared = Rc::new(1);
    std::future::ready(()).await;
    drop(shared);
}

fn main() {}
