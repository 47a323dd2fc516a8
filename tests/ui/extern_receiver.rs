use garenne::task;

struct Mailer;

impl Mailer {
    #[task(name = "mailer.send", extern)]
    async fn send(&self, to: String);
}

fn main() {}
