mod tasks {
    #[garenne::task]
    async fn hidden() {}
}

fn main() {
    let _call = tasks::hidden::call();
}
