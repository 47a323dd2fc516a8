//! How each fault is done.

use std::time::Duration;

use tokio::time::sleep;

use super::conductor::{Aftermath, Conductor};
use super::disk;
use super::fault::{Fault, Site};
use super::history::now;
use super::nodes::{Node, Nodes};
use super::process::{Link, Role};
use crate::proxy::Rules;

impl Conductor {
    /// Does it, and undoes it.
    pub(crate) async fn strike(&mut self, fault: usize, kind: Fault) -> Aftermath {
        match kind {
            Fault::WorkerKilled => self.end_one(fault, kind, Role::Worker, "KILL").await,
            Fault::WorkerStopped => self.end_one(fault, kind, Role::Worker, "TERM").await,
            Fault::ProducerKilled => self.end_one(fault, kind, Role::Producer, "KILL").await,
            Fault::WorkerPaused => self.pause_one(fault, kind, Role::Worker, 700..1_000).await,
            Fault::WorkerPausedLong => {
                self.pause_one(fault, kind, Role::Worker, 5_000..9_000)
                    .await
            }
            Fault::ProducerPausedLong => {
                self.pause_one(fault, kind, Role::Producer, 5_000..9_000)
                    .await
            }
            Fault::NodeKilled
            | Fault::NodeRestarted
            | Fault::NodePaused
            | Fault::NodePausedLong
            | Fault::LeaderKilled
            | Fault::LeaderMoved => self.strike_node(fault, kind).await,
            Fault::TwoNodesKilled => self.kill_nodes(fault, kind, 2).await,
            Fault::AllNodesKilled => self.kill_nodes(fault, kind, 3).await,
            Fault::MemoryAlarm => self.raise_alarm(fault, kind).await,
            Fault::DiskFull | Fault::FileLocked => self.strike_file(fault, kind).await,
            _ => self.strike_link(fault, kind).await,
        }
    }

    /// So long, or as short as the range allows.
    fn length(&mut self, millis: std::ops::Range<u64>) -> Duration {
        match self.brief {
            true => Duration::from_millis(millis.start),
            false => self.chance.millis(millis),
        }
    }

    fn everybody(&self, back: u64) -> Aftermath {
        Aftermath {
            back,
            pids: self.all().iter().map(|process| process.pid).collect(),
        }
    }

    /// What the victim held runs elsewhere; its successor is expected to work.
    async fn end_one(&mut self, fault: usize, kind: Fault, role: Role, signal: &str) -> Aftermath {
        let victim = self.pick(role);
        self.begin(fault, kind, &[self.all()[victim].pid]);
        let back = self.replace(victim, signal).await;
        Aftermath {
            back,
            pids: Vec::new(),
        }
    }

    async fn pause_one(
        &mut self,
        fault: usize,
        kind: Fault,
        role: Role,
        millis: std::ops::Range<u64>,
    ) -> Aftermath {
        let (victim, length) = (self.pick(role), self.length(millis));
        let victim = &self.all()[victim];
        self.begin(fault, kind, &[]);
        victim.signal("STOP").await;
        sleep(length).await;
        victim.signal("CONT").await;
        Aftermath {
            back: now(),
            pids: vec![victim.pid],
        }
    }

    fn nodes(&self) -> &Nodes {
        self.nodes.as_ref().expect("RabbitMQ")
    }

    async fn strike_node(&mut self, fault: usize, kind: Fault) -> Aftermath {
        self.nodes().remember_queues().await;
        let away = self.length(100..5_000);
        let paused = match kind {
            Fault::NodePaused => self.length(700..1_000),
            _ => self.length(6_000..10_000),
        };
        let by_chance = self.chance.below(self.nodes().all.len());
        let victim = match kind {
            Fault::LeaderKilled | Fault::LeaderMoved => self.nodes().leader(&self.queue).await,
            _ => by_chance,
        };
        self.begin(fault, kind, &[]);
        let begin = now();
        let node: &Node = &self.nodes().all[victim];
        let returned = match kind {
            Fault::LeaderMoved => node.move_leader(&self.queue).await,
            Fault::NodePaused | Fault::NodePausedLong => {
                node.run("pause").await;
                sleep(paused).await;
                node.run("resume").await;
                now()
            }
            _ => {
                let how = if kind == Fault::NodeRestarted {
                    "stop"
                } else {
                    "kill"
                };
                node.run(how).await;
                sleep(away).await;
                node.start().await
            }
        };
        // The other nodes of a cluster were there all along.
        let paused = matches!(kind, Fault::NodePaused | Fault::NodePausedLong);
        let back = match self.site {
            Site::Cluster if !paused => begin,
            _ => returned,
        };
        self.everybody(back)
    }

    /// Kills several nodes of the cluster at once, and starts them again.
    async fn kill_nodes(&mut self, fault: usize, kind: Fault, count: usize) -> Aftermath {
        let away = self.length(100..4_000);
        let first = self.chance.below(3);
        self.nodes().remember_queues().await;
        self.begin(fault, kind, &[]);
        let nodes = &self.nodes().all;
        let victims: Vec<&Node> = (0..count).map(|i| &nodes[(first + i) % 3]).collect();
        futures_util::future::join_all(victims.iter().map(|node| node.run("kill"))).await;
        sleep(away).await;
        let starts = victims.iter().map(|node| node.start());
        let mut returns = futures_util::future::join_all(starts).await;
        // The queue is led again when two of the three are there.
        returns.sort_unstable();
        self.everybody(returns[count - 2])
    }

    async fn raise_alarm(&mut self, fault: usize, kind: Fault) -> Aftermath {
        let (length, by_chance) = (self.length(1_000..8_000), self.chance.next());
        self.begin(fault, kind, &[]);
        let nodes = &self.nodes().all;
        let node = &nodes[by_chance as usize % nodes.len()];
        node.raise_alarm().await;
        sleep(length).await;
        let back = node.end_alarm().await;
        self.everybody(back)
    }

    async fn strike_file(&mut self, fault: usize, kind: Fault) -> Aftermath {
        let length = self.length(1_500..6_000);
        self.begin(fault, kind, &[]);
        let disk = self.disk.as_ref().expect("SQLite");
        if kind == Fault::DiskFull {
            disk.fill();
            sleep(length).await;
            disk.free();
        } else {
            let locked = disk::lock(&disk.database());
            sleep(length).await;
            drop(locked);
        }
        self.everybody(now())
    }

    /// The links of one worker, of one producer, or of all.
    async fn strike_link(&mut self, fault: usize, kind: Fault) -> Aftermath {
        let harmed = match self.chance.below(3) {
            0 => vec![self.pick(Role::Worker)],
            1 => vec![self.pick(Role::Producer)],
            _ => (0..self.all().len()).collect(),
        };
        let length = match kind {
            Fault::BlackHole => self.length(5_500..9_000),
            Fault::Cut | Fault::Reset | Fault::HalfClosed => Duration::ZERO,
            _ => self.length(1_200..5_000),
        };
        let bytes = 1 + self.chance.next() % 20_000;
        self.begin(fault, kind, &[]);
        let harmed: Vec<(u32, &Link)> = harmed
            .into_iter()
            .map(|i| (self.all()[i].pid, &self.all()[i].link))
            .collect();
        for (_, link) in &harmed {
            link.set(&rules(kind, bytes));
            match kind {
                Fault::Cut | Fault::AcceptThenClose | Fault::ClosedPort => link.each(|p| p.cut()),
                Fault::Reset => link.each(|proxy| proxy.reset()),
                Fault::HalfClosed => link.each(|proxy| proxy.half_close()),
                _ => {}
            }
        }
        sleep(length).await;
        let back = now();
        for (_, link) in &harmed {
            link.set(&Rules::default());
        }
        Aftermath {
            back,
            pids: harmed.into_iter().map(|(pid, _)| pid).collect(),
        }
    }
}

/// What holds on a link as long as the fault lasts.
fn rules(kind: Fault, bytes: u64) -> Rules {
    let good = Rules::default();
    match kind {
        Fault::CutInFrame => Rules {
            cut_after: Some(bytes),
            ..good
        },
        Fault::Delayed => Rules {
            latency: Duration::from_millis(150),
            jitter: Duration::from_millis(150),
            ..good
        },
        Fault::Slow => Rules {
            bytes_per_second: Some(20_000),
            ..good
        },
        Fault::BlackHole => Rules {
            black_hole: true,
            ..good
        },
        Fault::AcceptThenClose => Rules {
            accept_then_close: true,
            ..good
        },
        Fault::ClosedPort => Rules {
            closed_port: true,
            ..good
        },
        _ => good,
    }
}
