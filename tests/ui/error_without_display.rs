use garenne::task;

struct Broken;

#[task]
async fn fragile() -> Result<u32, Broken> {
    Ok(1)
}

fn main() {}
