//! What a control plane does beside its own edge, where other nodes share its database: it passes commands on, and takes what
//! nodes write of connections and devices.

use std::collections::BTreeMap;

use adit_control::Control;
use adit_model::{Command, ConnectionClosed, ConnectionId, ConnectionOpened, Record, TunnelId};
use adit_store::NodeRecord;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::Member;

/// Passes on what edges are asked to do.
pub(crate) async fn commands(control: Control, member: Member, stop: CancellationToken) {
    let mut commands = control.commands();
    loop {
        let command: Command = tokio::select! {
            command = commands.recv() => match command {
                Ok(command) => command,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "commands for other nodes were missed");
                    continue;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = stop.cancelled() => return,
        };
        // A connector that is not told to connect anew goes on with what it has.
        member.health.note(control.store().node_command(member.id, &command).await);
    }
}

/// Takes what the other nodes write: which connections they hold, and what they saw.
pub(crate) async fn records(control: Control, member: Member, stop: CancellationToken) {
    let mut notices = member.database.notices();
    let mut known: BTreeMap<ConnectionId, TunnelId> = BTreeMap::new();
    loop {
        let open = member.health.note(member.database.connections(member.id).await);
        if let Some(open) = open.filter(|_| known.is_empty() || member.health.tells_who_lives()) {
            follow(&control, &mut known, open).await;
        }
        if let Some(cluster) = member.health.note(member.database.cluster().await) {
            let others = cluster.nodes.into_iter().filter(|node| node.id != member.id);
            // Devices are not told of one that is gone for long, and neither are connectors.
            let others = others.filter(|node| !node.devices.is_empty()).map(|node| node.address);
            control.note_other_edges(others.collect());
        }
        while let Some(records) = member.health.note(member.database.records_take().await) {
            if records.is_empty() {
                break;
            }
            for record in records {
                control.record(record_of(record)).await;
            }
        }
        tokio::select! {
            () = notices.wait() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn follow(
    control: &Control,
    known: &mut BTreeMap<ConnectionId, TunnelId>,
    open: Vec<ConnectionOpened>,
) {
    let now: BTreeMap<ConnectionId, TunnelId> =
        open.iter().map(|opened| (opened.connection, opened.tunnel)).collect();
    for opened in open.into_iter().filter(|opened| !known.contains_key(&opened.connection)) {
        control.record(Record::ConnectionOpened(opened)).await;
    }
    for (&connection, &tunnel) in known.iter().filter(|(connection, _)| !now.contains_key(connection)) {
        let at = std::time::SystemTime::now();
        control.record(Record::ConnectionClosed(ConnectionClosed { tunnel, connection, at })).await;
    }
    *known = now;
}

fn record_of(record: NodeRecord) -> Record {
    match record {
        NodeRecord::Seen(seen) => Record::RegistrationSeen(seen),
        NodeRecord::Configuration(configuration) => Record::LocalConfiguration(configuration),
    }
}
