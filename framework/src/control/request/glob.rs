//! Shell patterns: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`, as Python's `fnmatch` reads them. Pure.

/// Longest pattern that is looked at.
const LONGEST: usize = 255;

/// Whether all of `text` matches `pattern`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().take(LONGEST).collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last `*` does not match.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
            continue;
        }
        if let Some(after) = one(&pattern, p, text[t]) {
            (p, t) = (after, t + 1);
            continue;
        }
        let Some((at, from)) = star else {
            return false;
        };
        star = Some((at, from + 1));
        (p, t) = (at + 1, from + 1);
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on if its element at `p` matches `c`.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match *pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => {
            let negated = pattern.get(p + 1) == Some(&'!');
            let first = p + 1 + usize::from(negated);
            // A `]` that comes first is one of the set.
            let rest = pattern.get(first + 1..).unwrap_or_default();
            let length = rest.iter().position(|c| *c == ']');
            let Some(end) = length.map(|length| first + 1 + length) else {
                return (c == '[').then_some(p + 1);
            };
            (set(&pattern[first..end], c) != negated).then_some(end + 1)
        }
        literal => (literal == c).then_some(p + 1),
    }
}

fn set(set: &[char], c: char) -> bool {
    let mut i = 0;
    while i < set.len() {
        if i + 2 < set.len() && set[i + 1] == '-' {
            if (set[i]..=set[i + 2]).contains(&c) {
                return true;
            }
            i += 3;
        } else {
            if set[i] == c {
                return true;
            }
            i += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_python() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("w*@h", "worker@h", true),
            ("w*@h", "worker@hh", false),
            ("*a*b", "xaayb", true),
            ("?", "", false),
            ("w[0-9]", "w7", true),
            ("w[!0-9]", "w7", false),
            ("w[]]", "w]", true),
            ("w[", "w[", true),
            ("w[abc", "wa", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        let evil = "*a".repeat(100);
        assert!(!matches(&evil, &"a".repeat(99)));
    }
}
