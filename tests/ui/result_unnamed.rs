use garenne::task;

#[task]
fn numbers() -> impl Iterator<Item = u32> {
    0..3
}

#[task]
async fn forever() -> ! {
    std::process::exit(0)
}

fn main() {}
