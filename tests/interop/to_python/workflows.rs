//! Rust's workflows with Python's tasks as steps, members and bodies.

use garenne::{Call, Failure, FailureKind, HOUR, Partial, SECOND, Workflow, group};
use serde::de::DeserializeOwned;

use super::calling::told;
use super::{Side, bad, cases};
use crate::case::{Mismatch, Outcome, mismatch, same};
use crate::support::unique;
use crate::tasks::{add, failed, note, sum};

cases! {
    "chain: rust, python, rust, python" => chain,
    "chain: python, rust, python" => chain_from_python,
    "chain: a failure in Python reaches the caller" => chain_fails,
    "chain: a failure in Rust, between Python's steps" => chain_fails_in_rust,
    "group of both languages" => grouped,
    "chord: members of both, a body in Rust" => rust_body,
    "chord: members of both, a body in Python, and a step after it" => python_body,
    "chord: Python's alone, coordinated by Rust" => coordinated,
    "fan: a Python task, a Python group, a Rust body" => fan,
    "chord: a Python member fails" => member_fails,
    "chord: failures collected" => collected,
    "on_error: of a Python task, told in Rust" => on_error,
    "link: of a Python task, in Rust" => link,
}

async fn outcome<T>(side: &Side, workflow: Workflow<T>) -> Result<Result<T, Failure>, Mismatch>
where
    T: DeserializeOwned + 'static,
{
    let handle = workflow.send(&side.app).await.map_err(bad)?;
    Ok(handle.result_within(20 * SECOND).await)
}

fn python_add(side: &Side, x: i64, y: i64) -> Result<Call<i64>, Mismatch> {
    let call = side.call("add").arg(x).map_err(bad)?;
    call.arg(y).map_err(bad)
}

fn plus(side: &Side, n: i64) -> Result<Partial<i64, i64>, Mismatch> {
    side.next("add").arg(n).map_err(bad)
}

fn fails(side: &Side) -> Result<Call<i64>, Mismatch> {
    let call = side.call("fail").arg("ValueError").map_err(bad)?;
    call.arg("no luck").map_err(bad)
}

fn is_value_error<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> Outcome {
    match outcome {
        Ok(value) => Err(mismatch("a failure", &value)),
        Err(failure) => same(
            (failure.kind, &*failure.error_type, &*failure.message),
            (FailureKind::Failed, "builtins.ValueError", "no luck"),
        ),
    }
}

async fn chain(side: &Side) -> Outcome {
    let first = add::call(1, 2).queue(&*side.rust).then(plus(side, 10)?);
    let third = add::partial(100).queue(&*side.rust);
    let whole = first.then(third).then(plus(side, 1000)?);
    same(outcome(side, whole).await?, Ok(1113))
}

async fn chain_from_python(side: &Side) -> Outcome {
    let step = add::partial(10).queue(&*side.rust);
    let whole = python_add(side, 2, 3)?.then(step).then(plus(side, 100)?);
    same(outcome(side, whole).await?, Ok(115))
}

async fn chain_fails(side: &Side) -> Outcome {
    let step = add::partial(10).queue(&*side.rust);
    is_value_error(outcome(side, fails(side)?.then(step).then(plus(side, 1)?)).await?)
}

async fn chain_fails_in_rust(side: &Side) -> Outcome {
    let step = crate::tasks::fails_with::partial("no luck".into()).queue(&*side.rust);
    let whole = python_add(side, 2, 3)?.then(step).then(plus(side, 100)?);
    let message = outcome(side, whole)
        .await?
        .map_err(|failure| failure.message);
    same(message, Err("no luck".to_owned()))
}

fn members(side: &Side) -> Result<[Call<i64>; 3], Mismatch> {
    Ok([
        python_add(side, 1, 1)?,
        add::call(2, 2).queue(&*side.rust),
        python_add(side, 3, 3)?,
    ])
}

async fn grouped(side: &Side) -> Outcome {
    let handle = group(members(side)?).send(&side.app).await.map_err(bad)?;
    same(handle.result_within(20 * SECOND).await, Ok(vec![2, 4, 6]))
}

async fn rust_body(side: &Side) -> Outcome {
    let body = sum::partial().queue(&*side.rust);
    same(
        outcome(side, group(members(side)?).then(body)).await?,
        Ok(12),
    )
}

async fn python_body(side: &Side) -> Outcome {
    let chord = group(members(side)?).then(side.next("sum"));
    same(outcome(side, chord.then(plus(side, 1)?)).await?, Ok(13))
}

async fn coordinated(side: &Side) -> Outcome {
    let members = group([python_add(side, 1, 1)?, python_add(side, 2, 2)?]);
    let chord = members.coordinate_on(&*side.rust).then(side.next("sum"));
    same(outcome(side, chord).await?, Ok(6))
}

async fn fan(side: &Side) -> Outcome {
    let fan = python_add(side, 1, 1)?.then(group([plus(side, 1)?, plus(side, 2)?]));
    let body = sum::partial().queue(&*side.rust);
    same(
        outcome(side, fan.coordinate_on(&*side.rust).then(body)).await?,
        Ok(7),
    )
}

async fn member_fails(side: &Side) -> Outcome {
    let late = add::call(1, 1).queue(&*side.rust).countdown(HOUR);
    let body = sum::partial().queue(&*side.rust);
    is_value_error(outcome(side, group([fails(side)?, late]).then(body)).await?)
}

async fn collected(side: &Side) -> Outcome {
    let both = group([fails(side)?, python_add(side, 1, 1)?]).collect_results();
    let handle = both.send(&side.app).await.map_err(bad)?;
    let results = handle.result_within(20 * SECOND).await;
    let results = results.map_err(|failure| mismatch("a result", &failure))?;
    let mut results = results.into_iter();
    is_value_error(results.next().unwrap_or(Ok(0)))?;
    same(results.next(), Some(Ok(2)))
}

async fn on_error(side: &Side) -> Outcome {
    let (word, id) = (unique("failed"), unique("id"));
    let callback = failed::partial(word.clone()).queue(&*side.rust);
    let workflow = fails(side)?.id(&*id).on_error(callback);
    is_value_error(outcome(side, workflow).await?)?;
    told(side, &format!("{word}: {id}")).await
}

async fn link(side: &Side) -> Outcome {
    let word = unique("linked");
    let step = note::partial(word.clone()).queue(&*side.rust);
    same(
        outcome(side, python_add(side, 20, 20)?.then(step)).await?,
        Ok(()),
    )?;
    told(side, &format!("{word} 40")).await
}
