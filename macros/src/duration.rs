//! Durations as people write them: `250ms`, `1.5s`, `1m30s`.

use std::time::Duration;

const UNITS: [(&str, u128); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads a duration, or says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write a number with a unit (ms, s, m, h or d), such as `30s` or `1m30s`";
    let wrong = |what: &str| format!("`{text}` is not a duration: {what}; {FORM}");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("a duration is missing: {FORM}"));
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let number = leading(rest, |c| c.is_ascii_digit() || c == '.');
        rest = rest[number.len()..].trim_start();
        let unit = leading(rest, char::is_alphabetic);
        rest = rest[unit.len()..].trim_start();
        if number.is_empty() {
            return Err(wrong("it lacks a number"));
        }
        let scale = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None if unit.is_empty() => return Err(wrong("it lacks a unit")),
            None => return Err(wrong(&format!("there is no unit `{unit}`"))),
        };
        let part = scaled(number, scale)
            .ok_or_else(|| wrong(&format!("`{number}` cannot be understood")))?;
        nanos = nanos.saturating_add(part);
    }
    // A century is more than any clock arithmetic in a worker has to bear.
    if nanos > 36_525 * UNITS[4].1 {
        return Err(wrong("it is longer than a century"));
    }
    let seconds = u64::try_from(nanos / UNITS[1].1).unwrap_or(u64::MAX);
    let below = u32::try_from(nanos % UNITS[1].1).unwrap_or(0);
    Ok(Duration::new(seconds, below))
}

fn leading(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    &text[..end]
}

/// A decimal number of units, in nanoseconds.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = u32::try_from(decimals.len()).ok().filter(|n| *n <= 9)?;
    let whole = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let part = decimals.parse::<u128>().ok()? * scale / 10_u128.pow(digits);
    whole.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_durations() {
        let read = [
            ("250ms", 250),
            ("1s", 1000),
            ("1.5s", 1500),
            ("0.5h", 1_800_000),
            ("1m30s", 90_000),
            (" 1h 5m ", 3_900_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ];
        for (text, millis) in read {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("0.5ms"), Ok(Duration::from_micros(500)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1 week",
            "1..s",
            "1.2.3s",
            ".s",
            "5.s",
            "1e3s",
            "40000d",
            "µs",
            "99999999999999999999999999999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        #[test]
        fn fuzz_any_text(text in proptest::prop_oneof![".{0,40}", "([0-9.]{0,25}(ms|s|m|h|d)? ?){0,4}"]) {
            if let Ok(duration) = parse(&text) {
                assert!(duration <= Duration::from_secs(36_525 * 86_400), "{text}");
            }
        }

        #[test]
        fn fuzz_sums(h in 0..1_000_u64, m in 0..10_000_u64, s in 0..100_000_u64, ms in 0..1_000_000_u64) {
            let whole = Duration::from_secs(h * 3600 + m * 60 + s) + Duration::from_millis(ms);
            assert_eq!(parse(&format!("{h}h{m}m{s}s{ms}ms")), Ok(whole));
        }
    }
}
