//! Sends workflows, or the parts of them that can be sent at once.

use futures_util::stream::{self, TryStreamExt};
use serde_json::value::RawValue;

use super::freeze::{Expected, Frozen, freeze};
use super::node::Node;
use super::plan::Plan;
use crate::app::App;
use crate::awaited::Awaited;
use crate::broker::{Join, Publish, Queue, Route};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::message::{Following, Message, Signature};

/// Calls that are under way at a time, so that their confirms are awaited together.
const WINDOW: usize = 512;

/// Freezes and sends a workflow.
pub(super) async fn send<T>(
    node: Node,
    coordinator: Option<Queue>,
    app: &App,
) -> Result<Handle<T>> {
    let reply_to = app.reply_address().await?;
    let frozen = freeze(node, coordinator, app.prefix(), reply_to, app.now())?;
    let Frozen {
        plan,
        ids,
        expected,
        gates,
        queues,
        task,
        delay,
    } = frozen;
    let id = match &expected {
        Expected::One(id) | Expected::Nothing(id) => id.clone(),
        Expected::Many { .. } => crate::id::new_id(),
    };
    #[cfg(feature = "redis")]
    if let (Some(results), Expected::Many { .. }) = (app.results(), &expected)
        && let Err(error) = results.keep_group(&id, &as_celery(&id, &expected)).await
    {
        tracing::warn!(id, "Python cannot restore the group: {error}");
    }
    let mut awaited = awaited(expected, app)?;
    if !gates.is_empty() {
        let gates = gates.iter().map(|id| app.await_reply(id));
        awaited = Awaited::Gated {
            gates: gates.collect::<Result<_>>()?,
            then: Box::new(awaited),
        };
    }
    for queue in &queues {
        app.declare(queue.clone()).await?;
    }
    let root = ids.first().map(String::as_str);
    app.launch(plan, None, root).await?;
    #[cfg(feature = "redis")]
    awaited.for_each(&|waiting| app.follow(Some(waiting)));
    let due = app.now().checked_add(delay).filter(|_| !delay.is_zero());
    Ok(Handle::of_workflow(id, task, ids, app.clone(), awaited).due(due))
}

/// As Celery writes the ids of a group and its members.
#[cfg(feature = "redis")]
fn as_celery(id: &str, expected: &Expected) -> serde_json::Value {
    let members = match expected {
        Expected::Nothing(id) | Expected::One(id) => return serde_json::json!([[id, null], null]),
        Expected::Many { members, .. } => members,
    };
    let inner = || crate::id::new_id();
    let members: Vec<_> = members
        .iter()
        .map(|member| as_celery(&inner(), member))
        .collect();
    serde_json::json!([[id, null], members])
}

fn awaited(expected: Expected, app: &App) -> Result<Awaited> {
    Ok(match expected {
        Expected::Nothing(_) => Awaited::Nothing,
        Expected::One(id) => Awaited::One(app.await_reply(&id)?),
        Expected::Many { members, collected } => {
            let members = members.into_iter().map(|member| awaited(member, app));
            Awaited::Many {
                members: members.collect::<Result<_>>()?,
                collected,
            }
        }
    })
}

impl App {
    /// Opens the plan's joins and sends its calls, each with `input` as its first argument. They are children
    /// of the app's origin if there is one, and otherwise begin with the call `root`.
    pub(crate) async fn launch(
        &self,
        plan: Plan,
        input: Option<&RawValue>,
        root: Option<&str>,
    ) -> Result<()> {
        let prepare = |signature, input| self.prepare(signature, input, root);
        let mut joins = Vec::with_capacity(plan.joins.len());
        for planned in plan.joins {
            let mut body = prepare(planned.body, None)?;
            // It is due so long after the join has fired, which nobody knows yet.
            body.message.set("eta", serde_json::Value::Null);
            joins.push(Join {
                name: planned.name,
                parts: planned.parts,
                body,
            });
        }
        let calls: Vec<Publish> = plan
            .calls
            .into_iter()
            .map(|call| prepare(call, input))
            .collect::<Result<_>>()?;
        stream::iter(joins.into_iter().map(Ok::<_, Error>))
            .try_for_each_concurrent(WINDOW, |join| self.open_join(join))
            .await?;
        stream::iter(calls.into_iter().map(Ok::<_, Error>))
            .try_for_each_concurrent(WINDOW, |call| self.publish_call(call))
            .await
    }

    fn prepare(
        &self,
        signature: Signature,
        input: Option<&RawValue>,
        root: Option<&str>,
    ) -> Result<Publish> {
        let queue = signature
            .options
            .queue_name()
            .unwrap_or_default()
            .to_owned();
        let Following { mut message, delay } = signature.message(input, Vec::new(), self.now());
        if let Some(root) = root {
            message.set("root_id", root);
        }
        self.check(&mut message)
            .map_err(|error| name_workflow(error, &message))?;
        Ok(Publish {
            route: Route::Queue(queue),
            message,
            delay,
            deadline: self.send_timeout(),
        })
    }

    async fn open_join(&self, join: Join) -> Result<()> {
        match self.broker().open_join(join.clone()).await {
            Err(Error::Unroutable { .. }) => {
                self.declare_anew(&join.body.route).await?;
                self.broker().open_join(join).await
            }
            outcome => outcome,
        }
    }

    async fn publish_call(&self, call: Publish) -> Result<()> {
        match self.broker().publish(call.clone()).await {
            Err(Error::Unroutable { .. }) => {
                self.declare_anew(&call.route).await?;
                self.broker().publish(call).await
            }
            outcome => outcome,
        }
    }
}

/// A message of a workflow is large for what follows it rather than for its own arguments.
fn name_workflow(error: Error, message: &Message) -> Error {
    match error {
        Error::TooLarge { size, limit, .. } => Error::TooLarge {
            task: format!(
                "{}` (with the workflow that follows it) `{}",
                message.text("task").unwrap_or_default(),
                message.id
            ),
            size,
            limit,
        },
        other => other,
    }
}
