//! Values that Python has and JSON has not, in the form in which Celery's JSON carries them:
//! `{"__type__": "datetime", "__value__": "2026-01-31T08:00:00+00:00"}`.
//!
//! Each kind is a module for serde's `with`, for the fields of your own types, and a wrapper, for the parameters
//! and results of tasks. Python gets its own type (`datetime`, `Decimal`, `UUID`, `bytes`, …), whichever side
//! sent it. Read are also plain strings, as those send who know nothing of this.
//!
//! ```
//! use std::time::SystemTime;
//! use garenne::celery::{self, Bytes, Decimal};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     #[serde(with = "celery::uuid")]
//!     number: uuid::Uuid,
//!     #[serde(with = "celery::datetime")]
//!     placed: SystemTime,
//! }
//!
//! #[garenne::task(name = "shop.bill")]
//! async fn bill(order: Order, price: Decimal) -> Bytes {
//!     Bytes(format!("{}: {}", order.number, price.0).into_bytes())
//! }
//! ```
//!
//! Source: `kombu.utils.json` of kombu 5.3 to 5.7.

use std::fmt::Display;
use std::time::SystemTime;

use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::message::{format_time, parse_time};

/// Writes a tagged value.
fn write<S: Serializer, V: Serialize>(
    serializer: S,
    kind: &'static str,
    value: V,
) -> Result<S::Ok, S::Error> {
    let mut tagged = serializer.serialize_struct("Tagged", 2)?;
    tagged.serialize_field("__type__", kind)?;
    tagged.serialize_field("__value__", &value)?;
    tagged.end()
}

/// Reads a value tagged with one of `kinds`, or a plain one: the tag's place among the kinds, and the value.
fn read<'de, D: Deserializer<'de>>(
    deserializer: D,
    kinds: &[&str],
) -> Result<(Option<usize>, Value), D::Error> {
    let mut value = Value::deserialize(deserializer)?;
    let Some(tag) = value.get_mut("__type__").map(Value::take) else {
        return Ok((None, value));
    };
    let place = kinds.iter().position(|kind| tag == *kind);
    match (place, value.get_mut("__value__").map(Value::take)) {
        (Some(place), Some(inner)) => Ok((Some(place), inner)),
        _ => Err(D::Error::custom(format_args!(
            "expected a value of Python's type `{}`, found one of type {tag}",
            kinds[0]
        ))),
    }
}

/// Reads a tagged or a plain string.
fn read_text<'de, D: Deserializer<'de>>(deserializer: D, kind: &str) -> Result<String, D::Error> {
    match read(deserializer, &[kind])? {
        (_, Value::String(text)) => Ok(text),
        (_, other) => Err(D::Error::custom(format_args!(
            "expected a `{kind}` as a string, found {other}"
        ))),
    }
}

fn wrong<E: serde::de::Error>(kind: &str, text: &str, why: impl Display) -> E {
    E::custom(format_args!("`{text}` is no {kind}: {why}"))
}

mod base64;

/// Python's `datetime`: a moment, to the microsecond. One without an offset means UTC.
pub mod datetime {
    use super::*;

    /// Writes a moment as Python's `datetime` in UTC.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        write(serializer, "datetime", format_time(*time))
    }

    /// Reads a `datetime`, or a string in RFC 3339.
    ///
    /// # Errors
    /// Where it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = read_text(deserializer, "datetime")?;
        parse_time(&text).ok_or_else(|| wrong("datetime", &text, "RFC 3339 is wanted"))
    }
}

/// Python's `uuid.UUID`.
pub mod uuid {
    use super::*;

    /// Writes Python's `UUID`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(id: &::uuid::Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        write(
            serializer,
            "uuid",
            serde_json::json!({"hex": id.simple().to_string()}),
        )
    }

    /// Reads a `UUID`, or a string in one of its usual forms.
    ///
    /// # Errors
    /// Where it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<::uuid::Uuid, D::Error> {
        let (_, value) = read(deserializer, &["uuid"])?;
        let text = value
            .get("hex")
            .unwrap_or(&value)
            .as_str()
            .unwrap_or_default();
        ::uuid::Uuid::try_parse(text).map_err(|e| wrong("UUID", &value.to_string(), e))
    }
}

/// Python's `decimal.Decimal`, as its digits: nothing is rounded.
pub mod decimal {
    use super::*;

    /// Writes Python's `Decimal`: digits with an optional sign, point and exponent, `Infinity`, or `NaN`.
    ///
    /// # Errors
    /// Where the text is no decimal, since it would make Python drop the whole message.
    pub fn serialize<S: Serializer>(digits: &str, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        match is_decimal(digits) {
            true => write(serializer, "decimal", digits),
            false => Err(S::Error::custom(format_args!("`{digits}` is no decimal"))),
        }
    }

    /// Whether Python's `Decimal` reads it.
    fn is_decimal(text: &str) -> bool {
        /// Python's largest exponent has one digit more.
        const EXPONENT: usize = 17;
        let text = text.to_ascii_lowercase();
        let text = text.strip_prefix(['+', '-']).unwrap_or(&text);
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(payload) = text.trim_start_matches('s').strip_prefix("nan") {
            return !text.starts_with("ss") && are_digits(payload);
        }
        if matches!(text, "inf" | "infinity") {
            return true;
        }
        let (number, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        (whole.len() + fraction.len() > 0)
            && are_digits(whole)
            && are_digits(fraction)
            && (1..=EXPONENT).contains(&exponent.len())
            && are_digits(exponent)
    }

    /// Reads a `Decimal`, a string, or a number.
    ///
    /// # Errors
    /// Where it is none of these.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        match read(deserializer, &["decimal"])? {
            (_, Value::String(digits)) => Ok(digits),
            (_, Value::Number(number)) => Ok(number.to_string()),
            (_, other) => Err(wrong("decimal", &other.to_string(), "digits are wanted")),
        }
    }
}

/// Python's `datetime.date`, as `YYYY-MM-DD`.
pub mod date {
    use super::*;

    /// Writes Python's `date`.
    ///
    /// # Errors
    /// Where the text is no date, since it would make Python drop the whole message.
    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        check::<jiff::civil::Date>("date", text).map_err(S::Error::custom)?;
        write(serializer, "date", text)
    }

    /// Reads a `date`, or a string.
    ///
    /// # Errors
    /// Where it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let text = read_text(deserializer, "date")?;
        check::<jiff::civil::Date>("date", &text).map_err(D::Error::custom)?;
        Ok(text)
    }
}

/// Python's `datetime.time`, as `HH:MM:SS` with an optional fraction.
pub mod time {
    use super::*;

    /// Writes Python's `time`.
    ///
    /// # Errors
    /// Where the text is no time, since it would make Python drop the whole message.
    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        check::<jiff::civil::Time>("time", text).map_err(S::Error::custom)?;
        write(serializer, "time", text)
    }

    /// Reads a `time`, or a string.
    ///
    /// # Errors
    /// Where it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let text = read_text(deserializer, "time")?;
        check::<jiff::civil::Time>("time", &text).map_err(D::Error::custom)?;
        Ok(text)
    }
}

fn check<T: std::str::FromStr<Err: Display>>(kind: &str, text: &str) -> Result<(), String> {
    let wrong = |error| format!("`{text}` is no {kind}: {error}");
    text.parse::<T>().map(drop).map_err(wrong)
}

/// Python's `bytes`.
pub mod bytes {
    use super::*;

    /// Writes Python's `bytes`: as text where they are UTF-8, otherwise in base 64.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => write(serializer, "bytes", text),
            Err(_) => write(serializer, "base64", base64::encode(bytes)),
        }
    }

    /// Reads `bytes`, a string (its UTF-8), or a list of numbers (Rust's own form).
    ///
    /// # Errors
    /// Where it is none of these.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        const BASE64: usize = 1;
        match read(deserializer, &["bytes", "base64"])? {
            (Some(BASE64), Value::String(text)) => base64::decode(&text)
                .ok_or_else(|| D::Error::custom("the bytes are no valid base 64")),
            (_, Value::String(text)) => Ok(text.into_bytes()),
            (None, list @ Value::Array(_)) => Vec::deserialize(list).map_err(D::Error::custom),
            (_, other) => Err(wrong("bytes", &other.to_string(), "a string is wanted")),
        }
    }
}

/// A wrapper for values of one kind, as a parameter or a result of a task.
macro_rules! wrapper {
    ($name:ident($inner:ty), $with:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(
            /// The value.
            #[serde(with = $with)]
            pub $inner,
        );

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

wrapper!(
    DateTime(SystemTime),
    "datetime",
    "Python's `datetime`: a moment, to the microsecond."
);
wrapper!(
    Date(String),
    "date",
    "Python's `datetime.date`, as `YYYY-MM-DD`."
);
wrapper!(
    Time(String),
    "time",
    "Python's `datetime.time`, as `HH:MM:SS`."
);
wrapper!(
    Decimal(String),
    "decimal",
    "Python's `decimal.Decimal`, as its digits."
);
wrapper!(Uuid(::uuid::Uuid), "uuid", "Python's `uuid.UUID`.");
wrapper!(Bytes(Vec<u8>), "bytes", "Python's `bytes`.");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "a literal at each call")]
    fn there_and_back<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
        value: T,
        json: Value,
    ) {
        assert_eq!(serde_json::to_value(&value).expect("it serialises"), json);
        assert_eq!(
            serde_json::from_value::<T>(json).expect("it is read"),
            value
        );
    }

    #[test]
    fn each_kind_has_pythons_form() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(1_704_164_645_678_901);
        there_and_back(
            DateTime(moment),
            json!({"__type__": "datetime", "__value__": "2024-01-02T03:04:05.678901+00:00"}),
        );
        there_and_back(
            Date("2024-01-02".into()),
            json!({"__type__": "date", "__value__": "2024-01-02"}),
        );
        there_and_back(
            Time("03:04:05".into()),
            json!({"__type__": "time", "__value__": "03:04:05"}),
        );
        there_and_back(
            Decimal("1.50".into()),
            json!({"__type__": "decimal", "__value__": "1.50"}),
        );
        there_and_back(
            Uuid(::uuid::Uuid::from_u128(1)),
            json!({"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}),
        );
        there_and_back(
            Bytes(b"hi".to_vec()),
            json!({"__type__": "bytes", "__value__": "hi"}),
        );
        there_and_back(
            Bytes(vec![0xff, 0]),
            json!({"__type__": "base64", "__value__": "/wA="}),
        );
    }

    #[test]
    fn plain_forms_are_read_too() {
        fn read<T: serde::de::DeserializeOwned>(json: Value) -> T {
            serde_json::from_value(json).expect("it is read")
        }
        let epoch = DateTime(SystemTime::UNIX_EPOCH);
        assert_eq!(read::<DateTime>(json!("1970-01-01T00:00:00Z")), epoch);
        assert_eq!(read::<DateTime>(json!("1970-01-01T01:00:00+01:00")), epoch);
        assert_eq!(read::<Decimal>(json!(1.5)), Decimal("1.5".into()));
        assert_eq!(
            read::<Uuid>(json!("00000000-0000-0000-0000-000000000001")),
            Uuid(::uuid::Uuid::from_u128(1))
        );
        assert_eq!(read::<Bytes>(json!("hi")), Bytes(b"hi".to_vec()));
        assert_eq!(read::<Bytes>(json!([104, 105])), Bytes(b"hi".to_vec()));
    }

    #[test]
    fn what_is_none_is_an_error_that_says_so() {
        fn refused<T: serde::de::DeserializeOwned + std::fmt::Debug>(json: Value) -> String {
            serde_json::from_value::<T>(json)
                .expect_err("it is none")
                .to_string()
        }
        let date = json!({"__type__": "date", "__value__": "2024-01-02"});
        let text = refused::<DateTime>(date);
        assert!(
            text.contains("`datetime`") && text.contains("\"date\""),
            "{text}"
        );
        for bad in [
            json!("soon"),
            json!(1),
            json!({"__type__": "datetime"}),
            json!(null),
        ] {
            refused::<DateTime>(bad);
        }
        for bad in [json!("/w"), json!("====A"), json!("A==="), json!("#AAA")] {
            let tagged = json!({"__type__": "base64", "__value__": bad});
            assert!(refused::<Bytes>(tagged).contains("base 64"), "{bad}");
        }
        refused::<Uuid>(json!({"__type__": "uuid", "__value__": {"hex": "no"}}));
        refused::<Date>(json!("2024-13-01"));
        assert!(serde_json::to_value(Date("tomorrow".into())).is_err());
        for good in [
            "1",
            "-1.50",
            "+.5",
            "5.",
            "1E+3",
            "1e-7",
            "-Infinity",
            "inf",
            "NaN",
            "sNaN12",
        ] {
            assert!(serde_json::to_value(Decimal(good.into())).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-",
            ".",
            "1,5",
            "one",
            "1e",
            "1e+",
            "0x1",
            "ssnan",
            "nanx",
            "1e999999999999999999",
            "--1",
            "1.2.3",
        ] {
            assert!(serde_json::to_value(Decimal(bad.into())).is_err(), "{bad}");
        }
    }
}
