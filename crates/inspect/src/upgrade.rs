//! What follows an upgrade: bytes that pass both ways, unchanged and unjudged.
//!
//! What holds: what a side has said before it ended, broke off or stopped listening reaches the other; an end is passed on
//! as one, and a connection that breaks off as no end.

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

/// Passes what follows an upgrade both ways until both have ended.
pub(crate) async fn join(client: OnUpgrade, origin: OnUpgrade) {
    let both = tokio::time::timeout(UPGRADE_DEADLINE, async { tokio::try_join!(client, origin) }).await;
    let Ok(Ok((client, origin))) = both else {
        tracing::debug!("an upgrade was not finished");
        return;
    };
    let ((from_client, to_client), (from_origin, to_origin)) =
        (split(TokioIo::new(client)), split(TokioIo::new(origin)));
    let (mut up, mut down) = (pin!(pass(from_client, to_origin)), pin!(pass(from_origin, to_client)));
    // Who listens no more may still have something to say; who broke off has nothing.
    let ended = tokio::select! {
        ended = up.as_mut() => match ended {
            Err(Broke::Reading(error)) => Err(Broke::Reading(error)),
            Ok(()) | Err(Broke::Writing(_)) => down.await,
        },
        ended = down.as_mut() => match ended {
            Err(Broke::Reading(error)) => Err(Broke::Reading(error)),
            Ok(()) | Err(Broke::Writing(_)) => up.await,
        },
    };
    if let Err(Broke::Reading(error) | Broke::Writing(error)) = ended {
        tracing::debug!(error = %error, "what followed an upgrade broke off");
    }
}

/// Where one direction broke off.
enum Broke {
    Reading(io::Error),
    Writing(io::Error),
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Result<(), Broke> {
    let mut buffer = vec![0; BUFFER_BYTES];
    // Whatever was read is written out before more is: what a side says last is not lost when it breaks off.
    loop {
        let read = from.read(&mut buffer).await.map_err(Broke::Reading)?;
        if read == 0 {
            return to.shutdown().await.map_err(Broke::Writing);
        }
        to.write_all(&buffer[..read]).await.map_err(Broke::Writing)?;
        to.flush().await.map_err(Broke::Writing)?;
    }
}

/// For both sides to switch once the origin has said so.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes that are passed at once.
const BUFFER_BYTES: usize = 64 << 10;
