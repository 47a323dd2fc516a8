//! The arguments of a call, and the JSON body `[args, kwargs, embed]` that carries them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Embed, Message, Unreadable, cut};

/// Characters of the arguments shown in `argsrepr`, which monitors print.
const REPR_LIMIT: usize = 200;
/// More arguments than any function has: each costs twenty times its own bytes in memory.
const ARGUMENTS_LIMIT: usize = 1000;

/// How a body ends after whose call nothing is to follow.
pub(super) const NOTHING_FOLLOWS: &[u8] =
    br#",{"callbacks":null,"chain":null,"chord":null,"errbacks":null}]"#;

/// A body as it is read: `[args, kwargs, embed]`.
type Body<'a> = (Args, Option<Kwargs>, &'a RawValue);

struct Args(Vec<Box<RawValue>>);

#[derive(Default)]
struct Kwargs(BTreeMap<String, Box<RawValue>>);

/// The arguments of a call, each still encoded.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// By position.
    pub args: Vec<Box<RawValue>>,
    /// By name.
    pub kwargs: BTreeMap<String, Box<RawValue>>,
}

impl Arguments {
    /// The JSON body of a message with these arguments: `[args, kwargs, embed]`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body =
            serde_json::to_vec(&(&self.args, &self.kwargs)).expect("raw JSON always serialises");
        body.pop();
        body.extend_from_slice(NOTHING_FOLLOWS);
        body
    }

    /// The same, with what is to follow the call.
    #[must_use]
    pub fn encode_with(&self, embed: &Embed) -> Vec<u8> {
        serde_json::to_vec(&(&self.args, &self.kwargs, embed)).expect("raw JSON always serialises")
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// [`Unreadable`] with the reason, for any body that is not JSON of Celery's protocol 2.
    pub fn decode(message: &Message) -> Result<Self, Unreadable> {
        Self::decode_all(message).map(|(arguments, _)| arguments)
    }

    /// Reads a message's body, and what is to follow the call.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub(crate) fn decode_all(message: &Message) -> Result<(Self, Embed), Unreadable> {
        match message.unsupported() {
            Some(reason) => Err(Unreadable(reason)),
            None => Self::decode_json(&message.body),
        }
    }

    /// Reads a body in JSON, and what is to follow the call.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub(crate) fn decode_json(body: &[u8]) -> Result<(Self, Embed), Unreadable> {
        let (args, kwargs, embed): Body<'_> = serde_json::from_slice(body).map_err(|e| {
            Unreadable(format!(
                "the body is not `[args, kwargs, embed]` in JSON: {e}"
            ))
        })?;
        let arguments = Self {
            args: args.0,
            kwargs: kwargs.unwrap_or_default().0,
        };
        // What is no map names nothing to follow.
        let is_empty = !embed.get().starts_with('{') || body.ends_with(NOTHING_FOLLOWS);
        let embed = match is_empty {
            true => Embed::default(),
            false => serde_json::from_str(embed.get()).map_err(|e| {
                Unreadable(format!("what is to follow the call cannot be read: {e}"))
            })?,
        };
        Ok((arguments, embed))
    }

    /// What monitors show of the arguments by position, and of those by name, if there are any.
    pub(super) fn repr(&self) -> (String, Option<String>) {
        let mut args = String::with_capacity(REPR_LIMIT / 2);
        args.push('(');
        for (i, arg) in self.args.iter().enumerate() {
            if i > 0 {
                args.push_str(", ");
            }
            args.push_str(cut(arg.get(), REPR_LIMIT));
            if args.len() > REPR_LIMIT {
                args.push_str(", …");
                break;
            }
        }
        args.push_str(if self.args.len() == 1 { ",)" } else { ")" });
        let kwargs = (!self.kwargs.is_empty()).then(|| {
            let mut kwargs = serde_json::to_string(&self.kwargs).unwrap_or_default();
            kwargs.truncate(cut(&kwargs, REPR_LIMIT).len());
            kwargs
        });
        (args, kwargs)
    }
}

/// Refuses another argument where there are too many.
fn bounded<E: Error>(count: usize) -> Result<(), E> {
    match count < ARGUMENTS_LIMIT {
        true => Ok(()),
        false => Err(E::custom(format_args!(
            "more than {ARGUMENTS_LIMIT} arguments"
        ))),
    }
}

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Args;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Args, A::Error> {
                let mut args = Vec::new();
                while let Some(arg) = list.next_element()? {
                    bounded(args.len())?;
                    args.push(arg);
                }
                Ok(Args(args))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'de> Deserialize<'de> for Kwargs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Kwargs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of named arguments")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kwargs, A::Error> {
                let mut kwargs = BTreeMap::new();
                // As in Python, the last of several under one name counts.
                while let Some((name, value)) = map.next_entry()? {
                    bounded(kwargs.len())?;
                    kwargs.insert(name, value);
                }
                Ok(Kwargs(kwargs))
            }
        }
        deserializer.deserialize_map(Named)
    }
}
