//! What a hostile sender puts into a message's properties, made readable before lapin sees it: one byte
//! that is not UTF-8 would end the connection, and tables nested deeply would overflow the stack of lapin's
//! thread and end the process, again and again with each redelivery. Pure.

use std::borrow::Cow;

use crate::message::{DEPTH_LIMIT, cut, header};

/// A mended payload grows by our note; up to this size it fits every server's frames.
const SMALL: usize = 4000;
/// Bytes of a header's name shown in the note.
const NAME_SHOWN: usize = 64;
const SHORT_LIMIT: usize = 255;
/// The places of the headers and of all properties among the flags of AMQP's class `basic`.
const HEADERS: usize = 2;
const COUNT: usize = 14;
const BASIC: [u8; 2] = [0, 60];
const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];

/// What stands at one place among the properties.
enum Field {
    Short(&'static str),
    Table,
    Bytes(usize),
}

const FIELDS: [Field; COUNT] = [
    Field::Short("content type"),
    Field::Short("content encoding"),
    Field::Table,
    Field::Bytes(1),
    Field::Bytes(1),
    Field::Short("correlation id"),
    Field::Short("reply-to"),
    Field::Short("expiration"),
    Field::Short("message id"),
    Field::Bytes(8),
    Field::Short("type"),
    Field::Short("user id"),
    Field::Short("app id"),
    Field::Short("cluster id"),
];

/// Why a value cannot be handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Deep,
    NotText,
    Malformed,
}

impl Flaw {
    fn says(self) -> String {
        match self {
            Self::Deep => format!("is nested more than {DEPTH_LIMIT} deep"),
            Self::NotText => "has a name that is not UTF-8".into(),
            Self::Malformed => "cannot be read".into(),
        }
    }
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Flaw::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Flaw> {
        self.take(1).map(|taken| taken[0])
    }

    fn short(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn long(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.take(4)?;
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length)
    }

    /// The name and type of a table's next entry.
    fn name(&mut self) -> Result<&'a [u8], Flaw> {
        let name = self.short()?;
        std::str::from_utf8(name).map_err(|_| Flaw::NotText)?;
        Ok(name)
    }

    /// Passes over a value; what is nested in it is looked into.
    fn value(&mut self, depth: usize) -> Result<(), Flaw> {
        let size = match self.byte()? {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' => return self.long().map(|_| ()),
            nested @ (b'F' | b'A') => {
                let inner = Reader(self.long()?);
                return match depth < DEPTH_LIMIT {
                    true => inner.all(nested == b'F', depth + 1),
                    false => Err(Flaw::Deep),
                };
            }
            _ => return Err(Flaw::Malformed),
        };
        self.take(size).map(|_| ())
    }

    /// Looks at all entries of a table, or of an array.
    fn all(mut self, is_table: bool, depth: usize) -> Result<(), Flaw> {
        while !self.0.is_empty() {
            if is_table {
                self.name()?;
            }
            self.value(depth)?;
        }
        Ok(())
    }
}

/// The properties that are there, each as it is written.
type Properties<'a> = [Option<&'a [u8]>; COUNT];

fn split(payload: &[u8]) -> Result<Properties<'_>, Flaw> {
    let mut rest = Reader(payload.get(12..).ok_or(Flaw::Malformed)?);
    let flags = rest.take(2)?;
    let flags = u16::from_be_bytes([flags[0], flags[1]]);
    let mut properties = [None; COUNT];
    for (place, field) in FIELDS.iter().enumerate() {
        if flags & 1 << (15 - place) == 0 {
            continue;
        }
        let start = rest.0;
        match field {
            Field::Short(_) => rest.short()?,
            Field::Table => rest.long()?,
            Field::Bytes(count) => rest.take(*count)?,
        };
        properties[place] = Some(&start[..start.len() - rest.0.len()]);
    }
    match flags & 0b11 == 0 && rest.0.is_empty() {
        true => Ok(properties),
        false => Err(Flaw::Malformed),
    }
}

/// A content header's payload in place of one that lapin cannot bear; `None` where it can. What was lost
/// is said in the header [`header::MALFORMED`].
pub(super) fn content_header(payload: &[u8]) -> Option<Vec<u8>> {
    if !payload.starts_with(&BASIC) {
        return None;
    }
    let Ok(mut properties) = split(payload) else {
        let note = vec!["its properties cannot be read".into()];
        return Some(written(payload, &[None; COUNT], &[], &note));
    };
    let mut flaws = Vec::new();
    let mut mended: [Vec<u8>; COUNT] = Default::default();
    for (place, field) in FIELDS.iter().enumerate() {
        if let (Field::Short(name), Some(raw)) = (field, properties[place])
            && std::str::from_utf8(&raw[1..]).is_err()
        {
            flaws.push(format!("its {name} is not UTF-8"));
            mended[place] = lossy(&raw[1..]);
        }
    }
    let entries = match properties[HEADERS] {
        Some(raw) => good_entries(&raw[4..], &mut flaws),
        None => Cow::default(),
    };
    if flaws.is_empty() {
        return None;
    }
    for (property, mended) in properties.iter_mut().zip(&mended) {
        if !mended.is_empty() {
            *property = Some(mended);
        }
    }
    let whole = written(payload, &properties, &entries, &flaws);
    if whole.len() <= payload.len().max(SMALL) {
        return Some(whole);
    }
    flaws.push("its headers left no room for this note".into());
    Some(written(payload, &properties, &[], &flaws))
}

/// A method's payload in place of one that lapin cannot bear; `None` where it can. Exchange and routing
/// key of a delivery are what others wrote.
pub(super) fn method(payload: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Reader(payload.strip_prefix(&BASIC_DELIVER)?);
    let mut parts = || -> Result<[&[u8]; 4], Flaw> {
        let tag = rest.short()?;
        Ok([tag, rest.take(9)?, rest.short()?, rest.short()?])
    };
    let [tag, fixed, exchange, key] = parts().ok()?;
    let sound = |text| std::str::from_utf8(text).is_ok();
    if sound(tag) && sound(exchange) && sound(key) {
        return None;
    }
    Some(
        [
            &BASIC_DELIVER,
            &*lossy(tag),
            fixed,
            &lossy(exchange),
            &lossy(key),
        ]
        .concat(),
    )
}

/// A short string of what is text in `bytes`.
fn lossy(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let text = cut(&text, SHORT_LIMIT).as_bytes();
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[length], text].concat()
}

/// Whether all entries of the headers can be handed on.
fn are_good(headers: &[u8]) -> bool {
    let mut rest = Reader(headers);
    while !rest.0.is_empty() {
        if rest.name().and_then(|_| rest.value(1)).is_err() {
            return false;
        }
    }
    true
}

/// The entries of the headers that can be handed on: nearly always as they are.
fn good_entries<'a>(headers: &'a [u8], flaws: &mut Vec<String>) -> Cow<'a, [u8]> {
    if are_good(headers) {
        return headers.into();
    }
    let mut good = Vec::with_capacity(headers.len());
    let mut rest = Reader(headers);
    while !rest.0.is_empty() {
        let start = rest.0;
        let checked = rest.name().and_then(|name| {
            let value = rest.value(1);
            let name = String::from_utf8_lossy(name);
            value.inspect_err(|flaw| {
                flaws.push(format!(
                    "its header `{}` {}",
                    cut(&name, NAME_SHOWN).escape_debug(),
                    flaw.says()
                ));
            })
        });
        match checked {
            Ok(()) => good.extend_from_slice(&start[..start.len() - rest.0.len()]),
            // Passed over as a whole before it was looked into.
            Err(Flaw::Deep) => {}
            Err(flaw) if flaws.is_empty() => {
                flaws.push(format!("one of its headers {}", flaw.says()));
                break;
            }
            Err(_) => break,
        }
    }
    good.into()
}

/// A payload of these properties and headers, and a note of what is wrong with the original.
fn written(
    payload: &[u8],
    properties: &Properties<'_>,
    entries: &[u8],
    flaws: &[String],
) -> Vec<u8> {
    let mut note = Vec::new();
    let text = flaws.join("; ");
    let text = cut(&text, SMALL / 4).as_bytes();
    note.extend(lossy(header::MALFORMED.as_bytes()));
    note.push(b'S');
    note.extend(length(text));
    note.extend(text);
    let mut fixed = payload.get(..12).unwrap_or_default().to_vec();
    fixed.resize(12, 0);
    let mut flags = 0_u16;
    let mut out = Vec::new();
    for (place, property) in properties.iter().enumerate() {
        if place == HEADERS {
            out.extend(length(&[entries, &note].concat()));
            out.extend(entries);
            out.extend(&note);
        } else if let Some(raw) = property {
            out.extend_from_slice(raw);
        } else {
            continue;
        }
        flags |= 1 << (15 - place);
    }
    [&*fixed, &flags.to_be_bytes(), &out].concat()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}
