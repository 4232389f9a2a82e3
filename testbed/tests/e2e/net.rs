//! The testbed itself: if these fail, no other result means anything.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use adit_testbed::capture::Capture;
use adit_testbed::net::{
    API_V4, API_V6, CLUSTER_V4, CLUSTER_V6, EDGE_INNER_V4, EDGE_INNER_V6, EDGE_V4, EDGE_V6, LAPTOP_LINK,
    UNREACHABLE_V4, World,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SHORT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn neighbours_reach_each_other_and_the_laptop_does_not_reach_the_cluster() {
    let world = World::new().unwrap();
    for (listen, from, host) in [
        (SocketAddr::from((EDGE_V4, 443)), &world.laptop, &world.edge),
        (SocketAddr::from((EDGE_V6, 443)), &world.laptop, &world.edge),
        (SocketAddr::from((EDGE_INNER_V4, 7844)), &world.cluster, &world.edge),
        (SocketAddr::from((EDGE_INNER_V6, 7844)), &world.cluster, &world.edge),
        (SocketAddr::from((CLUSTER_V4, 1)), &world.edge, &world.cluster),
        (SocketAddr::from((CLUSTER_V6, 1)), &world.edge, &world.cluster),
        (SocketAddr::from((API_V4, 6443)), &world.cluster, &world.cluster),
        (SocketAddr::from((API_V6, 6443)), &world.cluster, &world.cluster),
    ] {
        let _listener = host.listen(listen).unwrap();
        from.connect(listen).await.unwrap_or_else(|error| panic!("{} to {listen}: {error}", from.role()));
    }

    let _listeners: Vec<_> = [
        SocketAddr::from((API_V4, 6443)),
        SocketAddr::from((API_V6, 6443)),
        SocketAddr::from((CLUSTER_V4, 6443)),
    ]
    .map(|address| world.cluster.listen(address).unwrap())
    .into();
    for address in ["198.51.100.101:6443", "[2001:db8::101]:6443", "203.0.113.2:6443"] {
        let error = world.laptop.connect_within(address.parse().unwrap(), SHORT).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable, "{address}");
    }
    // Nor with a route: the edge forwards nothing.
    world
        .laptop
        .batch(&[format!("route add default via {EDGE_V4}"), format!("route add default via {EDGE_V6}")])
        .unwrap();
    for address in ["198.51.100.101:6443", "[2001:db8::101]:6443", "203.0.113.2:6443"] {
        let error = world.laptop.connect_within(address.parse().unwrap(), SHORT).await.unwrap_err();
        let kinds = [
            std::io::ErrorKind::TimedOut,
            std::io::ErrorKind::NetworkUnreachable,
            std::io::ErrorKind::HostUnreachable,
        ];
        assert!(kinds.contains(&error.kind()), "{address}: {error}");
    }
}

#[tokio::test]
async fn capture_counts_what_the_link_carried() {
    let world = World::new().unwrap();
    let address = SocketAddr::from((EDGE_V6, 443));
    let listener = world.edge.listen(address).unwrap();
    let capture = Capture::start(&world.laptop, LAPTOP_LINK).unwrap();
    let (mut client, (mut server, peer)) =
        tokio::try_join!(world.laptop.connect(address), listener.accept()).unwrap();
    client.write_all(&vec![7; 100_000]).await.unwrap();
    client.shutdown().await.unwrap();
    server.read_to_end(&mut Vec::new()).await.unwrap();
    let traffic = capture.stop();
    let sent = traffic.pairs.iter().find(|(pair, _)| pair.src == peer && pair.dst == address);
    let (pair, count) = sent.expect("the client's packets were seen");
    assert_eq!(pair.protocol, 6);
    assert!((100_000..120_000).contains(&count.bytes), "{count:?}");
    let services = traffic.by_service();
    assert!(services.contains_key("tcp [2001:db8:1::2]:* > [2001:db8:1::1]:443"), "{services:?}");
}

#[tokio::test]
async fn pods_have_their_own_ports_and_reach_the_edge_and_the_api_server() {
    let world = World::new().unwrap();
    let pods = [world.pod(0).unwrap(), world.pod(1).unwrap()];
    let _own: Vec<_> = pods.iter().map(|pod| pod.listen("0.0.0.0:8081".parse().unwrap()).unwrap()).collect();
    for (host, address) in [
        (&world.edge, SocketAddr::from((EDGE_INNER_V4, 7844))),
        (&world.edge, SocketAddr::from((EDGE_INNER_V6, 7844))),
        (&world.cluster, SocketAddr::from((API_V4, 6443))),
        (&world.cluster, SocketAddr::from((API_V6, 6443))),
    ] {
        let _listener = host.listen(address).unwrap();
        for pod in &pods {
            pod.connect_within(address, SHORT).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }
    let error = pods[0].connect_within(SocketAddr::from((UNREACHABLE_V4, 1)), SHORT).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
}

#[test]
fn worlds_vanish_when_dropped() {
    let world = World::new().unwrap();
    let names = [&world.laptop, &world.edge, &world.cluster].map(|host| host.name().to_owned());
    assert!(names.iter().all(|name| Path::new("/run/netns").join(name).exists()));
    drop(world);
    assert!(!names.iter().any(|name| Path::new("/run/netns").join(name).exists()));
}
