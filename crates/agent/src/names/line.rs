//! The stream to the edge on which queries and answers pass, in any order.
//!
//! It is opened when somebody asks, and again when it was lost; a query that was on a lost one is asked once more. Queries
//! have numbers of the line's own, since two programs may use the same.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use adit_transport::messages::{Frames, frame};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use adit_wire::dns::hickory_proto::op::Message;
use adit_wire::dns::{MAX_MESSAGE_BYTES, PORT, RESOLVER_V4, answer};
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::carrier::Carrier;

/// From a program's query to its answer: programs give up after five seconds, and the edge before that.
pub(super) const DEADLINE: Duration = Duration::from_millis(4800);
/// How long a query waits for a connection to the edge, which is made anew within that if it can be.
const CARRIER_WAIT: Duration = Duration::from_millis(500);
/// Queries on the line that have no answer yet.
const MAX_WAITING: usize = 1024;
/// Queries that wait to be written.
const MAX_UNWRITTEN: usize = 64;

/// See the module's documentation.
pub(super) struct Line<C> {
    carrier: watch::Receiver<Option<C>>,
    /// Held while one is opened, so that only one is.
    open: Mutex<Option<Rc<Open>>>,
}

struct Open {
    queries: mpsc::Sender<Bytes>,
    waiting: Waiting,
    /// Answers that came.
    heard: Rc<Cell<u64>>,
    next: Cell<u16>,
    task: AbortHandle,
}

/// Who waits for which answer.
type Waiting = Rc<RefCell<HashMap<u16, oneshot::Sender<Bytes>>>>;

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<C: Carrier + Clone> Line<C> {
    pub(super) fn new(carrier: watch::Receiver<Option<C>>) -> Self {
        Self { carrier, open: Mutex::new(None) }
    }

    /// The edge's answer to a query; `None` if it cannot be asked, or does not answer in time.
    pub(super) async fn ask(&self, bytes: &[u8], query: &Message) -> Option<Vec<u8>> {
        let on = RefCell::new(None);
        let asked = timeout(DEADLINE, async {
            // The first line may have been lost without anybody noticing.
            for _ in 0..2 {
                let open = self.opened().await?;
                on.replace(Some((Rc::clone(&open), open.heard.get())));
                if let Some(answer) = open.ask(bytes, query).await {
                    return Some(answer);
                }
                self.close(&open).await;
            }
            None
        });
        if let Ok(answer) = asked.await {
            return answer;
        }
        // A line on which nothing came meanwhile has fallen silent: the next query goes by what carries then.
        if let Some((open, heard)) = on.into_inner()
            && open.heard.get() == heard
            && let Ok(mut held) = self.open.try_lock()
            && held.as_ref().is_some_and(|current| Rc::ptr_eq(current, &open))
        {
            *held = None;
        }
        None
    }

    async fn opened(&self) -> Option<Rc<Open>> {
        let mut held = self.open.lock().await;
        if let Some(open) = held.as_ref().filter(|open| !open.queries.is_closed()) {
            return Some(Rc::clone(open));
        }
        let mut carrier = self.carrier.clone();
        let present = timeout(CARRIER_WAIT, carrier.wait_for(Option::is_some)).await.ok()?.ok()?.clone()?;
        let stream = match present.open(SocketAddr::from((RESOLVER_V4, PORT))).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "the edge opens no line for names");
                return None;
            }
        };
        let open = Rc::new(Open::new(stream));
        *held = Some(Rc::clone(&open));
        Some(open)
    }

    async fn close(&self, lost: &Rc<Open>) {
        let mut held = self.open.lock().await;
        if held.as_ref().is_some_and(|open| Rc::ptr_eq(open, lost)) {
            *held = None;
        }
    }
}

impl Open {
    fn new<R: ReadChunk + 'static, W: WriteChunk + 'static>(stream: Duplex<R, W>) -> Self {
        let (queries, received) = mpsc::channel(MAX_UNWRITTEN);
        let (waiting, heard) = (Waiting::default(), Rc::<Cell<u64>>::default());
        let carrying = carry(stream, received, Rc::clone(&waiting), Rc::clone(&heard));
        let task = tokio::task::spawn_local(carrying).abort_handle();
        Self { queries, waiting, heard, next: Cell::new(0), task }
    }

    /// `None` if the line is lost.
    async fn ask(&self, bytes: &[u8], query: &Message) -> Option<Vec<u8>> {
        let (answered, answer_comes) = oneshot::channel();
        let number = Number::take(self, answered)?;
        let mut numbered = bytes.to_vec();
        numbered.get_mut(..2)?.copy_from_slice(&number.number.to_be_bytes());
        self.queries.send(frame(&numbered)?).await.ok()?;
        let mut found = answer_comes.await.ok()?.to_vec();
        found.get_mut(..2)?.copy_from_slice(&query.metadata.id.to_be_bytes());
        // What is not the answer to this is nobody's.
        answer(&found, query).map(|_| found)
    }
}

/// A number in use on a line, until it is dropped.
struct Number<'o> {
    open: &'o Open,
    number: u16,
}

impl<'o> Number<'o> {
    fn take(open: &'o Open, answered: oneshot::Sender<Bytes>) -> Option<Self> {
        let mut waiting = open.waiting.borrow_mut();
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let mut number = open.next.get();
        while waiting.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        open.next.set(number.wrapping_add(1));
        waiting.insert(number, answered);
        Some(Self { open, number })
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.open.waiting.borrow_mut().remove(&self.number);
    }
}

/// Writes queries and hands answers to who waits for them, until the stream or the line's last holder is gone.
async fn carry<R: ReadChunk, W: WriteChunk>(
    stream: Duplex<R, W>,
    mut queries: mpsc::Receiver<Bytes>,
    waiting: Waiting,
    heard: Rc<Cell<u64>>,
) {
    let Duplex { mut reader, mut writer } = stream;
    let writing = async {
        while let Some(query) = queries.recv().await {
            if writer.write_chunk(query).await.is_err() {
                break;
            }
        }
    };
    let reading = async {
        let mut frames = Frames::default();
        while let Ok(Some(chunk)) = reader.read_chunk().await {
            frames.push(&chunk);
            loop {
                let Ok(next) = frames.pop(MAX_MESSAGE_BYTES) else { return };
                let Some(message) = next else { break };
                let Some(number) = message.first_chunk().map(|two| u16::from_be_bytes(*two)) else { return };
                heard.set(heard.get() + 1);
                let waits = waiting.borrow_mut().remove(&number);
                if let Some(waits) = waits {
                    // Who has given up needs no answer.
                    let _ = waits.send(message);
                }
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
    queries.close();
    // Those who wait for an answer learn that none comes.
    waiting.borrow_mut().clear();
    writer.reset();
    reader.stop();
}
