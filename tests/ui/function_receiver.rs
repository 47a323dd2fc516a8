#![allow(unused_variables)]

use garenne::task;

struct Mailer;

impl Mailer {
    #[task]
    async fn send(&self, to: String) {}
}

fn main() {}
