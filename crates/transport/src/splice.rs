//! Two streams joined: what arrives on one leaves on the other, ends and resets included.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::timeout;

use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// Whether the far side of a splice can go on sending after it was told that nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfClose {
    /// Each direction ends by itself, as in TCP.
    Kept,
    /// The far side drops the whole flow at the end of either direction (tunnel protocol, 3.4): the near side's end is
    /// held back until the far side has ended.
    Held,
}

/// How a splice ended.
#[derive(Debug)]
pub enum SpliceEnd {
    /// Every byte of both directions was passed on, and both ends too; or the far side ended its direction and took no
    /// more of the other.
    Finished,
    /// The near side was reset or lost; so was the far side, then.
    NearFailed(StreamError),
    /// The far side was reset or lost; so was the near side, then.
    FarFailed(StreamError),
}

/// Bytes passed on so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// From near to far.
    pub up: u64,
    /// From far to near.
    pub down: u64,
    /// Which side ended its direction first, once one has.
    pub ended_first: Option<Side>,
}

/// A side of a splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Near,
    /// The second.
    Far,
}

/// Passes bytes both ways until both directions have ended or one has failed; after a failure both streams are reset.
///
/// May be cancelled: the caller then resets both streams.
pub async fn splice<NR, NW, FR, FW>(
    near: &mut Duplex<NR, NW>,
    far: &mut Duplex<FR, FW>,
    half_close: HalfClose,
    passed: &mut Passed,
) -> SpliceEnd
where
    NR: ReadChunk,
    NW: WriteChunk,
    FR: ReadChunk,
    FW: WriteChunk,
{
    let end = both_ways(near, far, half_close, passed).await;
    match end {
        SpliceEnd::Finished => {}
        SpliceEnd::NearFailed(_) | SpliceEnd::FarFailed(_) => {
            near.reset();
            far.reset();
        }
    }
    end
}

async fn both_ways<NR, NW, FR, FW>(
    near: &mut Duplex<NR, NW>,
    far: &mut Duplex<FR, FW>,
    half_close: HalfClose,
    passed: &mut Passed,
) -> SpliceEnd
where
    NR: ReadChunk,
    NW: WriteChunk,
    FR: ReadChunk,
    FW: WriteChunk,
{
    let mut ended_first = None;
    let ended = {
        let up = pin!(pump(&mut near.reader, &mut far.writer, half_close == HalfClose::Kept, &mut passed.up));
        let down = pin!(pump(&mut far.reader, &mut near.writer, true, &mut passed.down));
        match select(up, down).await {
            Either::Left((Ok(()), down)) => {
                ended_first = Some(Side::Near);
                down.await.map(|()| Listens::Yes).map_err(failure_down)
            }
            // Who listens no more may have said something that is still on its way.
            Either::Left((Err(Failure::Writing(error)), down)) => match timeout(LAST_WORDS, down).await {
                Ok(Ok(())) => {
                    ended_first = Some(Side::Far);
                    Ok(Listens::No)
                }
                Ok(Err(_)) | Err(_) => Err(SpliceEnd::FarFailed(error)),
            },
            Either::Right((Ok(()), up)) if half_close == HalfClose::Kept => {
                ended_first = Some(Side::Far);
                match up.await {
                    Err(Failure::Writing(_)) => Ok(Listens::No),
                    ended => ended.map(|()| Listens::Yes).map_err(failure_up),
                }
            }
            Either::Right((Ok(()), _)) => {
                ended_first = Some(Side::Far);
                Ok(Listens::Yes)
            }
            Either::Left((Err(failure), _)) => Err(failure_up(failure)),
            Either::Right((Err(failure), _)) => Err(failure_down(failure)),
        }
    };
    passed.ended_first = ended_first;
    match (ended, half_close) {
        (Err(end), _) => return end,
        (Ok(Listens::Yes), HalfClose::Kept) => {}
        (Ok(Listens::No), _) => near.reader.stop(),
        (Ok(Listens::Yes), HalfClose::Held) => {
            near.reader.stop();
            // The far side has ended its own direction: that it may not wait for ours is what `Held` means.
            let _ = far.writer.finish().await;
        }
    }
    SpliceEnd::Finished
}

/// Whether the far side, which has said everything, took all that it was told.
enum Listens {
    Yes,
    No,
}

/// For a far side that listens no more to end its own direction.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Where one direction failed.
enum Failure {
    Reading(StreamError),
    Writing(StreamError),
}

fn failure_up(failure: Failure) -> SpliceEnd {
    match failure {
        Failure::Reading(error) => SpliceEnd::NearFailed(error),
        Failure::Writing(error) => SpliceEnd::FarFailed(error),
    }
}

fn failure_down(failure: Failure) -> SpliceEnd {
    match failure {
        Failure::Reading(error) => SpliceEnd::FarFailed(error),
        Failure::Writing(error) => SpliceEnd::NearFailed(error),
    }
}

async fn pump<R: ReadChunk, W: WriteChunk>(
    reader: &mut R,
    writer: &mut W,
    passes_end: bool,
    passed: &mut u64,
) -> Result<(), Failure> {
    while let Some(chunk) = reader.read_chunk().await.map_err(Failure::Reading)? {
        let length = chunk.len() as u64;
        writer.write_chunk(chunk).await.map_err(Failure::Writing)?;
        *passed += length;
    }
    if passes_end { writer.finish().await.map_err(Failure::Writing) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    async fn spliced(
        half_close: HalfClose,
    ) -> (TcpStream, TcpStream, tokio::task::JoinHandle<(SpliceEnd, Passed)>) {
        let ((client, near), (far, origin)) = (pair().await, pair().await);
        let task = tokio::spawn(async move {
            let mut passed = Passed::default();
            let (mut near, mut far) = (tcp::duplex(near), tcp::duplex(far));
            (splice(&mut near, &mut far, half_close, &mut passed).await, passed)
        });
        (client, origin, task)
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut client, mut origin, task) = spliced(HalfClose::Kept).await;
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = Vec::new();
        origin.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"request");
        origin.write_all(b"a longer answer").await.unwrap();
        drop(origin);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"a longer answer");
        let (end, passed) = task.await.unwrap();
        assert!(matches!(end, SpliceEnd::Finished), "{end:?}");
        assert_eq!((passed.up, passed.down), (7, 15));
    }

    #[tokio::test]
    async fn an_end_is_held_back_from_a_side_that_would_drop_the_flow() {
        let (mut client, mut origin, task) = spliced(HalfClose::Held).await;
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = [0; 7];
        origin.read_exact(&mut request).await.unwrap();
        origin.write_all(b"answer").await.unwrap();
        origin.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(origin.read(&mut request).await.unwrap(), 0);
        assert!(matches!(task.await.unwrap().0, SpliceEnd::Finished));
    }

    #[tokio::test]
    async fn a_reset_of_either_side_resets_the_other() {
        for reset_client in [true, false] {
            let (client, origin, task) = spliced(HalfClose::Kept).await;
            let (gone, mut left) = if reset_client { (client, origin) } else { (origin, client) };
            tcp::duplex(gone).reset();
            let error = left.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            let (end, _) = task.await.unwrap();
            assert_eq!(matches!(end, SpliceEnd::NearFailed(_)), reset_client, "{end:?}");
        }
    }

    #[tokio::test]
    async fn who_listens_no_more_is_heard_out() {
        let ((mut client, near), (far, mut origin)) = (pair().await, tokio::io::duplex(1 << 20));
        let task = tokio::spawn(async move {
            let (mut near, mut far) = (tcp::duplex(near), crate::io::duplex(far));
            splice(&mut near, &mut far, HalfClose::Kept, &mut Passed::default()).await
        });
        origin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        drop(origin);
        client.write_all(b"too late").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), 1 << 20);
        drop(client);
        assert!(matches!(task.await.unwrap(), SpliceEnd::Finished));
    }
}
