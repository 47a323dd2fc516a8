//! The stream that lapin reads: the server's, with every frame that lapin could not bear put right.

use std::future::Future;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::{DummyIO, RuntimeParts};
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::{Stream, TryFutureExt};
use lapin::tcp::AsyncTcpStream;
use tokio::runtime::Handle;

use super::handled::Handled;
use super::sanitize;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
/// Type, channel and length of a frame.
const PREAMBLE: usize = 7;
/// The largest frame of the kinds that we look into. Servers negotiate 128 KiB, unless told otherwise.
const FRAME_LIMIT: usize = 16 << 20;
const CHUNK: usize = 64 * 1024;
/// So much of a body that still has to come is not read by way of the buffer.
const LARGE: usize = CHUNK / 2;

type Inner = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// What lapin runs on: tokio, on the current runtime, with streams that are [`Sanitized`].
pub(super) type Sockets = RuntimeParts<Tokio, SanitizedSockets>;

pub(super) fn runtime() -> Runtime<Sockets> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), SanitizedSockets(tokio)))
}

/// Tokio's sockets, their streams sanitized.
#[derive(Debug, Clone)]
pub(super) struct SanitizedSockets(Tokio);

impl Reactor for SanitizedSockets {
    type TcpStream = Sanitized<Inner>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(Error::from(ErrorKind::Unsupported))
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = Result<Self::TcpStream>> + Send + 'static {
        let stream = self.0.tcp_connect_addr(address);
        stream.map_ok(|stream| Sanitized::new(AsyncTcpStream::Plain(stream)))
    }
}

/// A stream of AMQP frames, of which none is handed out that was not looked at.
pub(super) struct Sanitized<S> {
    /// There until it is dropped.
    inner: Option<S>,
    /// Where it was connected. lapin drops it on a thread without a runtime, where the adapter around tokio's
    /// socket starts one of its own for that: a panic where there are no files left.
    tokio: Option<Handle>,
    /// What was read and not handed out yet: all that is between `start` and `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that may be handed out, some of which may still have to come.
    clear: usize,
    handled: Handled,
    /// Whether something was handed out since it was last said that there is no more.
    handed_out: bool,
    /// Whether lapin handles that now: it does before it asks again.
    is_handling: bool,
}

impl<S> Sanitized<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner: Some(inner),
            tokio: Handle::try_current().ok(),
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            clear: 0,
            handled: Handled::default(),
            handed_out: false,
            is_handling: false,
        }
    }

    /// Has it told when lapin has handled what was read.
    pub(super) fn telling(mut self, handled: Handled) -> Self {
        self.handled = handled;
        self
    }

    /// There is no more for the moment. Where somebody wants to know when lapin has handled what there was, it is asked
    /// to ask again.
    fn pause(&mut self, cx: &Context<'_>) {
        if self.handed_out && self.handled.is_awaited() {
            self.is_handling = true;
            cx.waker().wake_by_ref();
        }
        self.handed_out = false;
    }

    fn inner(&mut self) -> Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        let inner = self.inner.as_mut().map(Pin::new);
        inner.ok_or(Error::from(ErrorKind::NotConnected))
    }

    /// Looks at all frames that are there; says how many bytes of the next one must be there to go on, if it is none.
    fn look(&mut self) -> Result<usize> {
        let wanted = self.look_at_next()?;
        // What is wrong with a later one is said when it is its turn.
        while wanted == 0
            && self.start + self.clear < self.end
            && matches!(self.look_at_next(), Ok(0))
        {}
        Ok(wanted)
    }

    /// Looks at the frame after what is clear; says how many bytes of it must be there to go on.
    fn look_at_next(&mut self) -> Result<usize> {
        let next = self.start + self.clear;
        let waiting = &self.buffer[next..self.end];
        let Some((preamble, rest)) = waiting.split_at_checked(PREAMBLE) else {
            return Ok(PREAMBLE);
        };
        let length = preamble[3..]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let kind = preamble[0];
        if kind != METHOD && kind != CONTENT_HEADER {
            self.clear += PREAMBLE + length + 1;
            return Ok(0);
        }
        if length > FRAME_LIMIT {
            let text = format!("the server sent a frame of {length} bytes");
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        let whole = PREAMBLE + length + 1;
        let Some(payload) = rest.get(..length).filter(|_| rest.len() > length) else {
            return Ok(whole);
        };
        let mended = match kind {
            METHOD => sanitize::method(payload),
            _ => sanitize::content_header(payload),
        };
        if let Some(payload) = mended {
            let length = u32::try_from(payload.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes();
            let end_mark = rest[whole - PREAMBLE - 1];
            let frame = [&preamble[..3], &length, &payload, &[end_mark]].concat();
            self.clear += frame.len();
            let old = next..next + whole;
            self.buffer.truncate(self.end);
            self.buffer.splice(old, frame);
            self.end = self.buffer.len();
        } else {
            self.clear += whole;
        }
        Ok(0)
    }

    /// Moves what waits to the front, and makes room for `wanted` bytes in all.
    fn make_room(&mut self, wanted: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buffer.resize(wanted.max(CHUNK), 0);
    }
}

impl<S> Drop for Sanitized<S> {
    fn drop(&mut self) {
        let _entered = self.tokio.as_ref().map(Handle::enter);
        self.inner = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sanitized<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<Result<usize>> {
        let this = &mut *self;
        if std::mem::take(&mut this.is_handling) {
            this.handled.announce();
        }
        loop {
            let mut wanted = 1;
            if this.clear > 0 {
                let count = this.clear.min(this.end - this.start).min(out.len());
                if count > 0 {
                    out[..count].copy_from_slice(&this.buffer[this.start..this.start + count]);
                    this.start += count;
                    this.clear -= count;
                    this.handed_out = true;
                    return Poll::Ready(Ok(count));
                }
            } else {
                wanted = this.look()?;
                if wanted == 0 {
                    continue;
                }
            }
            if out.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let straight = this.clear.min(out.len());
            let straight = Some(straight).filter(|count| *count >= LARGE);
            if straight.is_none() {
                this.make_room(wanted);
            }
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(Ok(0));
            };
            let room = match straight {
                Some(count) => &mut out[..count],
                None => &mut this.buffer[this.end..],
            };
            let Poll::Ready(read) = Pin::new(inner).poll_read(cx, room) else {
                this.pause(cx);
                return Poll::Pending;
            };
            let count = read?;
            if straight.is_some() {
                this.clear -= count;
                this.handed_out |= count > 0;
                return Poll::Ready(Ok(count));
            }
            if count == 0 {
                // Half a frame at the end of a connection is worth nothing.
                return Poll::Ready(Ok(0));
            }
            this.end += count;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sanitized<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize>> {
        self.inner()?.poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.inner()?.poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner()?.poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::super::handled::Listener;
    use super::*;

    struct Socket(std::sync::mpsc::Sender<bool>);

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = self.0.send(Handle::try_current().is_ok());
        }
    }

    /// Has a frame at times.
    struct Frames(bool);

    impl AsyncRead for Frames {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut [u8],
        ) -> Poll<Result<usize>> {
            const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xce];
            if !std::mem::take(&mut self.0) {
                return Poll::Pending;
            }
            out[..8].copy_from_slice(&HEARTBEAT);
            Poll::Ready(Ok(8))
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Listener for Count {
        fn handled(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.handled();
        }
    }

    #[test]
    fn what_was_read_is_handled_when_more_is_asked_for() {
        let (told, woken) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let handled = Handled::default();
        handled.tell(told.clone());
        let mut stream = Sanitized::new(Frames(false)).telling(handled);
        let waker = woken.clone().into();
        let mut read = |has_frame: bool| {
            stream.inner.as_mut().expect("open").0 = has_frame;
            let read =
                Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut [0; 64]);
            let counts = [&told, &woken].map(|count| count.0.load(Ordering::Relaxed));
            (read.is_ready(), counts)
        };
        assert_eq!(read(false), (false, [0, 0]), "nothing has come");
        assert_eq!(read(true), (true, [0, 0]));
        assert_eq!(read(false), (false, [0, 1]), "there is no more: ask again");
        assert_eq!(read(true), (true, [1, 1]), "asked again, with more there");
        assert_eq!(read(false), (false, [1, 2]));
        assert_eq!(read(false), (false, [2, 2]));
        assert_eq!(read(false), (false, [2, 2]));
    }

    #[tokio::test]
    async fn a_socket_is_dropped_where_it_finds_its_runtime() {
        let (dropped, on_a_runtime) = std::sync::mpsc::channel();
        let stream = Sanitized::new(Socket(dropped));
        std::thread::spawn(move || drop(stream))
            .join()
            .expect("no panic");
        assert_eq!(on_a_runtime.recv(), Ok(true));
    }
}
