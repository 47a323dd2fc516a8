//! What of a text that is nearly JSON can be saved.

/// What Python writes for numbers that JSON does not have.
const NO_NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// The same with `null` in place of the numbers that JSON does not have.
pub(crate) fn without_nan(json: &[u8]) -> Vec<u8> {
    let mut sound = Vec::with_capacity(json.len());
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        let found = NO_NUMBERS.iter().find_map(|word| rest.strip_prefix(*word));
        if let (Some(after), false) = (found, in_text) {
            sound.extend_from_slice(b"null");
            rest = after;
            continue;
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ => {}
        }
        sound.push(byte);
        rest = after;
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_become_null() {
        for (json, sound) in [
            ("NaN", "null"),
            ("[NaN,-Infinity, Infinity,-1]", "[null,null, null,-1]"),
            (
                r#"{"NaN": "a \" NaN \\", "b": NaN}"#,
                r#"{"NaN": "a \" NaN \\", "b": null}"#,
            ),
            ("", ""),
            (r#""open NaN"#, r#""open NaN"#),
        ] {
            assert_eq!(without_nan(json.as_bytes()), sound.as_bytes(), "{json}");
        }
    }
}
