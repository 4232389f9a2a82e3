//! SIGTERM and SIGINT: the first one asks for a graceful stop, a second one ends the process.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first signal. A second signal ends the process with the code that shells expect.
pub(crate) fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut code = 143;
        for round in 0..2 {
            code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if round == 0 {
                tracing::info!("stopping; a second signal stops at once");
                cancelled.cancel();
            }
        }
        std::process::exit(code);
    });
    Ok(token)
}
