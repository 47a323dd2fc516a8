//! What `#[task]` writes, and what it says of mistakes.
#![deny(warnings)]

#[path = "macros/declarations.rs"]
mod declarations;

use std::time::Duration;

use garenne::registry::Registry;
use garenne::task::{Ack, Borrow, Definition, Run, Task, TaskOptions};
use garenne::{
    App, Backoff, Call, Context, Error, FailureKind, HOUR, MINUTE, SECOND, TaskError, Worker, task,
};

fn definition<T: Task>() -> &'static Definition {
    T::DEFINITION
}

struct Db;

/// Adds two numbers.
///
/// ```compile_fail
/// this example must not run a second time
/// ```
#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Where the attribute of the next task stands.
const LINE: u32 = line!() + 2;

#[task(
    name = "billing.report",
    queue = "reports",
    shards = 4,
    retries = 5,
    backoff = "1s..5m",
    timeout = "1m30s",
    priority = 7,
    expires = "1.5h",
    ack = "early"
)]
fn report(db: &Db, day: String, ctx: &Context) -> Result<u64, TaskError> {
    let (_, _) = (db, ctx.id());
    Ok(day.len() as u64)
}

#[test]
fn the_function_stays_a_function() {
    let add = add(2, 3);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    assert_eq!(runtime.expect("a runtime").block_on(add), 5);
}

#[test]
fn a_bare_task_has_the_functions_name_and_the_default_options() {
    let add = definition::<add>();
    assert_eq!(add.name, "add");
    assert_eq!(add.options, TaskOptions::DEFAULT);
    assert!(matches!(add.run, Run::Async(_)));
    assert!((add.borrows)().is_empty());
}

#[test]
fn the_options_are_in_the_definition() {
    let report = definition::<report>();
    assert_eq!(report.name, "billing.report");
    assert_eq!((report.file, report.line), (file!(), LINE));
    let options = TaskOptions {
        queue: "reports",
        shards: 4,
        retries: Some(5),
        backoff: Backoff::from(SECOND..5 * MINUTE),
        timeout: Some(90 * SECOND),
        priority: Some(7),
        expires: Some(90 * MINUTE),
        ack: Ack::Early,
    };
    assert_eq!(report.options, options);
}

#[test]
fn a_plain_function_runs_on_the_blocking_pool_and_borrows_what_is_lent() {
    let report = definition::<report>();
    assert!(matches!(report.run, Run::Blocking(_)));
    let borrowed = [Borrow::of::<Db>(), Borrow::of::<Context>()];
    assert_eq!((report.borrows)(), borrowed);
}

#[test]
fn a_call_takes_the_owned_parameters_and_promises_the_value() {
    let _: Call<i64> = add::call(2, 3);
    let _: Call<u64> = report::call("2026-01-31".into());
}

#[task(backoff = "250ms", expires = "1d", retries = 0)]
async fn constant_wait() {}

#[test]
fn one_duration_is_a_constant_backoff() {
    let options = definition::<constant_wait>().options;
    let wait = Duration::from_millis(250);
    assert_eq!(options.backoff, Backoff::from(wait..wait));
    assert_eq!(options.expires, Some(24 * HOUR));
    assert_eq!(options.retries, Some(0));
}

/// Tasks of every visibility.
#[allow(unreachable_pub)]
mod nested {
    use garenne::task;

    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Local(pub u8);

    #[task(name = "nested.public")]
    #[allow(private_interfaces)]
    pub async fn public(local: Local) -> super::Twice {
        super::Twice(local.0, local.0)
    }

    #[task(name = "nested.visible")]
    pub(crate) fn visible(mut count: u32) -> u32 {
        count += 1;
        count
    }

    #[task(name = "nested.in_path")]
    pub(in crate::nested) fn in_path() {}

    pub mod deeper {
        #[garenne::task(name = "nested.deeper.ours")]
        pub(super) async fn ours(local: super::Local) -> u8 {
            local.0
        }
    }

    #[test]
    fn a_call_is_as_visible_as_its_function() {
        let _ = in_path::call();
        let _ = deeper::ours::call(Local(1));
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Twice(u8, u8);

#[test]
fn tasks_stand_in_modules() {
    use nested::{public, visible};
    let _: Call<Twice> = public::call(nested::Local(1));
    let _: Call<u32> = visible::call(1);
    assert_eq!(visible(1), 2);
}

#[test]
fn tasks_stand_in_function_bodies() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Inner;

    #[task]
    async fn inside(_inner: Inner) -> Option<Inner> {
        None
    }

    let _: Call<Option<Inner>> = inside::call(Inner);
    assert!(linked().get("inside").is_some());
}

#[task]
fn r#type(r#match: i64) -> i64 {
    r#match
}

#[test]
fn raw_identifiers_lose_their_prefix() {
    assert_eq!(definition::<r#type>().name, "type");
    let _ = r#type::call(1);
}

/// Names that the written code uses itself, as names of parameters, types and functions.
mod hygiene {
    use super::Db;
    use garenne::task;

    #[task(name = "hygiene.run")]
    #[allow(non_snake_case, clippy::too_many_arguments)]
    pub(super) async fn run(
        invocation: i64,
        run: i64,
        state: &Db,
        context: Option<i64>,
        DEFINITION: i64,
        value: i64,
        error: i64,
        parameter_0: i64,
    ) -> Result<i64, String> {
        let _ = state;
        Ok(invocation + run + context.unwrap_or(0) + DEFINITION + value + error + parameter_0)
    }

    #[task(name = "hygiene.invocation")]
    async fn invocation(position: u8, name: u8, optional: u8) -> u8 {
        position + name + optional
    }

    #[task(name = "hygiene.DEFINITION")]
    #[allow(non_snake_case, clippy::upper_case_acronyms)]
    fn DEFINITION(call: u8) -> Result<u8, std::fmt::Error> {
        Ok(call)
    }

    #[task(name = "hygiene.value")]
    fn value(task: u8) -> u8 {
        task
    }

    /// The written code names everything by its full path.
    mod shadows {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct Option;
        #[allow(dead_code)]
        pub(super) enum Result {}
        #[allow(dead_code)]
        struct Vec;
        #[allow(dead_code)]
        struct Box;
        #[allow(dead_code)]
        struct String;
        #[allow(dead_code, non_upper_case_globals)]
        static value: u8 = 0;
        #[allow(unused_macros)]
        macro_rules! vec {
            () => {
                compile_error!("shadowed")
            };
        }

        #[garenne::task(name = "hygiene.shadows")]
        pub(super) async fn shadows(option: Option, number: u8) -> u8 {
            let _ = option;
            number
        }
    }

    #[test]
    fn the_calls_exist() {
        let _ = run::call(1, 2, None, 3, 4, 5, 6);
        let _ = invocation::call(1, 2, 3);
        let _ = DEFINITION::call(1);
        let _ = value::call(1);
        let _ = shadows::shadows::call(shadows::Option, 1);
    }
}

/// Aliases and paths whose name ends in `Result`.
mod results {
    use garenne::{Call, TaskError, task};
    use std::io;

    type MyResult<T> = std::result::Result<T, TaskError>;

    #[task]
    async fn by_anyhow(name: String) -> anyhow::Result<String> {
        Ok(name)
    }

    #[task]
    async fn by_io() -> io::Result<()> {
        Ok(())
    }

    #[task]
    fn by_alias() -> MyResult<Vec<u8>> {
        Ok(Vec::new())
    }

    #[task]
    pub(super) fn by_number(text: String) -> std::result::Result<u8, std::num::ParseIntError> {
        text.parse()
    }

    #[task]
    pub(super) async fn total(values: Vec<i64>) -> i64 {
        values.iter().sum()
    }

    #[test]
    fn a_call_promises_the_value_without_the_result() {
        let _: Call<String> = by_anyhow::call("a".into());
        let _: Call<()> = by_io::call();
        let _: Call<Vec<u8>> = by_alias::call();
        let _: Call<u8> = by_number::call("1".into());
    }
}

/// What stands on the function also counts for what is written beside it.
mod attributes {
    use garenne::task;

    #[task]
    #[cfg(any())]
    async fn left_out(missing: DoesNotExist) {}

    #[task]
    #[cfg_attr(all(), cfg(any()))]
    async fn also_left_out(missing: DoesNotExist) {}

    #[task]
    #[must_use]
    #[allow(unused_variables)]
    pub(super) fn kept(#[allow(unused_mut)] mut a: u8, _unused: Option<u8>) -> u8 {
        1
    }

    #[task]
    #[deprecated = "use `kept`"]
    fn outdated() {}

    #[test]
    fn what_cfg_removes_leaves_no_task() {
        assert!(super::linked().get("left_out").is_none());
        assert!(super::linked().get("outdated").is_some());
        let _ = kept::call(1, None);
    }
}

macro_rules! tasks {
    ($($name:ident: $ty:ty = $queue:literal),*) => {$(
        #[task(queue = $queue)]
        async fn $name(db: &Db, value: $ty, wrapped: Option<$ty>) -> $ty {
            let (_, _) = (db, wrapped);
            value
        }
    )*};
}

tasks!(written_by_macro: i64 = "first", also_by_macro: String = "second");

#[test]
fn macros_may_write_tasks() {
    let _: Call<i64> = written_by_macro::call(1, None);
    assert_eq!(definition::<also_by_macro>().options.queue, "second");
}

fn linked() -> Registry {
    Registry::linked().expect("each name stands for one task")
}

#[test]
fn the_linker_finds_every_task() {
    let names: Vec<&str> = linked().iter().map(|task| task.name).collect();
    for name in ["add", "billing.report", "nested.in_path", "type", "by_io"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}

#[test]
fn two_tasks_of_one_name_are_refused_with_both_places() {
    let twin: &'static Definition = Box::leak(Box::new(Definition {
        file: "elsewhere.rs",
        line: 7,
        ..*definition::<add>()
    }));
    let mut registry = linked();
    registry.add(definition::<add>()).expect("the same again");
    match registry.add(twin) {
        Err(Error::DuplicateTask { first, second, .. }) => {
            assert_eq!(first, "elsewhere.rs:7");
            assert!(second.contains("macros.rs:"), "{second}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_written_runs() {
    let app = App::in_memory();
    let worker = Worker::new(&app)
        .queue("default", 4)
        .queue("first", 1)
        .queue("reports", 4)
        .state(Db)
        .spawn();

    // Every argument reaches its parameter, past what is lent and whatever the parameters are called.
    let run = hygiene::run::call(1, 2, None, 30, 400, 5000, 60_000);
    assert_eq!(result(run.send(&app).await).await, Ok(65_433));
    assert_eq!(
        result(report::call("day".into()).send(&app).await).await,
        Ok(3)
    );
    let by_macro = written_by_macro::call(7, Some(8));
    assert_eq!(result(by_macro.send(&app).await).await, Ok(7));

    // By name, raw identifiers have no prefix; what is optional may be missing.
    let by_name = Call::<i64>::named("type").kwarg("match", 5).expect("JSON");
    assert_eq!(result(by_name.send(&app).await).await, Ok(5));
    let shorter = Call::<u8>::named("kept").arg(4).expect("JSON");
    assert_eq!(result(shorter.send(&app).await).await, Ok(1));
    let none = Call::<u8>::named("kept");
    assert_eq!(
        result(none.send(&app).await).await,
        Err((FailureKind::Rejected, "argument `a`: missing".into()))
    );

    // An error of any type that can be displayed is the call's failure.
    assert_eq!(
        result(results::by_number::call("x".into()).send(&app).await).await,
        Err((FailureKind::Failed, "invalid digit found in string".into()))
    );
    worker.stop().await.expect("stopped");
}

async fn result<T: serde::de::DeserializeOwned>(
    sent: Result<garenne::Handle<T>, Error>,
) -> Result<T, (FailureKind, String)> {
    let handle = sent.expect("sent");
    let result = tokio::time::timeout(10 * SECOND, handle.result());
    let result = result.await.expect("a result in time");
    result.map_err(|failure| (failure.kind, failure.message))
}

#[test]
fn mistakes_are_explained() {
    trybuild::TestCases::new().compile_fail("../tests/ui/*.rs");
}
