//! From a tree of calls to what goes over the wire: every call gets its id, what follows it, and whom it tells.
//! Does no I/O; time is an argument.
//!
//! A call carries its successors with it, as Celery's `chain`. A group in the middle is the call of a built-in
//! task, [`EXPAND`], that sends its members; what follows a group is the body of a join, parked in the broker
//! before the members are sent. Foreign tasks cannot be bodies, nor members of a join at their end: there the
//! built-in task [`COLLECT`] stands before or behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use super::builtin::{COLLECT, EXPAND, MEMBER_FAILED};
use super::node::{Item, Link, Members, Node};
use super::plan::{Plan, PlannedJoin};
use crate::broker::{JOIN_KEPT, Queue, check_parts};
use crate::error::{Error, Result};
use crate::message::{Joined, Part, Signature, Signatures, header};
use crate::options::Due;
use crate::step::Step;

/// A workflow that is ready to be sent.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) plan: Plan,
    /// Of all calls, the first one's first.
    pub(super) ids: Vec<String>,
    pub(super) expected: Expected,
    /// Calls that reply for the whole if they fail, and else say nothing.
    pub(super) gates: Vec<String>,
    /// The queues that its calls go to, as the app names them.
    pub(super) queues: Vec<Queue>,
    /// What the last call's task is called.
    pub(super) task: String,
    /// How long all of its calls are delayed together: none is due later than this after being sent.
    pub(super) delay: Duration,
}

/// Whose replies make up the result.
#[derive(Debug, PartialEq)]
pub(super) enum Expected {
    /// Nobody's: the last call is sent with `ignore_result`.
    Nothing(String),
    /// One call's.
    One(String),
    /// Those of a group's members.
    Many { members: Vec<Self>, collected: u32 },
}

/// What a part of a workflow does at its end.
#[derive(Debug)]
enum Finish {
    /// Replies to who awaits it.
    Reply,
    /// Nothing.
    Nothing,
    /// Tells a join.
    Join { part: Part },
}

/// Freezes `node` `now`. Names begin with the app's `prefix`; replies go to `reply_to`.
pub(super) fn freeze(
    node: Node,
    coordinator: Option<Queue>,
    prefix: &str,
    reply_to: &str,
    now: SystemTime,
) -> Result<Frozen> {
    node.due(now, None, false)?;
    let mut freezer = Freezer {
        prefix,
        reply_to,
        now,
        anywhere: node.queue_of_ours().cloned(),
        coordinator,
        nearest: Vec::new(),
        ids: Vec::new(),
        known: BTreeSet::new(),
        gates: Vec::new(),
        queues: BTreeMap::new(),
        callbacks: Vec::new(),
        task: String::new(),
        delay: Duration::ZERO,
    };
    let links = freezer.flatten(node)?;
    let mut plan = Plan::default();
    let expected = freezer.start(links, &Finish::Reply, &mut plan)?;
    Ok(Frozen {
        plan,
        ids: freezer.ids,
        expected,
        gates: freezer.gates,
        queues: freezer.queues.into_values().collect(),
        task: freezer.task,
        delay: freezer.delay,
    })
}

struct Freezer<'a> {
    prefix: &'a str,
    reply_to: &'a str,
    now: SystemTime,
    /// Where the user wants that to be done which is between the calls.
    coordinator: Option<Queue>,
    /// Queues of tasks of ours, for the groups that are being frozen, the innermost last.
    nearest: Vec<Queue>,
    /// The queue of any task of ours in the whole workflow.
    anywhere: Option<Queue>,
    ids: Vec<String>,
    /// The ids of all calls, those of callbacks too.
    known: BTreeSet<String>,
    gates: Vec<String>,
    queues: BTreeMap<String, Queue>,
    callbacks: Vec<Box<RawValue>>,
    task: String,
    delay: Duration,
}

impl Freezer<'_> {
    /// Makes chains in chains one chain.
    fn flatten(&mut self, node: Node) -> Result<Vec<Link>> {
        let link = |item| Link {
            item,
            watchers: Vec::new(),
        };
        Ok(match node {
            Node::Call(step) => vec![link(Item::Call(step))],
            Node::Group(members) => vec![link(Item::Group(members))],
            Node::Chain(nodes) => {
                let mut links = Vec::with_capacity(nodes.len());
                for node in nodes {
                    links.extend(self.flatten(node)?);
                }
                links
            }
            Node::Coordinated { node, .. } => self.flatten(*node)?,
            Node::Watched { node, callback } => {
                let mut links = self.flatten(*node)?;
                // Somebody must be there to say it once that a member has failed.
                if matches!(links.last(), Some(Link { item: Item::Group(members), .. }) if !members.nodes.is_empty())
                {
                    links.push(link(Item::Call(Box::new(collect()))));
                }
                let watcher = self.callback(*callback)?;
                for link in &mut links {
                    link.watchers.push(watcher);
                }
                links
            }
        })
    }

    /// Freezes what is sent on a failure. It is no part of what a handle cancels.
    fn callback(&mut self, node: Node) -> Result<usize> {
        let known = self.ids.len();
        let links = self.flatten(node)?;
        let mut chain = self.chain(links, &Finish::Nothing)?.0;
        let mut first = chain.remove(0);
        if !first.immutable {
            let headers = first.options.headers.get_or_insert_default();
            headers.insert(header::INPUT.into(), "failure".into());
        }
        first.options.chain = reversed(&chain);
        self.ids.truncate(known);
        self.callbacks.push(first.encode());
        Ok(self.callbacks.len() - 1)
    }

    /// Adds to `plan` what begins `links`.
    fn start(&mut self, links: Vec<Link>, finish: &Finish, plan: &mut Plan) -> Result<Expected> {
        if let (Finish::Reply | Finish::Nothing, [link]) = (finish, &*links)
            && let Item::Group(Members { nodes, collected }) = &link.item
            && nodes.is_empty()
        {
            let (members, collected) = (Vec::new(), *collected);
            return Ok(Expected::Many { members, collected });
        }
        let mut links = without_empty_groups(links).into_iter();
        match links.next() {
            Some(Link {
                item: Item::Group(members),
                watchers,
            }) => self.group(members, &watchers, links.collect(), finish, plan),
            first => {
                let links = first.into_iter().chain(links).collect();
                let (mut chain, expected) = self.chain(links, finish)?;
                let mut first = chain.remove(0);
                first.options.chain = reversed(&chain);
                plan.calls.push(first);
                Ok(expected)
            }
        }
    }

    /// The calls that follow each other, in this order; never none.
    fn chain(&mut self, links: Vec<Link>, finish: &Finish) -> Result<(Vec<Signature>, Expected)> {
        let mut links = without_empty_groups(links);
        if let Finish::Join { .. } = finish
            && links.last().is_some_and(Link::is_foreign)
        {
            links.push(Link::of(collect()));
        }
        let mut links = links.into_iter();
        let (mut chain, mut foreign) = (Vec::new(), Vec::new());
        let mut expected = Expected::Nothing(String::new());
        while let Some(Link { item, watchers }) = links.next() {
            let mut signature = match item {
                Item::Call(step) => {
                    if !step.is_ours {
                        foreign.push(chain.len());
                    }
                    let is_last = links.len() == 0;
                    let ignores = step.options.ignore_result;
                    let mut signature = self.call(*step)?;
                    if is_last {
                        expected = self.finish(&mut signature, finish, ignores);
                    }
                    signature
                }
                Item::Group(members) => {
                    let mut signature = self.call(built_in(EXPAND))?;
                    let mut plan = Plan::default();
                    let rest = links.by_ref().collect();
                    expected = self.group(members, &watchers, rest, finish, &mut plan)?;
                    let plan = serde_json::value::to_raw_value(&plan);
                    signature.args = vec![plan.map_err(|e| Error::broker("freezing a group", e))?];
                    self.gate(&mut signature, finish, &expected);
                    signature
                }
            };
            let watchers = watchers.into_iter().map(|n| self.callbacks[n].clone());
            signature.options.link_error.0.extend(watchers);
            chain.push(signature);
        }
        if let (Finish::Join { part }, Expected::One(member)) = (finish, &expected) {
            for n in foreign {
                let report = self.report(part, member)?;
                chain[n].options.link_error.0.push(report);
            }
        }
        Ok((chain, expected))
    }

    /// Adds to `plan` a group and what follows it. The body fails with the group, so it must have the group's
    /// own watchers.
    fn group(
        &mut self,
        members: Members,
        watchers: &[usize],
        mut rest: Vec<Link>,
        finish: &Finish,
        plan: &mut Plan,
    ) -> Result<Expected> {
        let Members { nodes, collected } = members;
        let near = nodes.iter().find_map(Node::queue_of_ours);
        let near = near.or_else(|| rest.iter().find_map(Link::queue_of_ours));
        self.nearest.extend(near.cloned());
        let scope = near.is_some();
        let expected = if rest.is_empty() && !matches!(finish, Finish::Join { .. }) {
            let mut members = Vec::with_capacity(nodes.len());
            for node in nodes {
                let links = self.flatten(node)?;
                members.push(self.start(links, finish, plan)?);
            }
            Expected::Many { members, collected }
        } else {
            let fits = |link: &Link| link.can_be_body() && link.watchers == watchers;
            if !rest.first().is_some_and(fits) {
                let link = Link {
                    watchers: watchers.to_vec(),
                    ..Link::of(collect())
                };
                rest.insert(0, link);
            }
            check_parts(nodes.len())?;
            let part = Part {
                join: format!("{}garenne.join.{}", self.prefix, uuid::Uuid::new_v4()),
                parts: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
                fail_fast: collected == 0,
            };
            let finish_member = Finish::Join { part: part.clone() };
            let mut members = Vec::with_capacity(nodes.len());
            for node in nodes {
                let links = self.flatten(node)?;
                match self.start(links, &finish_member, plan)? {
                    Expected::One(id) | Expected::Nothing(id) => members.push(id),
                    Expected::Many { .. } => unreachable!("what tells a join is one call"),
                }
            }
            let (mut chain, expected) = self.chain(rest, finish)?;
            let mut body = chain.remove(0);
            body.options.chain = reversed(&chain);
            body.options.garenne_join = Some(Joined {
                join: part.join.clone(),
                members,
                collected,
                immutable: body.immutable,
            });
            plan.joins.push(PlannedJoin {
                name: part.join,
                parts: part.parts,
                body,
            });
            expected
        };
        if scope {
            self.nearest.pop();
        }
        Ok(expected)
    }

    fn call(&mut self, mut step: Step) -> Result<Signature> {
        if step.task.starts_with("garenne.") {
            step.options.queue = self.coordinator(&step.task)?;
        } else {
            self.task.clone_from(&step.task);
        }
        self.delay = self.delay.saturating_add(step.options.delay(self.now));
        let queue = step.choose_queue();
        let signature = step.freeze(self.prefix, self.now)?;
        match self.queues.get(queue.name()) {
            Some(known) if !known.must_exist => {}
            _ => drop(self.queues.insert(queue.name().to_owned(), queue)),
        }
        let id = id_of(&signature);
        if !self.known.insert(id.clone()) {
            let reason = "two calls of the workflow have it, whose results nobody could tell apart";
            return Err(Error::invalid("call id", id, reason));
        }
        self.ids.push(id);
        Ok(signature)
    }

    /// Where workers of ours take calls from.
    fn coordinator(&self, task: &str) -> Result<Queue> {
        let nearest = self.nearest.last().or(self.anywhere.as_ref());
        self.coordinator.as_ref().or(nearest).cloned().ok_or_else(|| {
            let reason = "none of its tasks is this binary's, so it is not known where workers are that \
                          know how to go on between its calls: name their queue with `.coordinate_on(…)`";
            Error::invalid("workflow", task, reason)
        })
    }

    /// What the last call does at its end.
    fn finish(&self, signature: &mut Signature, finish: &Finish, ignores: bool) -> Expected {
        let id = id_of(signature);
        match finish {
            Finish::Reply if ignores => {
                signature.options.ignore_result = Some(true);
                Expected::Nothing(id)
            }
            Finish::Nothing => Expected::Nothing(id),
            Finish::Reply => {
                signature.options.reply_to = Some(self.reply_to.to_owned());
                Expected::One(id)
            }
            Finish::Join { part } => {
                tell(signature, part);
                Expected::One(id)
            }
        }
    }

    /// What a call that only fans out does if it fails, or if what is before it fails.
    fn gate(&mut self, signature: &mut Signature, finish: &Finish, expected: &Expected) {
        match (finish, expected) {
            (Finish::Reply, Expected::One(_) | Expected::Many { .. }) => {
                signature.options.reply_to = Some(self.reply_to.to_owned());
                self.gates.push(id_of(signature));
            }
            (Finish::Join { part }, Expected::One(member)) => {
                tell(signature, part);
                signature.options.correlation_id = Some(member.clone());
            }
            _ => {}
        }
    }

    /// What a foreign worker sends when a call fails that a join waits for.
    fn report(&mut self, part: &Part, member: &str) -> Result<Box<RawValue>> {
        let mut step = built_in(MEMBER_FAILED);
        step.arg(&part)?;
        step.arg(&member)?;
        let known = self.ids.len();
        let report = self.call(step)?.encode();
        self.ids.truncate(known);
        Ok(report)
    }
}

/// Has the call tell a join. What Python's workers send on its behalf, as a reply, goes there, too.
fn tell(signature: &mut Signature, part: &Part) {
    let headers = signature.options.headers.get_or_insert_default();
    headers.insert(header::JOIN.into(), part.encode().into());
    signature.options.reply_to = Some(part.join.clone());
}

fn id_of(signature: &Signature) -> String {
    signature.options.task_id.clone().unwrap_or_default()
}

fn reversed(chain: &[Signature]) -> Signatures {
    Signatures(chain.iter().rev().map(Signature::encode).collect())
}

fn built_in(task: &str) -> Step {
    let mut step = Step::named(task.to_owned());
    step.takes_input = true;
    step.is_ours = true;
    step
}

fn collect() -> Step {
    built_in(COLLECT)
}

/// Replaces groups without members by their result, `[]`.
fn without_empty_groups(links: Vec<Link>) -> Vec<Link> {
    let mut full: Vec<Link> = Vec::with_capacity(links.len());
    let mut links = links.into_iter().peekable();
    while let Some(link) = links.next() {
        let is_empty = matches!(&link.item, Item::Group(members) if members.nodes.is_empty());
        match links.peek_mut() {
            _ if !is_empty => full.push(link),
            Some(Link {
                item: Item::Call(step),
                ..
            }) => step.bind_empty_list(),
            _ => {
                let mut step = collect();
                step.bind_empty_list();
                full.push(Link {
                    item: Item::Call(Box::new(step)),
                    ..link
                });
            }
        }
    }
    full
}

impl Link {
    fn of(step: Step) -> Self {
        Self {
            item: Item::Call(Box::new(step)),
            watchers: Vec::new(),
        }
    }

    fn is_foreign(&self) -> bool {
        matches!(&self.item, Item::Call(step) if !step.is_ours)
    }

    /// Whether a join can have it for its body: it must be a call of ours, none of its times must count from the
    /// join's opening, and the results must not wait for it too long.
    fn can_be_body(&self) -> bool {
        match &self.item {
            Item::Call(step) => {
                let options = &step.options;
                let fits = match options.due {
                    Due::Now => true,
                    Due::In(countdown) => countdown < JOIN_KEPT / 2,
                    Due::At(_) => false,
                };
                step.is_ours && fits && options.expires.is_none() && options.deadline.is_none()
            }
            Item::Group(members) => !members.nodes.is_empty(),
        }
    }

    fn queue_of_ours(&self) -> Option<&Queue> {
        match &self.item {
            Item::Call(step) => step.queue_of_ours(),
            Item::Group(members) => members.nodes.iter().find_map(Node::queue_of_ours),
        }
    }
}

impl Node {
    /// A queue from which workers of ours take calls.
    fn queue_of_ours(&self) -> Option<&Queue> {
        match self {
            Self::Call(step) => step.queue_of_ours(),
            Self::Coordinated { queue, .. } => Some(queue),
            Self::Chain(nodes) | Self::Group(Members { nodes, .. }) => {
                nodes.iter().find_map(Self::queue_of_ours)
            }
            Self::Watched { node, callback } => {
                node.queue_of_ours().or_else(|| callback.queue_of_ours())
            }
        }
    }
}

#[cfg(test)]
mod tests;
