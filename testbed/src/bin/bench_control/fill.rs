//! A large installation, made through the store on a file system without a disk, and then copied to one.

use std::path::Path;

use adit_control::{Control, Settings};
use adit_model::VirtualNetworkId;
use adit_store::{Actor, ConfigSource, NewRoute, NewTunnel, Store, Takeover};
use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

/// Makes an installation with one tunnel and this many routes: the tunnel's id.
pub(crate) async fn fill(data: &Path, routes: u32) -> Result<String> {
    let memory = tempfile::Builder::new().prefix("adit-fill-").tempdir_in("/dev/shm")?;
    let store = Store::open(memory.path()).await?;
    let control = Control::new(store.clone(), Settings::default()).await?;
    let (account, actor) = (control.account(), Actor::system());
    let secret = Zeroizing::new(vec![7; 32]);
    let new = NewTunnel { name: "bench".into(), secret, config_source: ConfigSource::Local };
    let tunnel = store.tunnel_create(&actor, account, new).await?.value.id;
    for number in 0..routes {
        let [_, high, middle, low] = number.to_be_bytes();
        let network = format!("10.{high}.{middle}.{low}/32");
        let new = NewRoute {
            network: network.parse().context("an IPv4 network")?,
            network_as_written: network,
            tunnel,
            comment: String::new(),
            virtual_network: None::<VirtualNetworkId>,
        };
        store.route_create(&actor, account, new, Takeover::Allow).await?;
    }
    store.close().await;
    std::fs::create_dir_all(data)?;
    for entry in std::fs::read_dir(memory.path())? {
        let entry = entry?;
        std::fs::copy(entry.path(), data.join(entry.file_name()))?;
    }
    Ok(tunnel.to_string())
}
