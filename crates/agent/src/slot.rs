//! Where flows find the carrier, which comes and goes with the connection to the edge.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::carrier::OpenError;

/// How long a flow waits for a carrier while the edge cannot be reached.
const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// The carrier of new flows; `None` while there is none.
pub(crate) type CarrierSlot<C> = watch::Sender<Option<C>>;

/// The carrier, as soon as there is one.
pub(crate) async fn present<C: Clone>(slot: &mut watch::Receiver<Option<C>>) -> Result<C, OpenError> {
    match timeout(CARRIER_WAIT, slot.wait_for(Option::is_some)).await {
        Ok(Ok(carrier)) => carrier.clone().ok_or(OpenError::Lost),
        // Nobody will bring one any more, or nobody has in time.
        Ok(Err(_)) | Err(_) => Err(OpenError::Lost),
    }
}
