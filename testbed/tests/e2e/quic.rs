//! QUIC through the tunnel: a rule on a name sees its clients too, and where TLS is opened it does not pass unopened.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::net::{Host, api_address};
use http::Method;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use crate::explain::explained;
use crate::gateway::{ENFORCED, soon};

const PORT: u16 = 9443;
const NAMES: [&str; 2] = ["open.example", "secret.example"];
/// A client that is not answered gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server for both names at each of these addresses.
fn serve(host: &Host, addresses: &[SocketAddr]) -> (CertificateDer<'static>, Vec<quinn::Endpoint>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(NAMES.map(String::from)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let servers = addresses.iter().map(|address| {
        let server = endpoint(host, *address, Some(config.clone()));
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(connecting) = accepting.accept().await {
                tokio::spawn(async move {
                    if let Ok(connection) = connecting.await {
                        connection.closed().await;
                    }
                });
            }
        });
        server
    });
    (cert.der().clone(), servers.collect())
}

fn endpoint(host: &Host, address: SocketAddr, server: Option<quinn::ServerConfig>) -> quinn::Endpoint {
    let socket = host.udp(address).unwrap().into_std().unwrap();
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(quinn::EndpointConfig::default(), server, socket, runtime).unwrap()
}

/// Whether a client on the laptop reaches the server by this name.
async fn reaches(chain: &Chain, trusted: &CertificateDer<'static>, to: SocketAddr, name: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(PATIENCE.try_into().unwrap()));
    config.transport_config(Arc::new(transport));
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let client = endpoint(&chain.world.laptop, any, None);
    let connected = client.connect_with(config, to, name).unwrap().await;
    connected.is_ok()
}

/// Whether `adit explain` says the same.
async fn explained_as_allowed(chain: &Chain, to: SocketAddr, name: &str) -> bool {
    let arguments = [&to.to_string(), "--protocol", "udp", "--server-name", name];
    explained(chain, &arguments).await["allowed"] == true
}

async fn made(chain: &Chain, rule: &serde_json::Value) -> String {
    let made = chain.call(Method::POST, "gateway/rules", Some(rule)).await.unwrap();
    assert_eq!(made["warning_status"], serde_json::Value::Null, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_on_a_name_sees_quic_and_opened_tls_has_no_way_round_it() {
    let chain = Chain::start().await.unwrap();
    let addresses = api_address(PORT);
    let (trusted, _servers) = serve(&chain.world.cluster, &addresses);
    let [open, secret] = NAMES;
    for to in addresses {
        assert!(reaches(&chain, &trusted, to, secret).await, "{to}");
    }
    let edge = chain.edge.as_ref().unwrap();

    let mark = edge.mark();
    let rule = made(
        &chain,
        &json!({
            "name": "no secrets", "action": "block", "filters": ["l4"], "precedence": 1000, "enabled": true,
            "traffic": "net.sni.host == \"secret.example\"",
        }),
    )
    .await;
    for to in addresses {
        soon("blocked by its name", async || !reaches(&chain, &trusted, to, secret).await).await;
        assert!(reaches(&chain, &trusted, to, open).await, "{to}");
        assert!(!explained_as_allowed(&chain, to, secret).await, "{to}");
        assert!(explained_as_allowed(&chain, to, open).await, "{to}");
    }
    let line = edge.wait_for_line_after(mark, "end=\"blocked\"", ENFORCED).await.unwrap();
    assert!(line.contains(&rule), "the record names the rule: {line}");
    chain.call(Method::DELETE, &format!("gateway/rules/{rule}"), None).await.unwrap();

    let decrypt = json!({ "settings": { "tls_decrypt": { "enabled": true } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&decrypt)).await.unwrap();
    let mark = edge.mark();
    for to in addresses {
        soon("refused", async || !reaches(&chain, &trusted, to, open).await).await;
    }
    let line = edge.wait_for_line_after(mark, "inspection=\"refused\"", ENFORCED).await.unwrap();
    assert!(line.contains("open.example") && line.contains("quic"), "{line}");
    let off = json!({
        "name": "left alone", "action": "off", "filters": ["http"], "precedence": 10, "enabled": true,
        "traffic": "any(http.conn.domains[*] == \"open.example\")",
    });
    made(&chain, &off).await;
    for to in addresses {
        soon("left alone", async || reaches(&chain, &trusted, to, open).await).await;
        assert!(!reaches(&chain, &trusted, to, secret).await, "only what the rule names passes");
        assert!(!explained_as_allowed(&chain, to, secret).await, "{to}");
        assert!(explained_as_allowed(&chain, to, open).await, "{to}");
    }
}
