//! A time as seconds since 1970 with a fraction, as Python writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serializer};

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde wants"
)]
pub(super) fn serialize<S: Serializer>(time: &SystemTime, out: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.serialize_f64(since.as_secs_f64())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
    let seconds = f64::deserialize(from)?;
    let since = Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)?;
    UNIX_EPOCH
        .checked_add(since)
        .ok_or_else(|| serde::de::Error::custom("no time that a clock knows"))
}
