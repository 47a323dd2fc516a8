//! Values: what goes over comes back as it was, with its type.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use garenne::celery::{Bytes, Date, DateTime, Decimal, Time, Uuid};
use garenne::{Call, FailureKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Side, bad, cases};
use crate::case::{Outcome, holds, mismatch, same};

cases! {
    "echo: nothing, truth, numbers, text, nested" => plain,
    "echo: an integer of 128 bits" => big,
    "a float that is no number: None" => no_number,
    "a result that is no number: a failure" => no_result,
    "an error of half a surrogate pair: a failure" => half,
    "datetime, both ways" => datetime,
    "date, both ways" => date,
    "time, both ways" => time,
    "decimal, both ways" => decimal,
    "uuid, both ways" => uuid,
    "bytes, both ways" => bytes,
    "bytes that are text" => text_bytes,
}

/// What Python says of an argument of ours, and what it sends of its own, is this.
async fn typed<T>(side: &Side, name: &str, value: T, kind: &str, shown: &str) -> Outcome
where
    T: Serialize + DeserializeOwned + PartialEq + Debug + 'static,
{
    let bad = |error: garenne::Error| mismatch("no error", &error);
    let asked = side.call::<Value>("kind").arg(&value).map_err(bad)?;
    same(side.result(asked).await?, json!([kind, shown]))?;
    let echoed = side.call::<T>("echo").arg(&value).map_err(bad)?;
    same(&side.result(echoed).await?, &value)?;
    let made = side.call::<T>("typed").arg(name).map_err(bad)?;
    same(&side.result(made).await?, &value)
}

async fn plain(side: &Side) -> Outcome {
    let value = json!({
        "all": [null, true, false, 0, -1, 1.5, 1e300, u64::MAX, i64::MIN],
        "text": "é ü 日本 🦀 \u{0} \" \\ \u{2028}",
        "nested": [{"a": [[], {}, [1, [2]]]}],
        "": "",
    });
    let call = side.call::<Value>("echo").arg(&value);
    let call = call.map_err(|error| mismatch("no error", &error))?;
    same(side.result(call).await?, value)
}

async fn big(side: &Side) -> Outcome {
    let call = side.call::<i128>("echo").arg(i128::MIN);
    let call = call.map_err(|error| mismatch("no error", &error))?;
    same(side.result(call).await?, i128::MIN)
}

async fn no_number(side: &Side) -> Outcome {
    let call = side.call::<Value>("kind").arg(f64::NAN).map_err(bad)?;
    same(side.result(call).await?, json!(["NoneType", "None"]))
}

/// That the reply cannot be read is said at once.
async fn illegible<T>(side: &Side, call: Call<T>) -> Outcome
where
    T: DeserializeOwned + Debug + 'static,
{
    let failure = side.failure(call).await?;
    same(failure.kind, FailureKind::Unknown)?;
    let said = failure.message.starts_with("the reply cannot be read");
    holds(said, "why there is none", failure)
}

async fn no_result(side: &Side) -> Outcome {
    for text in ["nan", "inf", "-inf"] {
        let call = side.call::<f64>("number").arg(text).map_err(bad)?;
        illegible(side, call).await?;
    }
    Ok(())
}

async fn half(side: &Side) -> Outcome {
    let text = RawValue::from_string(r#""\ud800""#.into()).expect("JSON");
    let call = side.call::<()>("fail").arg("ValueError").map_err(bad)?;
    illegible(side, call.arg(text).map_err(bad)?).await
}

async fn datetime(side: &Side) -> Outcome {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(1_704_164_645_678_901);
    let shown = "datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.timezone.utc)";
    typed(side, "datetime", DateTime(moment), "datetime", shown).await
}

async fn date(side: &Side) -> Outcome {
    let value = Date("2024-01-02".into());
    typed(side, "date", value, "date", "datetime.date(2024, 1, 2)").await
}

async fn time(side: &Side) -> Outcome {
    let value = Time("03:04:05".into());
    typed(side, "time", value, "time", "datetime.time(3, 4, 5)").await
}

async fn decimal(side: &Side) -> Outcome {
    let value = Decimal("1.50".into());
    typed(side, "decimal", value, "Decimal", "Decimal('1.50')").await
}

async fn uuid(side: &Side) -> Outcome {
    let value = Uuid(::uuid::Uuid::from_u128(1));
    let shown = "UUID('00000000-0000-0000-0000-000000000001')";
    typed(side, "uuid", value, "UUID", shown).await
}

async fn bytes(side: &Side) -> Outcome {
    let value = Bytes(vec![0xff, 0]);
    typed(side, "bytes", value, "bytes", "b'\\xff\\x00'").await
}

async fn text_bytes(side: &Side) -> Outcome {
    let value = Bytes(b"hi".to_vec());
    typed(side, "text", value, "bytes", "b'hi'").await
}
