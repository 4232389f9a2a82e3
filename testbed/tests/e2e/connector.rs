//! The connector's transports through the whole chain: a network that drops UDP, and lets it pass again.

use std::time::{Duration, Instant};

use adit_testbed::chain::{CONNECTIONS, Chain};
use adit_testbed::net::{Namespace, api_address};
use adit_testbed::origin::{self, Origin};
use anyhow::{Context as _, Result, ensure};

const PORT: u16 = 9100;
/// Within which a connector is on HTTP/2 where UDP does not pass, and back on QUIC where it does.
const CHANGE_LIMIT: Duration = Duration::from_secs(25);

/// Drops what a host sends to the edge over UDP. A route is a filter that every kernel has.
fn block_udp(host: &Namespace) -> Result<()> {
    for family in ["-4", "-6"] {
        host.output("ip", &[family, "rule", "add", "ipproto", "udp", "dport", "7844", "blackhole"])?;
    }
    Ok(())
}

fn unblock_udp(host: &Namespace) -> Result<()> {
    for family in ["-4", "-6"] {
        host.output("ip", &[family, "rule", "del", "ipproto", "udp", "dport", "7844", "blackhole"])?;
    }
    Ok(())
}

async fn echo(chain: &Chain) -> Result<()> {
    for address in api_address(PORT) {
        let stream = chain.world.laptop.connect_within(address, Duration::from_secs(5)).await?;
        tokio::time::timeout(Duration::from_secs(5), origin::open_echo(stream))
            .await
            .context("no echo")??;
    }
    Ok(())
}

/// Waits until the connector has registered so many connections over a transport since it started.
async fn wait_for_registrations(chain: &Chain, protocol: &str, count: usize) -> Result<()> {
    let begun = Instant::now();
    let field = format!("protocol={protocol}");
    loop {
        let log = chain.connectors[0].process.output();
        let registered = log.iter().filter(|line| line.contains("Registered tunnel connection"));
        if registered.filter(|line| line.contains(&field)).count() >= count {
            return Ok(());
        }
        ensure!(begun.elapsed() < CHANGE_LIMIT, "not {count} connections over {protocol}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_dropped_a_connector_goes_over_http2_and_comes_back() -> Result<()> {
    let mut chain = Chain::with_connectors(1).await?;
    chain.start_agent().await?;
    chain.enroll().await?;
    chain.wait_for_agent("connected").await?;
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT))?;
    echo(&chain).await?;
    block_udp(&chain.connectors[0].pod)?;
    wait_for_registrations(&chain, "http2", CONNECTIONS).await?;
    echo(&chain).await?;
    unblock_udp(&chain.connectors[0].pod)?;
    wait_for_registrations(&chain, "quic", 2 * CONNECTIONS).await?;
    echo(&chain).await
}
