//! Where a flow goes whose destination stands for a name: to what the name has as its address now (Gateway semantics, 4.5).
//!
//! What holds: a destination that stands for nothing, or for a name that nobody resolves, stays as it is; no route holds it,
//! so that the flow is refused and recorded like any other that leads nowhere. Where the name leads is decided with the flow,
//! by its snapshot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_model::{DnsProtocol, Named, Registration};

use crate::Shared;
use crate::dns::{self, Asker};
use crate::synthetic::{Family, is_synthetic};

/// The destination of a device's flow, and the name that led there. `source` is where the device is.
pub(crate) async fn destination_of(
    shared: &Shared,
    registration: &Arc<Registration>,
    source: SocketAddr,
    destination: SocketAddr,
) -> (SocketAddr, Option<Arc<Named>>) {
    let synthetic = destination.ip().to_canonical();
    if !is_synthetic(synthetic) {
        return (destination, None);
    }
    let snapshot = shared.snapshots.current();
    let exact = snapshot.exact_names(registration.account);
    let Some(name) = shared.synthetic.name_of(registration.id, synthetic, exact, Instant::now()) else {
        tracing::info!(%destination, device = %registration.device, "an address stands for no name that the device has asked for lately");
        return (destination, None);
    };
    let asker = Asker {
        account: registration.account,
        registration: Some(Arc::clone(registration)),
        source,
        resolver: None,
        protocol: DnsProtocol::Device,
        location: None,
        user: None,
    };
    match dns::address_of(shared, &asker, &snapshot, &name, Family::of(synthetic)).await {
        Ok(address) => {
            let named = Named { name: name.to_string(), synthetic };
            (SocketAddr::new(address, destination.port()), Some(Arc::new(named)))
        }
        Err(why) => {
            tracing::info!(name = &*name, device = %registration.device, why, "a name leads nowhere now");
            (destination, None)
        }
    }
}
