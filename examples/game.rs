//! A game: the players' actions go to a work queue, one after the other; the new state of the world is
//! broadcast to all players.

use std::sync::Mutex;

use garenne::{App, Context, Exchange, Queue, RunningWorker, TaskError, Worker, task};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct World {
    turn: u32,
    carrots: i32,
}

#[derive(Serialize, Deserialize)]
enum Action {
    Plant(i32),
    Eat(i32),
}

struct Server(Mutex<World>);

fn worlds() -> Exchange {
    Exchange::fanout("game.worlds")
}

/// The server's only slot applies one action after the other.
#[task(queue = "game.actions")]
async fn act(server: &Server, ctx: &Context, action: Action) -> Result<World, TaskError> {
    let world = {
        let mut world = server.0.lock().map_err(TaskError::permanent)?;
        world.turn += 1;
        world.carrots += match action {
            Action::Plant(n) => n,
            Action::Eat(n) => -n,
        };
        *world
    };
    let _ = see::call(world)
        .publish_to(&worlds(), "")
        .ignore_result()
        .send(ctx.app())
        .await?;
    Ok(world)
}

struct Player {
    name: &'static str,
    screen: UnboundedSender<String>,
}

/// Every player sees every state of the world.
#[task]
async fn see(player: &Player, world: World) {
    player
        .screen
        .send(format!(
            "{}: turn {}, {} carrots",
            player.name, world.turn, world.carrots
        ))
        .ok();
}

async fn join(app: &App, name: &'static str, screen: &UnboundedSender<String>) -> RunningWorker {
    let player = Player {
        name,
        screen: screen.clone(),
    };
    let eyes = Queue::exclusive().bind(&worlds(), "");
    // One binary knows both roles: this worker borrows a server, too, that it never asks.
    let worker = Worker::new(app)
        .queue(eyes, 1)
        .state(player)
        .state(Server(Mutex::default()))
        .spawn();
    worker.ready().await;
    worker
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let (screen, mut seen) = unbounded_channel();
    let players = [
        join(&app, "ann", &screen).await,
        join(&app, "bob", &screen).await,
    ];
    let nobody = Player {
        name: "nobody",
        screen,
    };
    let server = Worker::new(&app)
        .queue("game.actions", 1)
        .state(Server(Mutex::default()))
        .state(nobody)
        .spawn();

    for action in [Action::Plant(5), Action::Eat(2), Action::Plant(1)] {
        act::call(action).send(&app).await?.await?;
    }

    let mut lines = Vec::new();
    for _ in 0..6 {
        lines.extend(seen.recv().await);
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    for player in players {
        player.stop().await?;
    }
    server.stop().await?;
    Ok(())
}
