//! `adit up` killed in the middle of writes, and on a disk that is full: what was acknowledged is there afterwards, and
//! nothing is there by half.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use adit_model::Change;
use adit_store::{AuditWindow, Direction, ListRow, RouteFilter, Store, TunnelFilter, TunnelRow, Window};
use adit_testbed::api::Api;
use adit_testbed::chain::Chain;
use futures_util::future::join_all;
use http::Method;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::postgres_server::Postgres;

/// Who write at once.
const WRITERS: u32 = 4;
/// Items of each list.
const ITEMS: u64 = 5;
/// How big the disk is that becomes full, in bytes.
const DISK: &str = "size=24m";
/// By when a disk without room has told so.
const FULL_AFTER: u32 = 3000;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_has_lost_nothing_that_it_acknowledged_and_nothing_is_half_done() {
    kill_and_look(20, 1, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_has_lost_nothing_on_postgresql_either() {
    match Postgres::shared() {
        Ok(server) => kill_and_look(6, 3, Some(&server)).await,
        Err(reason) => eprintln!("SKIPPED: {reason}"),
    }
}

/// Run by `make test-long`.
mod long {
    #[tokio::test(flavor = "multi_thread")]
    async fn hundreds_of_kills_lose_nothing_either() {
        super::kill_and_look(300, 2, None).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hundred_kills_lose_nothing_on_postgresql() {
        match super::Postgres::shared() {
            Ok(server) => super::kill_and_look(100, 4, Some(&server)).await,
            Err(reason) => eprintln!("SKIPPED: {reason}"),
        }
    }
}

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    tunnels: BTreeSet<String>,
    lists: BTreeSet<String>,
    /// Tunnels whose deletion was acknowledged.
    deleted: BTreeSet<String>,
}

async fn kill_and_look(times: u32, seed: u64, database: Option<&Postgres>) {
    let mut chain = Chain::new().unwrap();
    if let Some(server) = database {
        chain.edge_flags = vec!["--database".into(), server.url()];
    }
    let told = RefCell::new(Told::default());
    let mut random = seed;
    for round in 0..times {
        chain.start_edge().await.unwrap();
        let api = chain.api().unwrap();
        // Xorshift: the moment of the kill is each round's own, and the same in each run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let kill_at = u32::try_from(random % 40).unwrap();
        let delay = Duration::from_micros(random >> 8 & 0xfff);
        let acknowledged = Cell::new(0_u32);
        let killed = Cell::new(false);
        let said = || {
            acknowledged.set(acknowledged.get() + 1);
            acknowledged.get() >= kill_at && !killed.replace(true)
        };
        let edge = chain.edge.as_ref().unwrap();
        let kill = async || {
            tokio::time::sleep(delay).await;
            edge.signal(Signal::SIGKILL).unwrap();
        };
        let writers = (0..WRITERS).map(|writer| {
            write(&api, &chain, format!("{round}-{writer}"), &told, async || {
                if said() {
                    kill().await;
                }
            })
        });
        join_all(writers).await;
        chain.edge.take().unwrap().wait(Duration::from_secs(30)).await.unwrap();
        let when = format!("seed {seed}, round {round}");
        let so_far = told.take();
        let store = match database {
            Some(server) => Store::open_postgres(&server.url(), &chain.data()).await.unwrap(),
            None => Store::open(&chain.data()).await.unwrap(),
        };
        // When it is its turn, what the killed process had under way has ended.
        let turn = store.begin().await.unwrap();
        look(turn.store(), api.account(), &so_far, &when).await;
        drop(turn);
        store.close().await;
        told.replace(so_far);
    }
    let told = told.borrow();
    assert!(told.tunnels.len() > times as usize && !told.lists.is_empty() && !told.deleted.is_empty());
}

/// Makes and deletes one thing after the other until nobody answers.
async fn write(api: &Api, chain: &Chain, writer: String, told: &RefCell<Told>, said: impl AsyncFn()) {
    let call = async |method, path: String, body: Value| {
        api.call(&chain.world.edge, method, &path, Some(&body)).await.ok().map(|(status, envelope)| {
            assert_eq!(status, 200, "{path}: {envelope}");
            envelope["result"].clone()
        })
    };
    let account = api.account();
    for n in 0_u32.. {
        let name = format!("{writer}-{n}");
        // A tunnel and its route, which are there both or not at all.
        let stands_for = "11111111-2222-4333-8444-555555555555";
        let network = format!("10.{}.{}.0/24", n % 250, writer.len());
        let body = json!({ "operations": [
            { "method": "POST", "path": format!("/accounts/{account}/cfd_tunnel"), "body": { "name": name }, "as": stands_for },
            { "method": "POST", "path": format!("/accounts/{account}/teamnet/virtual_networks"), "body": { "name": name },
              "as": "11111111-2222-4333-8444-555555555556" },
            { "method": "POST", "path": format!("/accounts/{account}/teamnet/routes"), "body": {
                "network": network, "tunnel_id": stands_for, "comment": name,
                "virtual_network_id": "11111111-2222-4333-8444-555555555556" } },
        ] });
        let Some(made) = call(Method::POST, "x/batch".into(), body).await else { return };
        told.borrow_mut().tunnels.insert(name.clone());
        said().await;
        let items: Vec<String> = (0..ITEMS).map(|item| format!("10.0.0.{item}")).collect();
        let list = json!({ "name": name, "type": "IP", "items": items });
        let Some(_) = call(Method::POST, "gateway/lists".into(), list).await else { return };
        told.borrow_mut().lists.insert(name.clone());
        said().await;
        if n % 3 == 2 {
            let id = made[0]["id"].as_str().unwrap();
            let Some(_) = call(Method::DELETE, format!("cfd_tunnel/{id}?cascade=true"), json!({})).await
            else {
                return;
            };
            told.borrow_mut().deleted.insert(name);
            said().await;
        }
    }
}

/// What a store holds.
struct Held {
    tunnels: Vec<TunnelRow>,
    lists: Vec<ListRow>,
}

/// Compares rows, records and log with each other and with what was told.
async fn look(store: &Store, account: &str, told: &Told, when: &str) {
    let account = account.parse().unwrap();
    let tunnels = store.tunnel_list(account, &TunnelFilter::default(), Window::ALL).await.unwrap().rows;
    let routes = store.route_list(account, &RouteFilter::default(), Window::ALL).await.unwrap().rows;
    let lists = store.list_list(account).await.unwrap();
    // Acknowledged, so there.
    let names: BTreeSet<&str> = tunnels.iter().map(|row| row.name.as_str()).collect();
    let gone: BTreeSet<&str> =
        tunnels.iter().filter(|row| row.deleted_at.is_some()).map(|row| row.name.as_str()).collect();
    let lost: Vec<&String> = told.tunnels.iter().filter(|name| !names.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{when}: tunnels {lost:?} are lost");
    let back: Vec<&String> = told.deleted.iter().filter(|name| !gone.contains(name.as_str())).collect();
    assert!(back.is_empty(), "{when}: tunnels {back:?} are back");
    let listed: BTreeSet<&str> = lists.iter().map(|row| row.name.as_str()).collect();
    let lost: Vec<&String> = told.lists.iter().filter(|name| !listed.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{when}: lists {lost:?} are lost");
    // Whole, or not at all.
    for row in &tunnels {
        let of_tunnel: Vec<bool> = routes
            .iter()
            .filter(|route| route.tunnel == row.id)
            .map(|route| route.deleted_at.is_some())
            .collect();
        assert_eq!(of_tunnel, [row.deleted_at.is_some()], "{when}: the route of {}", row.name);
    }
    for row in &lists {
        assert_eq!(row.item_count, Some(ITEMS), "{when}: the items of {}", row.name);
    }
    agree(store, account, &Held { tunnels, lists }, when).await;
}

/// The log, without a gap, makes what there is; each row has its records.
async fn agree(store: &Store, account: adit_model::AccountId, held: &Held, when: &str) {
    let log = store.changes_since(0).await.unwrap();
    let numbers: Vec<u64> = log.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{when}: the log has gaps");
    let mut replayed = BTreeSet::new();
    log.iter().flat_map(|batch| &batch.changes).for_each(|change| replay(&mut replayed, change));
    let mut there = BTreeSet::new();
    store.state().await.unwrap().changes.iter().for_each(|change| replay(&mut there, change));
    assert_eq!(replayed, there, "{when}: the log and what there is differ");
    let all = AuditWindow {
        since: None,
        before: None,
        direction: Direction::Ascending,
        after: None,
        limit: u32::MAX,
        unowned: false,
    };
    let records = store.audit_list(account, &all).await.unwrap();
    let of = |action: &str| -> Vec<&str> {
        let mut ids: Vec<&str> = records
            .iter()
            .filter(|record| record.action == action)
            .map(|record| record.object_id.as_str())
            .collect();
        ids.sort_unstable();
        ids
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort_unstable();
        ids
    };
    let rows = sorted(held.tunnels.iter().map(|row| row.id.to_string()).collect());
    assert_eq!(of("tunnel.create"), rows, "{when}: the records of tunnels");
    let gone = held.tunnels.iter().filter(|row| row.deleted_at.is_some());
    let gone = sorted(gone.map(|row| row.id.to_string()).collect());
    assert_eq!(of("tunnel.delete"), gone, "{when}: the records of deletions");
    let rows = sorted(held.lists.iter().map(|row| row.id.to_string()).collect());
    assert_eq!(of("list.create"), rows, "{when}: the records of lists");
}

/// What of the objects that these tests make is there after a change.
fn replay(there: &mut BTreeSet<String>, change: &Change) {
    if let Change::TunnelPut(put) = change {
        there.insert(format!("tunnel {}", put.id));
    } else if let Change::TunnelRemoved { id } = change {
        there.remove(&format!("tunnel {id}"));
    } else if let Change::RoutePut(put) = change {
        there.insert(format!("route {}", put.id));
    } else if let Change::RouteRemoved { id } = change {
        there.remove(&format!("route {id}"));
    } else if let Change::ListPut(put) = change {
        there.insert(format!("list {}", put.id));
    } else if let Change::VirtualNetworkPut(put) = change {
        there.insert(format!("network {}", put.id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_loses_nothing_and_is_over_when_there_is_room() {
    let mut chain = Chain::new().unwrap();
    let data = chain.data();
    fs::create_dir(&data).unwrap();
    mount(Some("tmpfs"), &data, Some("tmpfs"), MsFlags::empty(), Some(DISK)).unwrap();
    let _mounted = Mounted(&data);
    chain.start_edge().await.unwrap();
    let api = chain.api().unwrap();
    let call = async |method, path: &str, body: Option<&Value>| {
        api.call(&chain.world.edge, method, path, body).await.unwrap()
    };
    let make = async |n: u32| {
        let items: Vec<String> = (0..200).map(|item| format!("10.0.{n}.{item}")).collect();
        let list = json!({ "name": format!("{n}"), "type": "SERIAL", "items": items });
        call(Method::POST, "gateway/lists", Some(&list)).await
    };
    let mut stored = 0;
    while stored < 3 {
        assert_eq!(make(stored).await.0, 200);
        stored += 1;
    }
    let filler = data.join("filler");
    fill(&filler);
    // The database may have room of its own that is not used yet.
    let refused = loop {
        let (status, envelope) = make(stored).await;
        if status != 200 {
            break (status, envelope);
        }
        stored += 1;
        assert!(stored < FULL_AFTER, "a full disk is never full");
    };
    assert_eq!((refused.0, &refused.1["errors"][0]["code"]), (503, &json!(1001)), "{}", refused.1);
    assert!(refused.1["errors"][0]["message"].as_str().unwrap().contains("disk of the database is full"));
    // What there is can be read, and what was refused is not there.
    let (status, listed) = call(Method::GET, "gateway/lists", None).await;
    assert_eq!((status, listed["result_info"]["count"].as_u64()), (200, Some(u64::from(stored))));
    let (_, tunnels) = call(Method::GET, "cfd_tunnel", None).await;
    assert_eq!(tunnels["result"], json!([]));
    fs::remove_file(&filler).unwrap();
    let (status, envelope) = make(stored).await;
    assert_eq!(status, 200, "there is room again: {envelope}");
    // And what was acknowledged on the way is there after a kill.
    let account = api.account().to_owned();
    let mut edge = chain.edge.take().unwrap();
    edge.kill().await.unwrap();
    let store = Store::open(&data).await.unwrap();
    let account = account.parse().unwrap();
    let lists = store.list_list(account).await.unwrap();
    assert_eq!(lists.len(), stored as usize + 1);
    assert!(lists.iter().all(|row| row.item_count == Some(200)));
    let tunnels = Vec::new();
    agree(&store, account, &Held { tunnels, lists }, "after the full disk").await;
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 16, 1 << 12, 1 << 8, 1] {
        let zeros = vec![0; size];
        while file.write_all(&zeros).is_ok() {}
    }
}

/// A mount that ends with the test.
struct Mounted<'p>(&'p Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Busy or gone: the process's end frees it.
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
