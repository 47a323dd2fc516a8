//! What the attribute says of all calls, and what one call says of itself.

use garenne::{Ack, App, Call, Context, HOUR, MILLISECOND, Queue, SECOND, Worker, task};

#[task(
    name = "mail.send",
    queue = "mail",
    retries = 3,
    timeout = "30s",
    expires = "1d"
)]
async fn send_mail(ctx: &Context, to: String, urgent: Option<bool>) -> String {
    let tenant = ctx
        .header("tenant")
        .and_then(|value| value.as_str())
        .unwrap_or("nobody");
    let how = if urgent.unwrap_or(false) {
        "urgent mail"
    } else {
        "mail"
    };
    format!("{how} to {to} for {tenant} by {}", ctx.task())
}

#[task(name = "mail.count", queue = "mail", ack = "early")]
fn count(words: Vec<String>) -> usize {
    words.len()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    // Higher priorities are delivered first.
    let mail = Queue::new("mail").max_priority(9);
    let worker = Worker::new(&app).queue(mail.clone(), 1).spawn();
    worker.ready().await;

    let call = send_mail::call("ann@example.com".into(), Some(true))
        .queue(mail)
        .priority(5)
        .countdown(50 * MILLISECOND) // waits in the broker
        .expires(HOUR) // is not started later
        .timeout(5 * SECOND) // for each attempt
        .retries(1)
        .backoff(SECOND..HOUR)
        .header("tenant", "acme");
    println!("{}", call.send(&app).await?.await?);

    // An optional last argument may be missing: it can be added without breaking calls under way.
    let by_name = Call::<String>::named("mail.send")
        .queue("mail")
        .kwarg("to", "bob@example.com")?;
    println!("{}", by_name.send(&app).await?.await?);

    let words = vec!["one".into(), "two".into()];
    println!(
        "{} words",
        count::call(words).ack(Ack::Late).send(&app).await?.await?
    );

    let handle = send_mail::call("nobody".into(), None)
        .countdown(HOUR)
        .ignore_result()
        .send(&app)
        .await?;
    handle.cancel().await?;
    println!("changed our mind about one call");
    worker.stop().await?;
    Ok(())
}
