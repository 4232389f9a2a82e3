//! Whether a connection's other end still answers, and how far away it is.
//!
//! A host that vanishes says nothing. What always holds: a connection from which nothing came for [`SILENT_AFTER`] gets no
//! new flows and whoever waits to be dialled through it hears at once; if it speaks again it is used again. Closing it is
//! the transport's business. Both transports make the other end speak at least once a second.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::limits::SILENT_AFTER;

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Milliseconds after `began` at which something came last.
    heard: AtomicU64,
    /// Round trip, in microseconds.
    round_trip: AtomicU64,
    answers: watch::Sender<bool>,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            heard: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            answers: watch::Sender::new(true),
        })
    }

    /// Something came.
    pub(crate) fn hear(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// For how long nothing came.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard)
    }

    /// Notes how far away the other end is.
    pub(crate) fn measured(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    /// How far away the other end is; zero before it was measured.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    /// Whether the other end answers.
    pub(crate) fn answers(&self) -> bool {
        *self.answers.borrow()
    }

    /// Decides by what came so far; to be called a few times a second.
    pub(crate) fn judge(&self) {
        self.judge_by(self.silence());
    }

    fn judge_by(&self, silence: Duration) {
        let answers = silence < SILENT_AFTER;
        self.answers.send_if_modified(|before| std::mem::replace(before, answers) != answers);
    }

    /// The connection has ended.
    pub(crate) fn stop(&self) {
        self.answers.send_replace(false);
    }

    /// Waits until the other end does not answer.
    pub(crate) async fn lost(&self) {
        // The sender lives as long as `self`.
        let _ = self.answers.subscribe().wait_for(|answers| !answers).await;
    }
}

/// A byte stream that notes in a [`Pulse`] when something came.
#[derive(Debug)]
pub(crate) struct Heard<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Heard<S> {
    pub(crate) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.pulse.hear();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_end_is_lost_and_comes_back_when_it_speaks() {
        let pulse = Pulse::new();
        pulse.judge_by(SILENT_AFTER / 2);
        assert!(pulse.answers());
        let lost = tokio::spawn({
            let pulse = Arc::clone(&pulse);
            async move { pulse.lost().await }
        });
        pulse.judge_by(SILENT_AFTER);
        assert!(!pulse.answers());
        lost.await.unwrap();
        pulse.hear();
        pulse.judge();
        assert!(pulse.answers());
    }
}
