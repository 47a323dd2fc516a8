//! Chords of Celery's: their members are counted in Redis, and who brings the last part sends the body.
//!
//! A chord with the header `<group>` has these keys, `celery-taskset-meta-<group>` and then: `.s`, how many members
//! it has; `.t`, how many were added since; `.j`, the sorted set of their results; `.d`, who has brought one; `.c`,
//! who is sending the body, or `done`. Celery has the last two since 5.7; with them a part counts once, however
//! often its member is delivered. The key without an ending is there where groups are among the members.

use std::time::Duration;

use redis::Script;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use super::{PAUSE, ResultStore, key};
use crate::error::{Error, Result};
use crate::reply::Reply;

/// What stands before a group's id in the keys of its chord.
const GROUP: &str = "celery-taskset-meta-";
/// How long who brings the last part may take to send the body before another may. Celery takes 6 s and more.
const CLAIM: Duration = Duration::from_secs(10);
/// How long to wait for another who is sending the body, and may have died over it.
const OTHERS: Duration = Duration::from_secs(40);
/// How long it is known that a body was sent, as in Celery.
const DONE: Duration = Duration::from_secs(300);
/// How long to look for the results of members that are kept one by one.
const SETTLING: Duration = Duration::from_secs(3);

/// Takes a part, and the claim to send the body where it was the last one. Celery's own script, but for the
/// first condition: Celery before 5.7 leaves our `.d` behind when it clears a chord.
const PART: &str = r"
local jkey, tkey, skey, dkey, gkey, ckey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local tid, value, score, expires = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('GET', ckey) == 'done' then
    return 'over'
end
if redis.call('EXISTS', jkey) == 0 then
    redis.call('DEL', dkey)
end
local member = tid .. ':' .. score
if redis.call('SISMEMBER', dkey, member) == 0 then
    redis.call('ZADD', jkey, score, value)
    redis.call('SADD', dkey, member)
end
if expires > 0 then
    for _, key in ipairs({jkey, tkey, skey, dkey, gkey}) do
        redis.call('EXPIRE', key, expires)
    end
end
local size = redis.call('GET', skey)
if not size then
    return 'unknown'
end
local count = redis.call('ZCOUNT', jkey, '-inf', '+inf')
if count ~= tonumber(size) + tonumber(redis.call('GET', tkey) or 0) then
    return 'waiting'
end
if redis.call('SET', ckey, ARGV[6], 'NX', 'EX', ARGV[5]) then
    return 'claimed'
end
return 'taken'
";

/// Ends a claim: with `1` the chord is over, with `0` another may claim it.
const END: &str = r"
if redis.call('GET', KEYS[6]) ~= ARGV[1] then
    return 0
end
if ARGV[2] == '1' then
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
    redis.call('SET', KEYS[6], 'done', 'EX', ARGV[3])
else
    redis.call('DEL', KEYS[6])
end
return 1
";

/// The right to send a chord's body, for a while.
pub(crate) struct Claim {
    group: String,
    token: String,
}

/// A chord whose members are all done.
pub(crate) struct Complete {
    pub(crate) claim: Claim,
    /// The list of their results, or which of them has failed, in Celery's words.
    pub(crate) results: Result<Box<RawValue>, String>,
}

impl ResultStore {
    /// Keeps the ids of a group's members, for Python's `GroupResult.restore`.
    ///
    /// # Errors
    /// [`Error::Refused`], also where Redis cannot be reached: nothing waits for it.
    pub(crate) async fn keep_group(&self, group: &str, members: &Value) -> Result<()> {
        let key = format!("{GROUP}{group}");
        let body = serde_json::json!({ "result": members }).to_string();
        let mut keep = redis::pipe();
        match self.0.expires.as_secs() {
            0 => keep.set(&key, body),
            expires => keep.set_ex(&key, body, expires),
        };
        let mut redis = self.0.redis.clone();
        let kept = keep.exec_async(&mut redis).await;
        kept.map_err(|error| self.refused(&format!("the members of group `{group}`"), &error))
    }

    /// Says how many members a chord has, before they are sent.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep).
    pub(crate) async fn begin_chord(&self, group: &str, size: u32) -> Result<()> {
        let what = format!("the size of chord `{group}`");
        let [_, _, size_key, _, _, claim] = keys(group);
        let mut begin = redis::pipe();
        begin.atomic().del(&claim).ignore();
        match self.0.expires.as_secs() {
            0 => begin.set(&size_key, size).ignore(),
            expires => begin.set_ex(&size_key, size, expires).ignore(),
        };
        let begin = &begin;
        let ask = |mut redis| async move { begin.exec_async(&mut redis).await };
        self.patiently(&what, ask).await
    }

    /// Brings what a member of the chord `group` has come to; it counts once. Returns the results of all
    /// where it was the last one, and nobody else is sending the body.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep); [`Error::Unavailable`] also where somebody else is long in sending the body.
    pub(crate) async fn add_part(
        &self,
        group: &str,
        index: Option<u64>,
        reply: &Reply,
    ) -> Result<Option<Complete>> {
        let what = format!("the part of chord `{group}` that is call `{}`", reply.id);
        let (state, value) = reply.state();
        let part = serde_json::to_string(&(1, &reply.id, state, value)).map_err(|error| {
            Error::Refused {
                what: what.clone(),
                reason: error.to_string(),
            }
        })?;
        let token = uuid::Uuid::new_v4().simple().to_string();
        let score = index.map_or_else(|| "+inf".to_owned(), |index| index.to_string());
        let script = Script::new(PART);
        let mut invocation = script.prepare_invoke();
        for key in keys(group) {
            invocation.key(key);
        }
        invocation.arg(&reply.id).arg(&part).arg(score);
        invocation.arg(self.0.expires.as_secs());
        invocation.arg(CLAIM.as_secs()).arg(&token);
        let invocation = &invocation;
        let patience = Instant::now() + OTHERS;
        loop {
            let ask =
                |mut redis| async move { invocation.invoke_async::<String>(&mut redis).await };
            let state = self.patiently(&what, ask).await?;
            match state.as_str() {
                "claimed" => {
                    let group = group.to_owned();
                    let claim = Claim { group, token };
                    let results = self.collect(&claim.group).await?;
                    return Ok(Some(Complete { claim, results }));
                }
                // It may have died over it.
                "taken" if Instant::now() < patience => sleep(PAUSE).await,
                "taken" => {
                    return Err(Error::Unavailable {
                        what,
                        waited: OTHERS,
                        reason: "another worker is sending its body".into(),
                    });
                }
                state => {
                    tracing::debug!(group, id = reply.id, state, "a chord has a part");
                    return Ok(None);
                }
            }
        }
    }

    /// Ends a claim: the body `is_sent`, or another may try.
    pub(crate) async fn end_chord(&self, claim: &Claim, is_sent: bool) {
        let mut redis = self.0.redis.clone();
        let script = Script::new(END);
        let mut invocation = script.prepare_invoke();
        for key in keys(&claim.group) {
            invocation.key(key);
        }
        invocation.arg(&claim.token).arg(u8::from(is_sent));
        invocation.arg(DONE.as_secs());
        if let Err(error) = invocation.invoke_async::<i64>(&mut redis).await {
            tracing::warn!(
                group = claim.group,
                "the chord is not cleared, so it is kept until it expires: {error}"
            );
        }
    }

    /// The results of all members, in their order.
    async fn collect(&self, group: &str) -> Result<Result<Box<RawValue>, String>> {
        let [parts, _, _, _, header, _] = keys(group);
        let what = format!("the results of chord `{group}`");
        let mut both = redis::pipe();
        both.atomic().zrange(&parts, 0, -1).get(&header);
        let both = &both;
        let ask = |mut redis| async move {
            both.query_async::<(Vec<Vec<u8>>, Option<Vec<u8>>)>(&mut redis)
                .await
        };
        let (parts, header) = self.patiently(&what, ask).await?;
        Ok(match header {
            Some(header) => self.join(&header).await?,
            None => list(&parts),
        })
    }

    /// The results of a header with groups in it: a list with lists, as `header` says.
    async fn join(&self, header: &[u8]) -> Result<Result<Box<RawValue>, String>> {
        let tree = serde_json::from_slice(header)
            .ok()
            .and_then(|header: Value| Tree::of(header.get("result")?));
        let Some(tree) = tree else {
            return Ok(Err("Join error: the chord's header cannot be read".into()));
        };
        let mut ids = Vec::new();
        tree.ids(&mut ids);
        let mut all = redis::cmd("MGET");
        for id in &ids {
            all.arg(key(id));
        }
        let all = &all;
        let what = "the results of a chord's members";
        let patience = Instant::now() + SETTLING;
        loop {
            let ask = |mut redis| async move {
                all.query_async::<Vec<Option<Vec<u8>>>>(&mut redis).await
            };
            let kept = self.patiently(what, ask).await?;
            let mut results = Vec::with_capacity(ids.len());
            for body in kept {
                let read: Option<Kept> = body.and_then(|body| serde_json::from_slice(&body).ok());
                match read {
                    Some(kept) if has_failed(&kept.status) => {
                        return Ok(Err(format!(
                            "Join error: {}",
                            exception(kept.result.as_deref())
                        )));
                    }
                    Some(kept) if kept.status == "SUCCESS" => {
                        results.push(
                            kept.result
                                .map_or("null".into(), |raw| raw.get().to_owned()),
                        );
                    }
                    _ => break,
                }
            }
            if results.len() == ids.len() {
                let text = tree.fill(&mut results.into_iter());
                return Ok(
                    RawValue::from_string(text).map_err(|error| format!("Join error: {error}"))
                );
            }
            if Instant::now() >= patience {
                return Ok(Err(
                    "Join error: TimeoutError('The operation timed out.')".into()
                ));
            }
            sleep(PAUSE).await;
        }
    }
}

#[derive(serde::Deserialize)]
struct Kept {
    status: String,
    result: Option<Box<RawValue>>,
}

/// The ids of a header, as Celery keeps a `GroupResult`.
enum Tree {
    One(String),
    Several(Vec<Tree>),
}

impl Tree {
    fn of(value: &Value) -> Option<Self> {
        // A call is `[[id, parent], null]`, a group `[[id, parent], [member, …]]`; either may be its id alone.
        if let Value::String(id) = value {
            return Some(Self::One(id.clone()));
        }
        let id = value.get(0).and_then(|head| match head {
            Value::String(id) => Some(id),
            head => match head.get(0)? {
                Value::String(id) => Some(id),
                _ => None,
            },
        })?;
        match value.get(1) {
            Some(Value::Array(members)) => {
                let members: Option<_> = members.iter().map(Self::of).collect();
                Some(Self::Several(members?))
            }
            _ => Some(Self::One(id.clone())),
        }
    }

    fn ids(&self, ids: &mut Vec<String>) {
        match self {
            Self::One(id) => ids.push(id.clone()),
            Self::Several(members) => members.iter().for_each(|member| member.ids(ids)),
        }
    }

    fn fill(&self, results: &mut dyn Iterator<Item = String>) -> String {
        match self {
            Self::One(_) => results.next().unwrap_or_else(|| "null".into()),
            Self::Several(members) => {
                let filled: Vec<_> = members.iter().map(|member| member.fill(results)).collect();
                format!("[{}]", filled.join(","))
            }
        }
    }
}

/// The list of results, each a part `[1, id, state, result]`.
fn list(parts: &[Vec<u8>]) -> Result<Box<RawValue>, String> {
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        let (_, id, state, result): (Value, String, String, Box<RawValue>) =
            serde_json::from_slice(part).map_err(|error| format!("Join error: {error}"))?;
        if has_failed(&state) {
            let exception = exception(Some(&result));
            return Err(format!("Dependency {id} raised {exception}"));
        }
        results.push(result);
    }
    serde_json::value::to_raw_value(&results).map_err(|error| format!("Join error: {error}"))
}

fn has_failed(state: &str) -> bool {
    matches!(state, "FAILURE" | "REVOKED")
}

/// An exception as Python writes it.
fn exception(result: Option<&RawValue>) -> String {
    let result: Value = result
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    let name = result["exc_type"].as_str().unwrap_or("Exception");
    let arguments = match &result["exc_message"] {
        Value::Array(arguments) => arguments.iter().map(python).collect::<Vec<_>>().join(", "),
        other => python(other),
    };
    format!("{name}({arguments})")
}

fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::String(text) if text.contains('\'') && !text.contains('"') => format!("\"{text}\""),
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        other => other.to_string(),
    }
}

/// `.j`, `.t`, `.s`, `.d`, the header's own, `.c`.
fn keys(group: &str) -> [String; 6] {
    [".j", ".t", ".s", ".d", "", ".c"].map(|end| format!("{GROUP}{group}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(parts: &[&str]) -> Result<String, String> {
        let parts: Vec<_> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
        list(&parts).map(|raw| raw.get().to_owned())
    }

    #[test]
    fn results_are_listed_and_the_first_failure_is_told_in_pythons_words() {
        let parts = [r#"[1,"a","SUCCESS",{"x": 1}]"#, r#"[1,"b","SUCCESS",null]"#];
        assert_eq!(listed(&parts), Ok(r#"[{"x": 1},null]"#.into()));
        let failed = r#"[1,"c","FAILURE",{"exc_type":"ValueError","exc_message":["it's", 7],"exc_module":"builtins"}]"#;
        let said = r#"Dependency c raised ValueError("it's", 7)"#;
        assert_eq!(listed(&[parts[0], failed]), Err(said.into()));
        assert!(
            listed(&["no JSON"])
                .expect_err("unreadable")
                .starts_with("Join error")
        );
    }

    #[test]
    fn a_header_with_groups_has_its_results_in_lists() {
        let kept = serde_json::json!([
            ["g", null],
            [
                [["a", ["p", null]], null],
                [["h", null], [[["b", null], null], [["c", null], null]]]
            ]
        ]);
        let tree = Tree::of(&kept).expect("a header");
        let mut ids = Vec::new();
        tree.ids(&mut ids);
        assert_eq!(ids, ["a", "b", "c"]);
        let mut results = ["1", "2", "3"].map(String::from).into_iter();
        assert_eq!(tree.fill(&mut results), "[1,[2,3]]");
        assert!(Tree::of(&serde_json::json!({"a": 1})).is_none());
    }
}
