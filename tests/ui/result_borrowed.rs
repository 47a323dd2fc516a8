use garenne::task;

#[task]
async fn greeting() -> &'static str {
    "hello"
}

#[task]
async fn risky() -> Result<Vec<&'static str>, String> {
    Ok(Vec::new())
}

fn main() {}
