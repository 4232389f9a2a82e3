//! What a person sees while a command waits: nothing for a second, then how long it has been. Only on a terminal, on the
//! standard error, and gone when the waiting is over.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

/// Waits, and says so on a terminal once it takes longer than a second.
pub(crate) async fn progress<T>(what: &str, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    if !std::io::stderr().is_terminal() {
        return future.await;
    }
    let mut seconds = 0_u32;
    let done = loop {
        tokio::select! {
            done = &mut future => break done,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                seconds += 1;
                let _gone = write!(std::io::stderr(), "\r{what}: {seconds} s");
            }
        }
    };
    if seconds > 0 {
        let _gone = write!(std::io::stderr(), "\r\x1b[K");
    }
    done
}
