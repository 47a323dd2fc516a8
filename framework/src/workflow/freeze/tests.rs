use serde_json::{Value, json};

use super::*;

/// What is made for one app at one moment.
fn frozen(node: Node) -> Frozen {
    freeze(
        node,
        None,
        "app.",
        "garenne.reply.1",
        SystemTime::UNIX_EPOCH,
    )
    .expect("frozen")
}

fn refused(node: Node) -> String {
    let outcome = freeze(node, None, "", "r", SystemTime::UNIX_EPOCH);
    outcome.expect_err("refused").to_string()
}

/// A call of a task of ours; its id is its name.
fn call(task: &str) -> Node {
    let mut step = step(task);
    step.takes_input = false;
    Node::call(step)
}

fn partial(task: &str) -> Node {
    Node::call(step(task))
}

fn foreign(task: &str) -> Node {
    let mut step = step(task);
    step.is_ours = false;
    Node::call(step)
}

fn step(task: &str) -> Step {
    let mut step = Step::new(task.into(), "q");
    step.options.id = Some(task.into());
    step.takes_input = true;
    step.is_ours = true;
    step
}

/// The tasks of a chain, in the order in which they run.
fn tasks(signature: &Signature) -> Vec<String> {
    let mut chain: Vec<_> = followers(signature)
        .iter()
        .map(|next| next.task.clone())
        .collect();
    chain.insert(0, signature.task.clone());
    chain
}

fn followers(signature: &Signature) -> Vec<Signature> {
    let chain = signature.options.chain.0.iter().rev();
    chain
        .map(|raw| Signature::decode(raw).expect("a signature"))
        .collect()
}

fn plan_of(signature: &Signature) -> Plan {
    assert_eq!(signature.task, EXPAND);
    serde_json::from_str(signature.args[0].get()).expect("a plan")
}

fn part_of(signature: &Signature) -> Option<Part> {
    Part::of(signature.options.headers.as_ref()?)
}

#[test]
fn a_chain_is_its_first_call_with_the_others() {
    let chain = call("a")
        .then(partial("b").then(partial("c")))
        .then(partial("d"));
    let Frozen {
        plan,
        ids,
        expected,
        gates,
        queues,
        task,
        ..
    } = frozen(chain);
    assert_eq!(tasks(&plan.calls[0]), ["a", "b", "c", "d"]);
    assert_eq!((plan.calls.len(), plan.joins.len(), gates.len()), (1, 0, 0));
    assert_eq!(
        (ids, &*task),
        (["a", "b", "c", "d"].map(str::to_owned).into(), "d")
    );
    assert_eq!(expected, Expected::One("d".into()));
    assert_eq!(queues, [Queue::new("q")]);
    let first = &plan.calls[0];
    assert_eq!((&first.options.reply_to, first.immutable), (&None, true));
    let last = &followers(first)[2];
    assert_eq!(last.options.reply_to.as_deref(), Some("garenne.reply.1"));
    assert_eq!(
        (last.options.queue_name(), last.immutable),
        (Some("app.q"), false)
    );
}

#[test]
fn the_members_of_a_group_reply_each() {
    let group = Node::group(vec![
        call("a"),
        call("b").then(partial("c")),
        Node::group(vec![call("d"), Node::group(vec![])]).collected(),
    ]);
    let Frozen { plan, expected, .. } = frozen(group);
    assert!(plan.joins.is_empty());
    let starts: Vec<_> = plan.calls.iter().map(tasks).collect();
    assert_eq!(starts, [vec!["a"], vec!["b", "c"], vec!["d"]]);
    let one = |id: &str| Expected::One(id.to_owned());
    let nothing = Expected::Many {
        members: vec![],
        collected: 0,
    };
    let inner = Expected::Many {
        members: vec![one("d"), nothing],
        collected: 1,
    };
    assert_eq!(
        expected,
        Expected::Many {
            members: vec![one("a"), one("c"), inner],
            collected: 0
        }
    );
}

#[test]
fn what_follows_a_group_is_the_body_of_a_join() {
    let members = vec![call("a"), call("b").then(partial("c"))];
    let chord = Node::group(members)
        .then(partial("sum"))
        .then(partial("after"));
    let Frozen { plan, expected, .. } = frozen(chord);
    let [join] = &*plan.joins else {
        panic!("one join")
    };
    assert!(join.name.starts_with("app.garenne.join."), "{}", join.name);
    assert_eq!(
        (join.parts, tasks(&join.body)),
        (2, vec!["sum".to_owned(), "after".into()])
    );
    let joined = join
        .body
        .options
        .garenne_join
        .clone()
        .expect("what it joins");
    assert_eq!(
        joined,
        Joined {
            join: join.name.clone(),
            members: vec!["a".into(), "c".into()],
            collected: 0,
            immutable: false
        }
    );
    assert_eq!(expected, Expected::One("after".into()));
    let part = part_of(&plan.calls[0]).expect("a member");
    assert_eq!(
        part,
        Part {
            join: join.name.clone(),
            parts: 2,
            fail_fast: true
        }
    );
    assert_eq!(part_of(&plan.calls[1]), None, "only its last call is");
    assert_eq!(part_of(&followers(&plan.calls[1])[0]), Some(part));
}

#[test]
fn a_group_in_the_middle_is_sent_by_a_task_of_ours() {
    let middle = Node::group(vec![partial("b"), partial("c")]);
    let Frozen {
        plan,
        expected,
        gates,
        ids,
        ..
    } = frozen(call("a").then(middle).then(partial("d")));
    assert_eq!(tasks(&plan.calls[0]), ["a", EXPAND]);
    let expand = &followers(&plan.calls[0])[0];
    assert_eq!(expand.options.queue_name(), Some("app.q"));
    assert_eq!(gates, [expand.options.task_id.clone().expect("an id")]);
    assert_eq!((expected, ids.len()), (Expected::One("d".into()), 5));
    let inner = plan_of(expand);
    let members: Vec<_> = inner
        .calls
        .iter()
        .map(|call| (&*call.task, call.immutable))
        .collect();
    assert_eq!(members, [("b", false), ("c", false)]);
    assert_eq!(tasks(&inner.joins[0].body), ["d"]);

    let at_the_end = frozen(call("a").then(Node::group(vec![partial("b"), partial("c")])));
    assert_eq!(at_the_end.gates.len(), 1);
    assert!(matches!(at_the_end.expected, Expected::Many { .. }));
}

#[test]
fn a_group_inside_a_member_is_collected_for_it() {
    let inner = call("a").then(Node::group(vec![partial("b")]));
    let Frozen { plan, .. } = frozen(Node::group(vec![inner, call("c")]).then(partial("sum")));
    let outer = plan.joins[0]
        .body
        .options
        .garenne_join
        .clone()
        .expect("what it joins");
    let expand = &followers(&plan.calls[0])[0];
    let collect = &plan_of(expand).joins[0].body;
    assert_eq!(collect.task, COLLECT);
    let id = collect.options.task_id.clone().expect("an id");
    assert_eq!(outer.members, [id.clone(), "c".into()]);
    assert_eq!(part_of(collect).expect("a part").join, outer.join);
    // Where it cannot even be sent, that is the member's failure.
    assert_eq!(part_of(expand).expect("a part").join, outer.join);
    assert_eq!(expand.options.correlation_id, Some(id));
}

#[test]
fn empty_groups_are_their_result() {
    let empty = || Node::group(vec![]);
    let Frozen { plan, expected, .. } = frozen(empty());
    assert!(plan.calls.is_empty());
    assert_eq!(
        expected,
        Expected::Many {
            members: vec![],
            collected: 0
        }
    );
    let args = |signature: &Signature| serde_json::to_value(&signature.args).expect("JSON");
    let Frozen { plan, .. } = frozen(empty().then(partial("sum")));
    assert_eq!(
        (tasks(&plan.calls[0]), args(&plan.calls[0])),
        (vec!["sum".into()], json!([[]]))
    );
    let Frozen { plan, .. } = frozen(call("a").then(empty()).then(partial("sum")));
    let sum = &followers(&plan.calls[0])[0];
    assert_eq!((args(sum), sum.immutable), (json!([[]]), true));
    let Frozen { plan, .. } = frozen(call("a").then(empty()));
    assert_eq!(tasks(&plan.calls[0]), ["a", COLLECT]);
    let Frozen { plan, .. } = frozen(
        call("a")
            .then(empty())
            .then(Node::group(vec![partial("b")])),
    );
    assert_eq!(tasks(&plan.calls[0]), ["a", COLLECT, EXPAND]);
    let nested = Node::group(vec![empty(), call("a")]).then(partial("sum"));
    assert_eq!(frozen(nested).plan.calls[0].task, COLLECT);
}

#[test]
fn callbacks_watch_what_they_were_given_to() {
    let watched = call("a").then(partial("b")).watched(partial("oh"));
    let Frozen { plan, ids, .. } = frozen(watched.then(partial("c")));
    let first = &plan.calls[0];
    let next = followers(first);
    let watchers = |signature: &Signature| signature.options.link_error.0.len();
    assert_eq!(
        [watchers(first), watchers(&next[0]), watchers(&next[1])],
        [1, 1, 0]
    );
    assert_eq!(
        ids,
        ["a", "b", "c"],
        "a callback is not cancelled with the others"
    );
    let callback = Signature::decode(&first.options.link_error.0[0]).expect("a signature");
    assert_eq!(callback.task, "oh");
    let input = callback.options.headers.expect("a header")[header::INPUT].clone();
    assert_eq!(input, Value::from("failure"));

    // Members do not say it each: somebody says it once.
    let group = Node::group(vec![call("a"), call("b")]).watched(partial("oh"));
    let Frozen { plan, .. } = frozen(group.then(partial("sum")));
    assert_eq!(plan.calls.iter().map(watchers).sum::<usize>(), 0);
    assert_eq!(tasks(&plan.joins[0].body), [COLLECT, "sum"]);
    assert_eq!(watchers(&plan.joins[0].body), 1);
    // A body that is watched alone does not fail with the group.
    let body = partial("sum").watched(partial("oh"));
    let Frozen { plan, .. } = frozen(Node::group(vec![call("a")]).then(body));
    assert_eq!(
        (tasks(&plan.joins[0].body), watchers(&plan.joins[0].body)),
        (vec![COLLECT.to_owned(), "sum".into()], 0)
    );
}

#[test]
fn foreign_tasks_have_ours_beside_them() {
    let chord = Node::group(vec![foreign("py"), call("a")]).then(foreign("py.sum"));
    let Frozen { plan, .. } = frozen(chord);
    assert_eq!(tasks(&plan.joins[0].body), [COLLECT, "py.sum"]);
    let member = &plan.calls[0];
    assert_eq!(tasks(member), ["py", COLLECT]);
    let report = Signature::decode(&member.options.link_error.0[0]).expect("a signature");
    assert_eq!((&*report.task, report.args.len()), (MEMBER_FAILED, 2));
    let last = &followers(member)[0];
    assert_eq!(last.options.reply_to.as_deref(), Some(&*plan.joins[0].name));
    assert_eq!(
        last.options.queue_name(),
        Some("app.q"),
        "where workers of ours are"
    );

    let nobody_of_ours = || Node::group(vec![foreign("py")]).then(foreign("py.sum"));
    assert!(refused(nobody_of_ours()).contains(".coordinate_on("));
    let coordinated = freeze(
        nobody_of_ours(),
        Some(Queue::new("c")),
        "",
        "r",
        SystemTime::UNIX_EPOCH,
    );
    assert_eq!(
        coordinated.expect("frozen").plan.joins[0]
            .body
            .options
            .queue_name(),
        Some("c")
    );
    let inner = || nobody_of_ours().coordinated(Some(Queue::new("c")));
    let last = || foreign("py.last");
    for whole in [
        Node::group(vec![inner()]).then(last()),
        last().then(inner()),
        Node::group(vec![foreign("py")])
            .coordinated(Some(Queue::new("c")))
            .collected()
            .then(last()),
    ] {
        let Frozen { queues, .. } = frozen(whole);
        let names: Vec<_> = queues.iter().map(Queue::name).collect();
        assert_eq!(names, ["c", "q"], "that of the part is as good");
    }
    let chain_alone = frozen(foreign("py").then(foreign("py2")));
    assert_eq!(tasks(&chain_alone.plan.calls[0]), ["py", "py2"]);
}

#[test]
fn what_cannot_work_is_refused() {
    let mut step = step("published");
    step.options.exchange = Some((crate::Exchange::fanout("logs"), String::new()));
    let error = refused(call("a").then(Node::call(step)));
    assert!(
        error.contains("`published`") && error.contains("exchange"),
        "{error}"
    );
}

#[test]
fn results_that_nobody_wants_are_not_told() {
    let mut last = step("b");
    last.options.ignore_result = true;
    let Frozen { plan, expected, .. } = frozen(call("a").then(Node::call(last)));
    assert_eq!(expected, Expected::Nothing("b".into()));
    let last = &followers(&plan.calls[0])[0];
    assert_eq!(
        (last.options.ignore_result, &last.options.reply_to),
        (Some(true), &None)
    );
}

#[test]
fn the_times_of_what_follows_a_group_count_from_its_turn() {
    use crate::options::{CallOptions, Due};
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let chord = |set: &dyn Fn(&mut CallOptions)| {
        let mut body = step("sum");
        set(&mut body.options);
        frozen(Node::group(vec![call("a")]).then(Node::call(body)))
    };
    let soon = chord(&|options| options.due = Due::In(days(14)));
    assert_eq!(tasks(&soon.plan.joins[0].body), ["sum"]);
    let later: [&dyn Fn(&mut CallOptions); 4] = [
        &|options| options.expires = Some(days(1)),
        &|options| options.deadline = Some(days(1)),
        &|options| options.due = Due::At(SystemTime::UNIX_EPOCH + days(1)),
        &|options| options.due = Due::In(days(16)),
    ];
    for set in later {
        assert_eq!(tasks(&chord(set).plan.joins[0].body), [COLLECT, "sum"]);
    }
}

#[test]
fn two_calls_under_one_id_are_refused() {
    let twice = || vec![call("a"), call("a")];
    for node in [
        Node::group(twice()),
        Node::group(twice()).then(partial("sum")),
        call("a").then(partial("a")),
        call("b").then(Node::group(vec![partial("b"), partial("c")])),
        call("a").watched(partial("a")),
    ] {
        let error = refused(node);
        assert!(error.contains("call id `"), "{error}");
    }
}

#[test]
fn more_members_than_can_meet_are_refused_before_anything_is_sent() {
    let members = |count: usize| {
        let members = (0..count).map(|n| call(&n.to_string()));
        Node::group(members.collect())
    };
    let error = refused(call("first").then(members(50_001)).then(partial("sum")));
    assert!(error.contains("50000"), "{error}");
    frozen(members(50_001));
}
