//! A large installation, made through the store on a file system without a disk, and then copied to one.

use std::path::Path;

use adit_control::{Control, Settings};
use adit_model::{AccountId, Action, Filter, ListId, ListKind, RuleSettings, TunnelId, VirtualNetworkId};
use adit_store::{
    Actor, ConfigSource, NewItem, NewList, NewRoute, NewRule, NewTunnel, RuleContent, RuleText, Store,
    Takeover, TunnelKind,
};
use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

/// Mutations of one batch.
const AT_ONCE: usize = 1000;
/// Lists that rules name, and the items of each.
const LISTS: usize = 10;
const ITEMS: u32 = 100;

/// Makes an installation with one tunnel, this many routes and this many rules: the tunnel's id.
pub(crate) async fn fill(data: &Path, routes: u32, rules: u32) -> Result<String> {
    let memory = tempfile::Builder::new().prefix("adit-fill-").tempdir_in("/dev/shm")?;
    let store = Store::open(memory.path()).await?;
    let control = Control::new(store.clone(), Settings::default()).await?;
    let (account, actor) = (control.account(), Actor::system());
    let secret = Zeroizing::new(vec![7; 32]);
    let new = NewTunnel {
        kind: TunnelKind::Connector,
        name: "bench".into(),
        secret,
        config_source: ConfigSource::Local,
    };
    let tunnel = store.tunnel_create(&actor, account, new).await?.value.id;
    let mut lists = Vec::new();
    for number in 0..LISTS {
        lists.push(store.list_create(&actor, account, list(number)).await?.value.id);
    }
    for numbers in (0..routes).collect::<Vec<_>>().chunks(AT_ONCE) {
        let batch = store.begin().await?;
        for number in numbers {
            batch.store().route_create(&actor, account, route(*number, tunnel)?, Takeover::Allow).await?;
        }
        batch.commit().await?;
    }
    for numbers in (0..rules).collect::<Vec<_>>().chunks(AT_ONCE) {
        let batch = store.begin().await?;
        for number in numbers {
            put_rule(batch.store(), &actor, account, *number, &lists).await?;
        }
        batch.commit().await?;
    }
    store.close().await;
    copy(memory.path(), data)?;
    Ok(tunnel.to_string())
}

/// Copies an installation that nobody has open.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn route(number: u32, tunnel: TunnelId) -> Result<NewRoute> {
    let [_, high, middle, low] = number.to_be_bytes();
    let network = format!("10.{high}.{middle}.{low}/32");
    Ok(NewRoute {
        network: network.parse().context("an IPv4 network")?,
        network_as_written: network,
        tunnel,
        comment: String::new(),
        virtual_network: None::<VirtualNetworkId>,
    })
}

fn list(number: usize) -> NewList {
    let item = |value: String| NewItem { compared: value.clone(), value, description: None };
    let items = (0..ITEMS).map(|low| item(format!("192.0.2.{low}"))).collect();
    NewList { name: format!("list {number}"), kind: ListKind::Ip, description: None, items: Some(items) }
}

async fn put_rule(
    store: &Store,
    actor: &Actor,
    account: AccountId,
    number: u32,
    lists: &[ListId],
) -> Result<()> {
    let list = lists.get(number as usize % lists.len()).copied().context("there are lists")?;
    let text = format!(
        "net.dst.ip in ${} and net.dst.port == {} and net.protocol == \"tcp\"",
        list.uuid().simple(),
        number % 65_536
    );
    let content = RuleContent {
        name: format!("rule {number}"),
        description: String::new(),
        enabled: true,
        filter: Filter::L4,
        action: Action::Block,
        traffic: RuleText { written: text.clone(), canonical: text },
        identity: RuleText::default(),
        device_posture: RuleText::default(),
        settings: RuleSettings::default(),
        settings_as_written: serde_json::json!({}),
        schedule: None,
        expiration: None,
        remarks: Vec::new(),
    };
    let precedence = Some(1000 + u64::from(number));
    store.rule_create(actor, account, NewRule { content, precedence, lists: vec![list] }).await?;
    Ok(())
}
