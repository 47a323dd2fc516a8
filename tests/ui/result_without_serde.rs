use garenne::task;

struct Image;

#[task]
async fn render() -> Vec<Image> {
    Vec::new()
}

fn main() {}
