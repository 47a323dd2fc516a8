//! Which worker gets a call.

use crate::on_every_broker;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use garenne::{App, Error, Exchange, HeaderMatch, Queue, Worker};

use crate::support::{self, unique, within};
use crate::tasks::*;

on_every_broker! {
    async fn every_subscriber_gets_its_copy(app: App) {
        let news = Exchange::topic(unique("news"));
        let (all, mut all_said) = worker(&app, Queue::exclusive().bind(&news, "#"), 1);
        let (europe, mut europe_said) = worker(&app, Queue::exclusive().bind(&news, "europe.*"), 1);
        let (all, europe) = (all.spawn(), europe.spawn());
        all.ready().await;
        europe.ready().await;
        for key in ["asia.rain", "europe.sun"] {
            let call = tells::call(key.into()).publish_to(&news, key).ignore_result();
            drop(call.send(&app).await.expect("sent"));
        }
        assert_eq!(within("news", all_said.recv()).await.as_deref(), Some("asia.rain"));
        assert_eq!(within("news", all_said.recv()).await.as_deref(), Some("europe.sun"));
        assert_eq!(within("news", europe_said.recv()).await.as_deref(), Some("europe.sun"));
        all.stop().await.expect("stopped");
        europe.stop().await.expect("stopped");
        let error = tells::call("nobody".into()).publish_to(&news, "europe.fog").send(&app).await;
        assert!(matches!(error, Err(Error::Unroutable { .. })), "{error:?}");
    }

    async fn headers_route_calls(app: App) {
        let exchange = Exchange::headers(unique("documents"));
        let wanted = [("format", "pdf"), ("lang", "fr")];
        let wanted = wanted.map(|(name, value)| (if name == "lang" { "language" } else { name }, value));
        let queue = Queue::new("print").bind_headers(&exchange, HeaderMatch::All, wanted);
        let (worker, mut said) = worker(&app, queue, 1);
        let worker = worker.spawn();
        worker.ready().await;
        let call = |text: &str| tells::call(text.into()).publish_to(&exchange, "").ignore_result().header("format", "pdf");
        assert!(matches!(call("english").header("language", "en").send(&app).await, Err(Error::Unroutable { .. })));
        drop(call("french").header("language", "fr").send(&app).await.expect("sent"));
        assert_eq!(within("a call", said.recv()).await.as_deref(), Some("french"));
        worker.stop().await.expect("stopped");
    }

    async fn two_queues_have_a_concurrency_each(app: App) {
        let (log, mut said) = log();
        let worker = Worker::new(&app).queue("slow", 1).queue("fast", 1).state(log).state(Naps(AtomicU32::new(0)));
        let worker = worker.grace(Duration::ZERO).spawn();
        let slow = waits_for_ever::call().queue("slow").send(&app).await.expect("sent");
        within("a start", said.recv()).await;
        let fast = tells::call("fast".into()).queue("fast").send(&app).await.expect("sent");
        within("the other queue's", fast).await.expect("run");
        slow.cancel().await.expect("told");
        worker.stop().await.expect("stopped");
    }

    async fn a_worker_takes_from_many_queues(app: App) {
        let names: Vec<_> = (0..20).map(|n| format!("many-{n}")).collect();
        let (log, _said) = log();
        let worker = Worker::new(&app).state(log).state(Naps(AtomicU32::new(0)));
        let worker = names.iter().fold(worker, |worker, name| worker.queue(name.as_str(), 1)).spawn();
        assert!(within("a start", worker.ready()).await);
        for (n, name) in names.iter().enumerate() {
            let sent = add::call(n as i64, 1).queue(name.as_str()).send(&app).await.expect("sent");
            assert_eq!(within("a result", sent).await, Ok(n as i64 + 1), "{name}");
        }
        worker.stop().await.expect("stopped");
    }
}
