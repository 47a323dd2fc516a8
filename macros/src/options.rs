//! The options of the attribute: `#[task(queue = "images", timeout = "30s")]`.

use std::time::Duration;

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprLit, Lit, Result, Token};

use crate::duration;
use crate::error::Errors;

/// What the attribute says: the task's name, and the fields of `TaskOptions` with their values.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<TokenStream>,
    /// The word `extern`, where the function is elsewhere.
    pub(crate) elsewhere: Option<Ident>,
    pub(crate) fields: Vec<(Ident, TokenStream)>,
}

/// An option: this table is the only place that spells it.
struct Spec {
    key: &'static str,
    expects: &'static str,
    example: &'static str,
    read: fn(&Expr) -> Read,
}

#[rustfmt::skip]
const SPECS: [Spec; 9] = [
    Spec { key: "name", expects: "a string", example: r#""billing.report""#, read: name },
    Spec { key: "queue", expects: "a string", example: r#""reports""#, read: queue },
    Spec { key: "shards", expects: "a number from 1 to 1024", example: "4", read: shards },
    Spec { key: "retries", expects: "a number from 0 to 4294967295", example: "5", read: retries },
    Spec { key: "backoff", expects: "a range of durations in quotes", example: r#""1s..5m""#, read: backoff },
    Spec { key: "timeout", expects: "a duration in quotes", example: r#""30s""#, read: limit },
    Spec { key: "priority", expects: "a number from 0 to 255", example: "5", read: priority },
    Spec { key: "expires", expects: "a duration in quotes", example: r#""1h""#, read: limit },
    Spec { key: "ack", expects: r#""late" or "early""#, example: r#""early""#, read: ack },
];

/// Why a value is refused.
enum Wrong {
    /// It is not what the option expects.
    Kind,
    /// It is, but cannot be meant.
    Because(String),
}

type Read = std::result::Result<TokenStream, Wrong>;

fn because(reason: impl Into<String>) -> Read {
    Err(Wrong::Because(reason.into()))
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self::Because(reason)
    }
}

impl Options {
    /// Reads all options that can be read; the mistakes of the others are kept in `errors`.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let parser = |input: ParseStream<'_>| options.read_all(input, errors);
        if let Err(error) = parser.parse2(tokens) {
            errors.push(error);
        }
        options
    }

    fn read_all(&mut self, input: ParseStream<'_>, errors: &mut Errors) -> Result<()> {
        let mut seen: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            if input.peek(Lit) {
                return Err(input.error("an option has a name: `#[task(name = \"…\")]`"));
            }
            let key = Ident::parse_any(input)?;
            if key == "extern" && !input.peek(Token![=]) {
                if self.elsewhere.replace(key.clone()).is_some() {
                    errors.at(&key, "`extern` is given twice");
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
                continue;
            }
            let spec = SPECS.iter().find(|spec| key == spec.key);
            let Some(value) = value(input, &key, spec)? else {
                errors.push(unknown(&key));
                return Ok(());
            };
            match spec {
                None if key == "extern" => errors.at(&key, "`extern` has no value"),
                None => errors.push(unknown(&key)),
                Some(_) if seen.contains(&key) => {
                    errors.at(&key, format!("`{key}` is given twice"));
                }
                Some(spec) => self.set(spec, &key, &value, errors),
            }
            seen.push(key);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }

    fn set(&mut self, spec: &Spec, key: &Ident, value: &Expr, errors: &mut Errors) {
        match (spec.read)(value) {
            Ok(tokens) if spec.key == "name" => self.name = Some(tokens),
            Ok(tokens) => self.fields.push((key.clone(), tokens)),
            Err(Wrong::Because(reason)) => errors.at(value, reason),
            Err(Wrong::Kind) => {
                let Spec {
                    expects, example, ..
                } = spec;
                errors.at(
                    value,
                    format!("expected {expects}, such as `{key} = {example}`"),
                );
            }
        }
    }
}

/// What follows the key; `None` if it has no value and is no option either.
fn value(input: ParseStream<'_>, key: &Ident, spec: Option<&Spec>) -> Result<Option<Expr>> {
    let equals = input.parse::<Option<Token![=]>>()?;
    if equals.is_some() && !input.is_empty() && !input.peek(Token![,]) {
        return input.parse().map(Some);
    }
    let rest: TokenStream = input.parse()?;
    drop(rest);
    spec.map_or(Ok(None), |spec| {
        let message = format!("`{key}` needs a value: `{key} = {}`", spec.example);
        Err(Error::new(key.span(), message))
    })
}

fn unknown(key: &Ident) -> Error {
    let word = key.unraw().to_string();
    let all: Vec<String> = SPECS.iter().map(|s| format!("`{}`", s.key)).collect();
    let close = |spec: &&Spec| {
        let begins_alike = word.len() >= 4 && word.get(..4) == spec.key.get(..4);
        begins_alike || word.contains(spec.key) || distance(&word, spec.key) <= 2
    };
    let meant = SPECS.iter().find(close).map_or(String::new(), |spec| {
        format!("did you mean `{}`? ", spec.key)
    });
    let message = format!(
        "unknown option `{word}`; {meant}expected one of {}, `extern`",
        all.join(", ")
    );
    Error::new(key.span(), message)
}

/// How many letters to change, add or take away.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The literal, also if a `macro_rules` macro wrapped it.
fn literal(value: &Expr) -> Option<&Lit> {
    match value {
        Expr::Lit(ExprLit { lit, .. }) => Some(lit),
        Expr::Group(group) => literal(&group.expr),
        _ => None,
    }
}

fn string(value: &Expr) -> std::result::Result<String, Wrong> {
    match literal(value) {
        Some(Lit::Str(text)) => Ok(text.value()),
        _ => Err(Wrong::Kind),
    }
}

fn name(value: &Expr) -> Read {
    identifier(value, "a task's name")
}

fn queue(value: &Expr) -> Read {
    if string(value)?.starts_with("amq.") {
        return because(
            "a queue's name must not start with `amq.`: RabbitMQ keeps that for itself",
        );
    }
    identifier(value, "a queue's name")
}

fn identifier(value: &Expr, what: &str) -> Read {
    let text = string(value)?;
    if text.is_empty() || text.len() > 200 {
        return because(format!("{what} must have between 1 and 200 bytes"));
    }
    if text.chars().any(char::is_control) {
        return because(format!("{what} must not contain control characters"));
    }
    Ok(quote_spanned!(value.span()=> #text))
}

fn number<N: std::str::FromStr<Err: std::fmt::Display>>(
    value: &Expr,
) -> std::result::Result<N, Wrong> {
    match literal(value) {
        Some(Lit::Int(number)) => number.base10_parse().map_err(|_| Wrong::Kind),
        _ => Err(Wrong::Kind),
    }
}

fn shards(value: &Expr) -> Read {
    match number::<u32>(value)? {
        shards @ 1..=1024 => Ok(quote!(#shards)),
        _ => Err(Wrong::Kind),
    }
}

fn retries(value: &Expr) -> Read {
    let retries: u32 = number(value)?;
    Ok(quote!(::core::option::Option::Some(#retries)))
}

fn priority(value: &Expr) -> Read {
    let priority: u8 = number(value)?;
    Ok(quote!(::core::option::Option::Some(#priority)))
}

/// A duration within which something must happen.
fn limit(value: &Expr) -> Read {
    let limit = duration::parse(&string(value)?)?;
    if limit.is_zero() {
        return because("the duration must be longer than zero");
    }
    let limit = tokens(limit);
    Ok(quote!(::core::option::Option::Some(#limit)))
}

fn backoff(value: &Expr) -> Read {
    let text = string(value)?;
    let (base, max) = match text.split_once("..") {
        Some((base, max)) => (
            duration::parse(base)?,
            duration::parse(max.strip_prefix('=').unwrap_or(max))?,
        ),
        None => duration::parse(&text).map(|constant| (constant, constant))?,
    };
    if base > max {
        return because("the first wait is longer than the longest: write `shortest..longest`");
    }
    if base.is_zero() && !max.is_zero() {
        return because("a first wait of zero stays zero however often it is doubled");
    }
    let (base, max) = (tokens(base), tokens(max));
    Ok(quote!(::garenne::__private::Backoff::new(#base, #max)))
}

fn ack(value: &Expr) -> Read {
    match string(value)?.as_str() {
        "late" => Ok(quote!(::garenne::__private::Ack::Late)),
        "early" => Ok(quote!(::garenne::__private::Ack::Early)),
        _ => Err(Wrong::Kind),
    }
}

fn tokens(duration: Duration) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}
