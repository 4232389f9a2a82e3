//! Edge nodes with roles of their own: what they read, what they write, and what they do not get at.

use std::time::SystemTime;

use adit_model::{
    AccountId, CertificateId, Change, Command, ConnectionId, ConnectionOpened, ConnectorId, Dataset, NodeId,
    NodeKey, RegistrationId, RegistrationSeen, SecretHash, TunnelId,
};
use adit_store::{
    Actor, FindError, NewNode, NodeAuthority, NodeCreateError, NodeDatabase, NodeRecord, RoleMade, Store,
};
use sqlx::AnyPool;
use uuid::Uuid;

use super::{Place, lost, records};

/// A server's roles are not a database's.
fn unique(name: &str) -> String {
    format!("{name}-{}", &Uuid::new_v4().simple().to_string()[..8])
}

fn new_node(name: &str, code: &str) -> NewNode {
    NewNode {
        name: name.into(),
        hosts: vec![format!("{name}.example.com")],
        code: SecretHash::of(code.as_bytes()),
        code_valid_for: std::time::Duration::from_mins(1),
    }
}

fn key(n: u8) -> NodeKey {
    NodeKey::from_bytes([n; 32])
}

/// Makes a node and enrols it; its id, its role, and the database as it sees it.
async fn enrolled(place: &Place, store: &Store, name: &str, n: u8) -> (NodeId, String, NodeDatabase) {
    let (code, password) = (format!("code of {name}"), "00ff");
    store.node_create(&Actor::system(), &new_node(name, &code)).await.unwrap();
    let (code, next) = (SecretHash::of(code.as_bytes()), SecretHash::of(format!("{code} next").as_bytes()));
    let node = store.node_enrol(&code, &next, &key(n), password).await.unwrap().unwrap();
    assert!(node.password_set);
    let database = NodeDatabase::at(&place.url(), Some((&node.role, password))).unwrap();
    (node.id, node.role, database)
}

fn opened(tunnel: u128, connection: u128) -> ConnectionOpened {
    ConnectionOpened {
        tunnel: TunnelId::from_uuid(Uuid::from_u128(tunnel)),
        connection: ConnectionId::from_uuid(Uuid::from_u128(connection)),
        connector: ConnectorId::from_uuid(Uuid::from_u128(7)),
        index: 1,
        version: "1".into(),
        architecture: "linux_amd64".into(),
        features: vec!["a".into()],
        origin: "192.0.2.1".parse().unwrap(),
        node: "one".into(),
        at: std::time::SystemTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn nodes_see_each_other_the_change_log_and_commands_and_say_what_they_hold() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await.unwrap();
    lost::begin(&store).await;
    let (one, _, first) = enrolled(&place, &store, &unique("one"), 1).await;
    let (two, _, second) = enrolled(&place, &store, &unique("two"), 2).await;
    first.check().await.unwrap();
    let mut whole = Vec::new();
    for batch in first.changes_after(0).await.unwrap() {
        whole.extend(batch.changes);
    }
    assert_eq!(whole, store.state().await.unwrap().changes, "the log is the state");
    assert!(first.cluster().await.unwrap().nodes.is_empty(), "none has been seen");

    first.beat(one, "one.example.com:7844", "one.example.com:443").await.unwrap();
    second.beat(two, "two.example.com:7844", "").await.unwrap();
    first.connections_set(one, &[opened(1, 1), opened(1, 2), opened(2, 3)]).await.unwrap();
    let cluster = second.cluster().await.unwrap();
    let mut keys: Vec<_> = cluster.nodes.iter().map(|node| (node.id, node.key)).collect();
    keys.sort();
    let mut expected = [(one, key(1)), (two, key(2))];
    expected.sort();
    assert_eq!(keys, expected);
    let leases: Vec<_> = cluster.leases.iter().map(|lease| (lease.node, lease.tunnel)).collect();
    assert_eq!(leases, [(one, opened(1, 1).tunnel), (one, opened(2, 3).tunnel)]);
    assert_eq!(second.connections(two).await.unwrap().len(), 3);
    first.connections_set(one, &[opened(2, 3)]).await.unwrap();
    assert_eq!(second.connections(two).await.unwrap(), [opened(2, 3)]);
    assert!(second.connections(one).await.unwrap().is_empty());

    let (number, _) = second.commands_after(two, None).await.unwrap();
    let command = Command::CloseConnections { tunnel: opened(1, 1).tunnel, connector: None };
    store.node_command(one, &command).await.unwrap();
    assert_eq!(first.commands_after(one, Some(number)).await.unwrap(), (number + 1, Vec::new()));
    assert_eq!(second.commands_after(two, Some(number)).await.unwrap(), (number + 1, vec![command]));

    let seen = NodeRecord::Seen(RegistrationSeen {
        registration: RegistrationId::from_uuid(Uuid::from_u128(5)),
        source: "192.0.2.7".parse().unwrap(),
        agent_version: "1".into(),
        at: std::time::SystemTime::UNIX_EPOCH,
    });
    first.record(one, &seen).await.unwrap();
    let control = NodeDatabase::at(&place.url(), None).unwrap();
    assert_eq!(control.records_take().await.unwrap(), [seen]);
    assert!(control.records_take().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_s_role_reads_no_secret_and_writes_nothing_but_its_own() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await.unwrap();
    lost::begin(&store).await;
    lost::tunnel(&store, "t").await.unwrap();
    let (one, role, first) = enrolled(&place, &store, &unique("one"), 1).await;
    let (two, _, second) = enrolled(&place, &store, &unique("two"), 2).await;
    second.beat(two, "two:1", "").await.unwrap();
    second.connections_set(two, &[opened(1, 1)]).await.unwrap();

    assert!(first.beat(two, "elsewhere:1", "").await.is_err(), "another's lease");
    assert!(first.connections_set(two, &[opened(1, 9)]).await.is_err(), "connections in another's name");
    first.connections_set(one, &[opened(1, 1)]).await.unwrap();
    assert_eq!(second.connections(one).await.unwrap(), [opened(1, 1)], "another's connections stay its own");
    assert!(first.records_take().await.is_err(), "records are the control plane's");
    let log = records::record(AccountId::from_bytes([1; 16]), Dataset::Network, 3, SystemTime::now());
    assert!(first.log_records(two, &[&log]).await.is_err(), "log records in another's name");
    first.log_records(one, &[&log]).await.unwrap();
    first.log_records(one, &[&log]).await.unwrap();
    let there = store.records().list(log.account(), Dataset::Network, &records::all()).await.unwrap();
    assert_eq!(there.len(), 1, "once, though it was written twice");

    assert!(first.inspection_key_set(two, "mine").await.is_err(), "a key in another's name");
    for (database, node) in [(&first, one), (&second, two), (&second, two)] {
        database.inspection_key_set(node, &format!("key of {node}")).await.unwrap();
        let signed = NodeAuthority {
            node,
            account: AccountId::from_bytes([1; 16]),
            certificate: CertificateId::BUILT_IN,
            endorsement: format!("key of {node}"),
            chain: "certificate".into(),
            expires_at: time::OffsetDateTime::from_unix_timestamp(4_000_000_000).unwrap(),
        };
        store.node_authority_put(&Actor::system(), &signed).await.unwrap();
        assert_eq!(database.authorities(node).await.unwrap(), [signed]);
    }
    assert_eq!(store.signing_nodes().await.unwrap().len(), 2);
    assert_eq!(store.node_authorities().await.unwrap().len(), 2);
    assert!(first.authorities(two).await.unwrap().is_empty(), "what was signed for another is not seen");

    sqlx::any::install_default_drivers();
    let as_node = AnyPool::connect(&place.url().replacen("postgres@", &format!("{role}@"), 1)).await.unwrap();
    let tables =
        "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = 'public'";
    let pool = place.pool().await;
    let all: Vec<String> = sqlx::query_scalar(tables).fetch_all(&pool).await.unwrap();
    let readable = [
        "changes",
        "migrations",
        "nodes",
        "node_authorities",
        "node_commands",
        "node_connections",
        "node_inspection_keys",
        "node_leases",
    ];
    assert!(all.len() > 20, "{all:?}");
    for table in &all {
        let read = format!("SELECT count(*) FROM {table}");
        let read: Result<i64, _> = sqlx::query_scalar(&read).fetch_one(&as_node).await;
        assert_eq!(read.is_ok(), readable.contains(&table.as_str()), "reading {table}");
        if ["node_leases", "node_connections"].contains(&table.as_str()) {
            continue;
        }
        for statement in [format!("DELETE FROM {table}"), format!("INSERT INTO {table} DEFAULT VALUES")] {
            let error = sqlx::query(&statement).execute(&as_node).await.unwrap_err().to_string();
            let own = ["node_records", "records", "node_inspection_keys"].contains(&table.as_str())
                && statement.starts_with("INSERT");
            assert!(error.contains("permission denied") || own, "{statement}: {error}");
        }
    }
    let others = [
        "UPDATE nodes SET key_hash = ''",
        "UPDATE tunnels SET name = ''",
        "UPDATE changes SET changes = '[]'",
        "CREATE TABLE mine (n BIGINT)",
        "SET ROLE postgres",
    ];
    for statement in others {
        assert!(sqlx::query(statement).execute(&as_node).await.is_err(), "{statement}");
    }
    let changed = sqlx::query("UPDATE node_leases SET address = 'x'").execute(&as_node).await.unwrap();
    assert_eq!(changed.rows_affected(), 0, "it has no lease of its own yet");
    let sealed: String =
        sqlx::query_scalar("SELECT secret_sealed FROM tunnels").fetch_one(&pool).await.unwrap();
    let log: Vec<String> =
        sqlx::query_scalar("SELECT changes FROM changes").fetch_all(&as_node).await.unwrap();
    assert!(
        log.iter().any(|text| text.contains("tunnel_put")) && !log.iter().any(|text| text.contains(&sealed))
    );

    // Gone, it reads nothing, though it may still be connected.
    let name = store.node_list().await.unwrap().into_iter().find(|node| node.id == one).unwrap().name;
    assert_eq!(store.node_delete(&Actor::system(), &name).await.unwrap(), None);
    assert!(first.cluster().await.is_err());
    assert_eq!(second.cluster().await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn a_code_enrols_one_key_once_and_what_renews_it_is_another_each_time() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await.unwrap();
    let (name, actor) = (unique("one"), Actor::system());
    let hash = |text: &str| SecretHash::of(text.as_bytes());
    store.node_create(&actor, &new_node(&name, "first")).await.unwrap();
    let again = store.node_create(&actor, &new_node(&name, "other")).await;
    assert!(matches!(again, Err(NodeCreateError::NameTaken)));
    assert_eq!(store.node_enrol(&hash("wrong"), &hash("x"), &key(1), "00").await.unwrap(), None);
    let node = store.node_enrol(&hash("first"), &hash("second"), &key(1), "00").await.unwrap().unwrap();
    assert_eq!((&node.name, &node.hosts), (&name, &vec![format!("{name}.example.com")]));
    assert_eq!(store.node_enrol(&hash("first"), &hash("x"), &key(2), "00").await.unwrap(), None);
    assert!(store.node_enrol(&hash("second"), &hash("third"), &key(1), "00").await.unwrap().is_some());
    let past = std::time::Duration::ZERO;
    store.node_code_create(&actor, &name, &hash("late"), past).await.unwrap();
    assert_eq!(store.node_enrol(&hash("late"), &hash("x"), &key(2), "00").await.unwrap(), None);
    assert_eq!(store.node_enrol(&hash("third"), &hash("x"), &key(2), "00").await.unwrap(), None);
    let unknown = store.node_code_create(&actor, "nobody", &hash("x"), past).await;
    assert!(matches!(unknown, Err(FindError::NotFound)));
    assert!(store.node_list().await.unwrap()[0].enrolled);
    store.node_delete(&actor, &name).await.unwrap();
    assert!(matches!(store.node_delete(&actor, &name).await, Err(FindError::NotFound)));
}

#[tokio::test]
async fn a_control_plane_that_may_not_make_roles_says_what_is_to_be_run() {
    let Some(place) = Place::new() else { return };
    let pool = place.pool().await;
    let owner = unique("adit").replace('-', "_");
    let database: String =
        sqlx::query_scalar("SELECT CAST(current_database() AS TEXT)").fetch_one(&pool).await.unwrap();
    for statement in
        [format!("CREATE ROLE {owner} LOGIN"), format!("ALTER DATABASE {database} OWNER TO {owner}")]
    {
        sqlx::query(&statement).execute(&pool).await.unwrap();
    }
    let url = place.url().replacen("postgres@", &format!("{owner}@"), 1);
    let store = Store::open_postgres(&url, place.dir()).await.unwrap();
    lost::begin(&store).await;
    let name = unique("one");
    let made = store.node_create(&Actor::system(), &new_node(&name, "code")).await.unwrap().value;
    let RoleMade::ByHand(statements) = made.1 else { panic!("{owner} cannot make roles") };
    for statement in statements {
        sqlx::query(&statement.replace("'...'", "'aa'")).execute(&pool).await.unwrap();
    }
    let hash = SecretHash::of(b"code");
    let node = store.node_enrol(&hash, &hash, &key(1), "00").await.unwrap().unwrap();
    assert!(!node.password_set);
    let database = NodeDatabase::at(&place.url(), Some((&node.role, "aa"))).unwrap();
    database.beat(node.id, "one:1", "").await.unwrap();
    let whole = database.changes_after(0).await.unwrap();
    assert!(whole.iter().flat_map(|batch| &batch.changes).any(|c| matches!(c, Change::VirtualNetworkPut(_))));
    assert_eq!(store.node_delete(&Actor::system(), &name).await.unwrap(), Some(node.role.clone()));
    for table in [
        "migrations",
        "changes",
        "nodes",
        "node_commands",
        "node_leases",
        "node_connections",
        "node_records",
        "records",
        "node_inspection_keys",
        "node_authorities",
    ] {
        let revoke = format!("REVOKE ALL ON {table} FROM {}", node.role);
        sqlx::query(&revoke).execute(&pool).await.unwrap();
    }
    sqlx::query(&format!("DROP ROLE {}", node.role)).execute(&pool).await.unwrap();
}
