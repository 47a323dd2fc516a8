use garenne::task;

#[derive(serde::Serialize, serde::Deserialize)]
struct TestResult;

#[task]
async fn measure() -> TestResult {
    TestResult
}

fn main() {}
