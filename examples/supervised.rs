//! A worker under a supervisor: it says over HTTP how it is, and its exit code says why it ended.

use garenne::{App, Error, Exit, SECOND, Worker, task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[task(queue = "mail")]
async fn greet(name: String) -> String {
    format!("hello {name}")
}

async fn work() -> Result<(), Error> {
    let app = App::from_env().await?;
    let port = free_port();
    let worker = Worker::new(&app)
        .queue("mail", 4)
        .deaf_after(10 * SECOND) // 5 s unless set
        .health(port.to_string()) // in a container "0.0.0.0:8080", which its probes reach
        .spawn();
    worker.ready().await;
    for path in ["/live", "/ready", "/consuming"] {
        println!("{path}: {}", ask(port, path).await);
    }
    let greeting = greet::call("Ann".into()).send(&app).await?.await;
    println!("{}", greeting.unwrap_or_else(|failure| failure.to_string()));
    worker.stop().await
}

/// Code 0 here; 75 would be a deaf worker that is to be started again, 78 a mistake in the set-up.
#[tokio::main]
async fn main() -> Exit {
    work().await.into()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// The status line, as a probe sees it.
async fn ask(port: u16, path: &str) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.lines().next().unwrap_or_default().to_owned())
    };
    asking.await.unwrap_or_else(|error| error.to_string())
}
