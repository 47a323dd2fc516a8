//! Wakes the other processes that share the file: a datagram to the port that each has told the database.
//! Only a hint with no content, so a lost or a forged one does no harm.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::command::{Command, Handle};

/// This process's socket.
pub(super) struct Waker {
    socket: Option<UdpSocket>,
    port: u16,
    /// Whether the engine has been told and has not looked yet: a flood of datagrams is one command.
    told: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Waker {
    /// Binds a socket, and tells `engine` of each datagram that comes.
    pub(super) fn start(engine: &Handle) -> Self {
        let mut waker = Self {
            socket: None,
            port: 0,
            told: Arc::default(),
            ended: Arc::default(),
        };
        match waker.listen(engine.clone()) {
            Ok(socket) => {
                waker.port = socket.local_addr().map_or(0, |address| address.port());
                waker.socket = Some(socket);
            }
            Err(error) => tracing::warn!(
                %error,
                "no UDP socket on 127.0.0.1: other processes' messages are noticed more slowly"
            ),
        }
        waker
    }

    fn listen(&self, engine: Handle) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let receiver = socket.try_clone()?;
        let (told, ended) = (Arc::clone(&self.told), Arc::clone(&self.ended));
        std::thread::Builder::new()
            .name("garenne-wake".into())
            .spawn(move || listen(&receiver, &engine, &told, &ended))?;
        Ok(socket)
    }

    /// The port that others send to; 0 if none could be had.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// To be called before the engine looks for news, so that what comes during the look is not lost.
    pub(super) fn heard(&self) {
        self.told.store(false, Ordering::SeqCst);
    }

    /// Wakes the process at `port`.
    pub(super) fn wake(&self, port: u16) {
        if let Some(socket) = &self.socket
            && port != 0
        {
            // Losing one costs time only: every process also looks by itself now and then.
            let _ = socket.send_to(&[1], SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake(self.port);
    }
}

fn listen(socket: &UdpSocket, engine: &Handle, told: &AtomicBool, ended: &AtomicBool) {
    let mut buffer = [0; 8];
    loop {
        if let Err(error) = socket.recv_from(&mut buffer)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // Some systems report an earlier datagram's fate here; this keeps a lasting error from
            // turning into a busy loop.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if ended.load(Ordering::SeqCst) {
            return;
        }
        if !told.swap(true, Ordering::SeqCst) && !engine.send(Command::Wake) {
            return;
        }
    }
}
