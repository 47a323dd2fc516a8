//! Calls with their arguments and options.

use garenne::{SECOND, task};
use serde_json::{Value, json};

use super::{Side, bad, cases};
use crate::case::{Outcome, holds, mismatch, same};
use crate::support::unique;
use crate::tasks::noted;

cases! {
    "named: arguments by position" => by_position,
    "named: arguments by name" => by_name,
    "named: keyword-only parameters" => keyword_only,
    "the id, root_id and lang that a task sees" => request,
    "tasks that both languages have: no header says what a Rust worker knows" => of_both,
    "an id of the caller's own" => own_id,
    "a header of the user's" => header,
    "a deadline and a time limit, as Python sees them" => limits,
    "no result: None" => no_result,
    "ignore_result: it runs, and nothing comes" => ignored,
    "fifty calls at once" => many,
    "a large argument and a large result" => large,
    "a Python task that calls Rust from inside" => from_inside,
}

async fn by_position(side: &Side) -> Outcome {
    let call = side.call::<i64>("add").arg(2).map_err(bad)?;
    same(side.result(call.arg(3).map_err(bad)?).await?, 5)
}

async fn by_name(side: &Side) -> Outcome {
    let call = side.call::<i64>("add").arg(2).map_err(bad)?;
    same(side.result(call.kwarg("y", 3).map_err(bad)?).await?, 5)
}

async fn keyword_only(side: &Side) -> Outcome {
    let call = side
        .call::<String>("greet")
        .kwarg("name", "Ann")
        .map_err(bad)?;
    let call = call.kwarg("greeting", "good day").map_err(bad)?;
    same(
        side.result(call.kwarg("mark", ".").map_err(bad)?).await?,
        "good day, Ann.",
    )
}

async fn request(side: &Side) -> Outcome {
    let handle = side
        .call::<Value>("request")
        .send(&side.app)
        .await
        .map_err(bad)?;
    let id = handle.id().to_owned();
    let told = handle.result_within(20 * SECOND).await;
    let told = told.map_err(|failure| mismatch("a result", &failure))?;
    let expected = json!([id, id, null]);
    same(
        json!([told["id"], told["root_id"], told["parent_id"]]),
        expected,
    )
}

/// As Python's, which runs it here.
#[task(name = "python.add")]
async fn add_of_both(x: i64, y: i64) -> i64 {
    x + y
}

/// As Python's, which runs it here.
#[task(name = "python.request")]
async fn request_of_both() -> Value {
    Value::Null
}

async fn of_both(side: &Side) -> Outcome {
    let added = add_of_both::call(2, 3).queue(&*side.python);
    same(side.result(added).await?, 5)?;
    let request = request_of_both::call().queue(&*side.python);
    let told = side.result(request.id(unique("both"))).await?;
    same(
        json!([told["root_id"], told["parent_id"], told["lang"]]),
        json!([null, null, null]),
    )?;
    let ignored = add_of_both::call(2, 3).queue(&*side.python).ignore_result();
    let handle = ignored.send(&side.app).await.map_err(bad)?;
    let outcome = handle.result_within(SECOND).await;
    holds(outcome.is_err(), "no result", outcome)
}

async fn own_id(side: &Side) -> Outcome {
    let id = unique("own");
    let told = side.result(side.call::<Value>("request").id(&*id)).await?;
    same(told["id"].as_str(), Some(&*id))
}

async fn header(side: &Side) -> Outcome {
    let call = side.call::<Value>("request").header("tenant", "t1");
    same(side.result(call).await?["tenant"].as_str(), Some("t1"))
}

async fn limits(side: &Side) -> Outcome {
    let call = side.call::<Value>("request").deadline(60 * SECOND);
    let told = side.result(call.timeout(20 * SECOND)).await?;
    same(&told["timelimit"], &json!([20.0, null]))
}

async fn no_result(side: &Side) -> Outcome {
    let call = side.call::<()>("echo").arg(()).map_err(bad)?;
    same(side.result(call).await?, ())
}

async fn ignored(side: &Side) -> Outcome {
    let word = unique("ignored");
    let linked = side
        .call::<i64>("add")
        .arg(1)
        .map_err(bad)?
        .arg(1)
        .map_err(bad)?;
    let linked = linked.then(
        crate::tasks::note::partial(word.clone())
            .queue(&*side.rust)
            .ignore_result(),
    );
    let _ = linked.send(&side.app).await.map_err(bad)?;
    told(side, &format!("{word} 2")).await?;
    let call = side
        .call::<i64>("add")
        .arg(1)
        .map_err(bad)?
        .arg(1)
        .map_err(bad)?;
    let handle = call.ignore_result().send(&side.app).await.map_err(bad)?;
    let outcome = handle.result_within(SECOND).await;
    holds(outcome.is_err(), "no result", outcome)
}

/// Waits until a task of Rust's was told this.
pub(super) async fn told(side: &Side, text: &str) -> Outcome {
    for _ in 0..200 {
        let asked = noted::call(text.to_owned()).queue(&*side.rust);
        if side.result(asked).await? {
            return Ok(());
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    Err(mismatch(format!("`{text}` noted"), &"nothing within 20 s"))
}

async fn many(side: &Side) -> Outcome {
    let calls = (0..50).map(|n| async move {
        let call = side.call::<i64>("add").arg(n).map_err(bad)?;
        side.result(call.arg(n).map_err(bad)?).await
    });
    let results = futures_util::future::try_join_all(calls).await?;
    same(results, (0..50).map(|n| 2 * n).collect::<Vec<i64>>())
}

async fn large(side: &Side) -> Outcome {
    let text = "é".repeat(500_000);
    let call = side.call::<String>("echo").arg(&text).map_err(bad)?;
    let got = side.result(call).await?;
    holds(got == text, "the same text of 500,000 letters", got.len())
}

async fn from_inside(side: &Side) -> Outcome {
    let call = side.call::<String>("sends_rust").arg(4).map_err(bad)?;
    same(side.result(call.arg(5).map_err(bad)?).await?.len(), 36)
}
