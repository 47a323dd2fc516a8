use garenne::task;

struct Broken;

type MyResult<T> = std::result::Result<T, Broken>;

#[task]
async fn fragile() -> MyResult<u32> {
    Ok(1)
}

fn main() {}
