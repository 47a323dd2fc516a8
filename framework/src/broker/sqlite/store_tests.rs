//! Tests of the SQL on a database in memory: the order of delivery, and that no query scans.

use super::super::catalog::*;
use super::super::process::*;
use super::*;
use crate::broker::Queue;
use crate::broker::Route;
use crate::broker::sqlite::schema;

fn outgoing(queue: &str, priority: u8, due: Option<i64>) -> Outgoing {
    Outgoing {
        route: Route::Queue(queue.to_owned()),
        part: String::new(),
        envelope: serde_json::to_string(&Message::default()).expect("JSON"),
        body: vec![priority].into(),
        headers: Default::default(),
        priority,
        due,
    }
}

fn put(db: &Connection, priority: u8, due: Option<i64>) {
    insert(db, "q", priority, None, None, &outgoing("q", priority, due)).expect("inserted");
}

fn bodies(taken: Vec<Taken>) -> Vec<u8> {
    taken
        .into_iter()
        .map(|taken| taken.packed.message().body[0])
        .collect()
}

#[test]
fn the_highest_priority_first_and_delayed_ones_when_due() {
    let db = schema::in_memory();
    for (priority, due) in [
        (1, None),
        (9, None),
        (1, None),
        (7, Some(50)),
        (8, Some(60)),
    ] {
        put(&db, priority, due);
    }
    assert_eq!(next_due(&db, "q").expect("read"), Some(50));
    promote(&db, "q", 49).expect("promoted");
    assert_eq!(bodies(claim(&db, 1, "q", 2).expect("claimed")), [9, 1]);
    promote(&db, "q", 50).expect("promoted");
    assert_eq!(bodies(claim(&db, 1, "q", 9).expect("claimed")), [7, 1]);
    assert!(!has_ready(&db, "q").expect("read"));
    assert_eq!(next_due(&db, "q").expect("read"), Some(60));
}

#[test]
fn a_message_without_its_body_keeps_its_headers() {
    let message = Message::new("a".into(), "t", &Default::default());
    let packed = Packed {
        envelope: serde_json::to_vec(&message).expect("JSON"),
        body: None,
    };
    let read = packed.message();
    assert!(
        read.task()
            .is_err_and(|why| why.0.contains("its body is not in the file"))
    );
    assert_eq!((&*read.id, read.text("task")), ("a", Some("t")));
}

#[test]
fn only_the_holder_settles_and_a_death_is_counted() {
    let db = schema::in_memory();
    add_process(&db, 1, 0, 0).expect("added");
    declare_queue(&db, 1, &Queue::new("q")).expect("declared");
    put(&db, 0, None);
    let seq = claim(&db, 1, "q", 1).expect("claimed")[0].seq;
    assert!(!settle(&db, 2, seq).expect("run"), "not the holder");
    assert_eq!(release(&db, 1, seq).expect("run").as_deref(), Some("q"));
    let again = claim(&db, 1, "q", 1).expect("claimed");
    assert!(again[0].redelivered && again[0].losses == 0);
    let back = remove_process(&db, 1, true)
        .expect("run")
        .expect("was there");
    assert_eq!(back.into_iter().collect::<Vec<_>>(), ["q"]);
    assert!(
        remove_process(&db, 1, true).expect("run").is_none(),
        "only once"
    );
    let third = claim(&db, 3, "q", 1).expect("claimed");
    assert_eq!(third[0].losses, 1);
    assert!(settle(&db, 3, third[0].seq).expect("run"));
}

#[test]
fn a_process_takes_its_own_queues_with_it() {
    let db = schema::in_memory();
    add_process(&db, 1, 0, 0).expect("added");
    add_reply_queue(&db, 1, "r").expect("added");
    let own = Queue::exclusive();
    declare_queue(&db, 1, &own).expect("declared");
    insert(&db, "r", 0, None, None, &outgoing("r", 0, None)).expect("inserted");
    remove_process(&db, 1, true).expect("run");
    assert!(find_queue(&db, "r").expect("read").is_none());
    assert!(find_queue(&db, own.name()).expect("read").is_none());
    assert!(!has_ready(&db, "r").expect("read"));
}

#[test]
fn the_frequent_queries_use_their_indexes() {
    let db = schema::in_memory();
    for (sql, index) in [
        (
            "SELECT seq FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL
             ORDER BY priority DESC, seq LIMIT 1",
            "message_ready",
        ),
        (
            "SELECT min(due) FROM message WHERE queue = ?1 AND due IS NOT NULL",
            "message_due",
        ),
        ("SELECT seq FROM message WHERE owner = ?1", "message_owner"),
        (
            "SELECT seq FROM message WHERE prune_at IS NOT NULL AND prune_at <= 1 AND owner IS NULL",
            "message_prune",
        ),
        (
            "SELECT process FROM consumer WHERE queue = ?1 AND hungry = 1",
            "consumer_queue",
        ),
    ] {
        let plan: String = db
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .expect("prepared")
            .query_map(
                rusqlite::params_from_iter(sql.contains("?1").then_some("x")),
                |row| row.get::<_, String>(3),
            )
            .expect("run")
            .map(|line| line.expect("text") + "\n")
            .collect();
        assert!(plan.contains(index), "{sql}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

#[test]
fn a_cancelled_call_is_remembered_until_it_has_been_due() {
    let db = schema::in_memory();
    cancel(&db, "near", 10).expect("cancelled");
    cancel(&db, "far", 1000).expect("cancelled");
    // Said again by somebody who does not know when it is due.
    cancel(&db, "far", 10).expect("cancelled");
    prune(&db, 500, 500).expect("pruned");
    let known = cancelled(&db, 0, 9).expect("read");
    assert_eq!(
        known.into_iter().map(|(_, id)| id).collect::<Vec<_>>(),
        ["far"]
    );
    prune(&db, 1001, 1001).expect("pruned");
    assert_eq!(cancelled(&db, 0, 9).expect("read"), []);
}

#[test]
fn delayed_messages_are_counted() {
    let db = schema::in_memory();
    declare_queue(&db, 1, &Queue::new("q")).expect("declared");
    for due in [None, Some(5), Some(20), Some(30)] {
        put(&db, 0, due);
    }
    assert_eq!(delayed(&db, 10).expect("counted"), 2);
    assert_eq!(depth(&db, "q", 10).expect("counted"), Some([2, 0, 2]));
}
