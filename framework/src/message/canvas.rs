//! Celery's canvas taken apart. A signature that stands for several calls, a chain, a group or a chord, is no
//! task: whoever is to send it sends the calls that it begins with, each with what follows it.

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Signature, Signatures};

/// How deep chains, groups and chords may be inside each other.
pub(crate) const DEPTH: usize = 100;
/// Bytes that the copies of a chord's body may take, one for each of its members.
const BODIES: usize = 64 << 20;

/// What sending a signature begins with.
#[derive(Debug, Default)]
pub struct Beginning {
    /// The calls that are sent at once.
    pub calls: Vec<First>,
    /// The chords whose members are among them, or follow them.
    pub chords: Vec<Chord>,
}

/// A call that is sent at once.
#[derive(Debug)]
pub struct First {
    /// The call; it stands for itself.
    pub signature: Signature,
    /// What goes before its arguments.
    pub input: Option<Box<RawValue>>,
    /// What follows it, the next one last.
    pub rest: Vec<Box<RawValue>>,
}

/// A chord that begins: how many results its body waits for.
#[derive(Debug, PartialEq, Eq)]
pub struct Chord {
    /// The id of its header, a group.
    pub group: String,
    /// How many members it has.
    pub size: u32,
}

/// The header and the body of a chord.
#[derive(Deserialize)]
struct Parts {
    header: Box<RawValue>,
    body: Box<RawValue>,
}

/// What a member of a group is told: which group, and of which chord.
struct Membership<'a> {
    group: &'a str,
    body: Option<&'a RawValue>,
    /// How many members were counted.
    count: u32,
}

impl Beginning {
    /// Takes `signature` apart: it goes with `input`, and `rest` follows it, the next one last.
    ///
    /// # Errors
    /// Why it cannot be sent, a sentence.
    pub fn of(
        signature: Signature,
        input: Option<&RawValue>,
        rest: Vec<Box<RawValue>>,
    ) -> Result<Self, String> {
        let mut beginning = Self::default();
        beginning.add(signature, input, rest, DEPTH)?;
        Ok(beginning)
    }

    fn add(
        &mut self,
        mut signature: Signature,
        input: Option<&RawValue>,
        mut rest: Vec<Box<RawValue>>,
        depth: usize,
    ) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
        match signature.kind() {
            Kind::Call => {
                self.calls.push(First {
                    signature,
                    input: input.map(RawValue::to_owned),
                    rest,
                });
                Ok(())
            }
            Kind::Chain => {
                rest.extend(std::mem::take(&mut signature.options.chain.0));
                let mut steps = with_chords(signature.steps()?)?;
                hand_down(&signature, &mut steps)?;
                steps.reverse();
                rest.extend(steps);
                match rest.pop() {
                    Some(next) => self.add(read(&next)?, input, rest, depth),
                    None => Ok(()),
                }
            }
            Kind::Group => {
                rest.extend(std::mem::take(&mut signature.options.chain.0));
                match rest.pop() {
                    Some(body) => {
                        let chord = chord(signature.encode(), body);
                        self.add(read(&chord)?, input, rest, depth)
                    }
                    None => self.add_group(&signature, None, input, depth).map(drop),
                }
            }
            Kind::Chord => {
                rest.extend(std::mem::take(&mut signature.options.chain.0));
                let Parts { header, body } = signature.parts()?;
                let mut body = read(&body)?;
                body.options.link.0.extend(signature.options.link.0.clone());
                body.options
                    .link_error
                    .0
                    .extend(signature.options.link_error.0.clone());
                rest.append(&mut body.options.chain.0);
                body.options.chain = Signatures(rest);
                let header = match header.get().starts_with('[') {
                    true => Signature {
                        task: "celery.group".into(),
                        subtask_type: Some("group".into()),
                        kwargs: [("tasks".to_owned(), header)].into(),
                        options: super::SignatureOptions {
                            task_id: signature.options.task_id.clone(),
                            ..Default::default()
                        },
                        ..Signature::default()
                    },
                    false => read(&header)?,
                };
                let raw = body.encode();
                match self.add_group(&header, Some(&raw), input, depth)? {
                    Some(chord) => {
                        self.chords.push(chord);
                        Ok(())
                    }
                    // Nobody is to be waited for.
                    None => {
                        let rest = std::mem::take(&mut body.options.chain.0);
                        let nothing = RawValue::from_string("[]".into()).map_err(text)?;
                        self.add(body, Some(&nothing), rest, depth)
                    }
                }
            }
        }
    }

    /// Adds the members of a group, which is the header of a chord where there is a `body`; returns that.
    fn add_group(
        &mut self,
        group: &Signature,
        body: Option<&RawValue>,
        input: Option<&RawValue>,
        depth: usize,
    ) -> Result<Option<Chord>, String> {
        let id = match &group.options.task_id {
            Some(id) => id.clone(),
            None => crate::id::new_id(),
        };
        let mut members = Vec::new();
        flatten(group.steps()?, &mut members, depth)?;
        hand_down_errors(group, &mut members)?;
        let size = body.map_or(0, |body| body.get().len());
        if members.len().saturating_mul(size) > BODIES {
            return Err(format!(
                "the copies of its body take more than {BODIES} bytes"
            ));
        }
        let mut membership = Membership {
            group: &id,
            body,
            count: 0,
        };
        for member in members {
            let member = membership.tell(&member, depth)?;
            self.add(read(&member)?, input, Vec::new(), depth)?;
        }
        let size = membership.count;
        Ok((size > 0).then_some(Chord { group: id, size }))
    }
}

impl Membership<'_> {
    /// Tells it to the calls whose results are those of `raw`.
    fn tell(&mut self, raw: &RawValue, depth: usize) -> Result<Box<RawValue>, String> {
        let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
        let mut signature = read(raw)?;
        if let Some(last) = signature.options.chain.0.first_mut() {
            *last = self.tell(last, depth)?;
            return Ok(signature.encode());
        }
        match signature.kind() {
            // It ends a chain that is a member of a chord: Celery has told its members.
            Kind::Call if self.body.is_none() && signature.options.chord.is_some() => {}
            Kind::Call => {
                let options = &mut signature.options;
                options.group_id = Some(self.group.to_owned());
                options.group_index = Some(self.count);
                if self.body.is_some() {
                    options.chord = self.body.map(RawValue::to_owned);
                }
                self.count += 1;
            }
            Kind::Chain => {
                let mut steps = with_chords(signature.steps()?)?;
                if let Some(last) = steps.last_mut() {
                    *last = self.tell(last, depth)?;
                }
                signature.set("tasks", to_raw_value(&steps).map_err(text)?);
            }
            Kind::Group => {
                let members = signature.steps()?;
                let told = members.iter().map(|member| self.tell(member, depth));
                let told: Vec<_> = told.collect::<Result<_, _>>()?;
                signature.set("tasks", to_raw_value(&told).map_err(text)?);
            }
            Kind::Chord => {
                let body = self.tell(&signature.parts()?.body, depth)?;
                signature.set("body", body);
            }
        }
        Ok(signature.encode())
    }
}

/// What a signature stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call of a task.
    Call,
    /// Steps, one after the other.
    Chain,
    /// Members, side by side.
    Group,
    /// Members side by side, and a body that gets their results.
    Chord,
}

impl Signature {
    /// What it stands for.
    #[must_use]
    pub(crate) fn kind(&self) -> Kind {
        match self.subtask_type.as_deref() {
            Some("chain") => Kind::Chain,
            Some("group") => Kind::Group,
            Some("chord") => Kind::Chord,
            // `map`, `starmap` and `chunks` are tasks that every Python worker has.
            _ => Kind::Call,
        }
    }

    /// The signatures that its results come from, if it stands for several: the steps of a chain, the members
    /// of a group, the body of a chord.
    ///
    /// # Errors
    /// Why it cannot be read, a sentence.
    pub fn inner(&self) -> Result<Vec<Box<RawValue>>, String> {
        match self.kind() {
            Kind::Call => Ok(Vec::new()),
            Kind::Chain | Kind::Group => self.steps(),
            Kind::Chord => Ok(vec![self.parts()?.body]),
        }
    }

    /// The steps of a chain, or the members of a group.
    fn steps(&self) -> Result<Vec<Box<RawValue>>, String> {
        let tasks = self.kwargs.get("tasks").ok_or("it names no tasks")?;
        serde_json::from_str(tasks.get()).map_err(text)
    }

    fn parts(&self) -> Result<Parts, String> {
        let part = |name: &str| {
            let part = self.kwargs.get(name).cloned();
            part.ok_or_else(|| format!("it is a chord without a {name}"))
        };
        Ok(Parts {
            header: part("header")?,
            body: part("body")?,
        })
    }

    fn set(&mut self, name: &str, value: Box<RawValue>) {
        self.kwargs.insert(name.to_owned(), value);
    }
}

/// A group in front of another step waits for all its members: it is the header of a chord.
fn with_chords(steps: Vec<Box<RawValue>>) -> Result<Vec<Box<RawValue>>, String> {
    let mut whole: Vec<Box<RawValue>> = Vec::with_capacity(steps.len());
    for step in steps {
        match whole.pop() {
            Some(last) if read(&last)?.kind() == Kind::Group => whole.push(chord(last, step)),
            Some(last) => whole.extend([last, step]),
            None => whole.push(step),
        }
    }
    Ok(whole)
}

fn chord(header: Box<RawValue>, body: Box<RawValue>) -> Box<RawValue> {
    Signature {
        task: "celery.chord".into(),
        subtask_type: Some("chord".into()),
        kwargs: [("header".to_owned(), header), ("body".to_owned(), body)].into(),
        ..Signature::default()
    }
    .encode()
}

/// The members of a group, those of the groups among them in their places.
fn flatten(
    members: Vec<Box<RawValue>>,
    flat: &mut Vec<Box<RawValue>>,
    depth: usize,
) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
    for raw in members {
        let member = read(&raw)?;
        match member.kind() == Kind::Group && member.options.chain.is_empty() {
            true => {
                let mut inner = member.steps()?;
                hand_down_errors(&member, &mut inner)?;
                flatten(inner, flat, depth)?;
            }
            false => flat.push(raw),
        }
    }
    Ok(())
}

/// The callbacks of a chain go with its last step, the errbacks with each.
fn hand_down(chain: &Signature, steps: &mut [Box<RawValue>]) -> Result<(), String> {
    if let (false, Some(last)) = (chain.options.link.is_empty(), steps.last_mut()) {
        let mut step = read(last)?;
        step.options.link.0.extend(chain.options.link.0.clone());
        *last = step.encode();
    }
    hand_down_errors(chain, steps)
}

fn hand_down_errors(whole: &Signature, parts: &mut [Box<RawValue>]) -> Result<(), String> {
    let errbacks = &whole.options.link_error.0;
    if errbacks.is_empty() {
        return Ok(());
    }
    for raw in parts {
        let mut part = read(raw)?;
        part.options.link_error.0.extend(errbacks.clone());
        *raw = part.encode();
    }
    Ok(())
}

fn read(raw: &RawValue) -> Result<Signature, String> {
    Signature::decode(raw).map_err(text)
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: serde_json::Error) -> String {
    error.to_string()
}

#[cfg(test)]
#[path = "canvas_tests.rs"]
mod tests;
