use super::*;

use proptest::prelude::*;
use std::fmt::Write as _;

const TUNNEL: &str = "8e343b13-a087-48ea-825f-9783931ff2a5";
const CREDENTIALS: &str = r#"{"AccountTag":"0123456789abcdef0123456789abcdef","TunnelID":"8e343b13-a087-48ea-825f-9783931ff2a5","TunnelName":"cluster","TunnelSecret":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#;

fn overrides() -> Overrides {
    Overrides { credentials_contents: Some(CREDENTIALS.into()), ..Overrides::default() }
}

fn certificate() -> tempfile::NamedTempFile {
    let key = rcgen::generate_simple_self_signed(["edge".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key.cert.pem()).unwrap();
    file
}

/// The checked configuration that a file makes, with credentials and trust given.
fn checked(yaml: &str, overrides: &Overrides) -> Result<ConnectorConfig, ConfigError> {
    let certificate = certificate();
    let mut yaml = format!("{yaml}\n");
    if !yaml.contains("cacert") {
        writeln!(yaml, "cacert: {}", certificate.path().display()).unwrap();
    }
    if !yaml.contains("edge:") && overrides.edge.is_empty() {
        yaml.push_str("edge: 192.0.2.1:7844\n");
    }
    let file = ConfigFile::parse(Path::new("config.yml"), &yaml)?;
    ConnectorConfig::new(&file, overrides)
}

#[track_caller]
fn refused(yaml: &str, line: &str) {
    assert_eq!(checked(yaml, &overrides()).unwrap_err().to_string(), line);
}

#[test]
fn the_file_of_a_cloudflared_is_understood() {
    let config = checked(
        "tunnel: 8e343b13-a087-48ea-825f-9783931ff2a5\n\
         credentials-file: /opt/zt/creds/creds.json\n\
         metrics: 0.0.0.0:8081\n\
         warp-routing:\n    enabled: true\n",
        &overrides(),
    )
    .unwrap();
    assert_eq!(config.tunnel.to_string(), TUNNEL);
    assert_eq!(config.account_tag, "0123456789abcdef0123456789abcdef");
    assert_eq!(config.secret.expose(), (0..32).collect::<Vec<u8>>());
    assert_eq!(config.metrics, MetricsAddress::At(HostPort { host: "0.0.0.0".into(), port: 8081 }));
    assert_eq!(config.edges, [HostPort { host: "192.0.2.1".into(), port: 7844 }]);
    assert_eq!((config.ha_connections, config.retries), (4, 5));
    assert_eq!(config.grace_period, Duration::from_secs(30));
    assert_eq!(config.warp_routing.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.warp_routing.max_active_flows, 10_000);
}

#[test]
fn every_key_has_its_effect() {
    let config = checked(
        "edge: [192.0.2.1:7844, 'edge.example.com:1', '[2001:db8::1]:7844']\n\
         grace-period: 1m30s\nretries: 3\nha-connections: 2\nprotocol: quic\nmax-active-flows: 7\n\
         pidfile: /run/adit.pid\nno-autoupdate: true\nno-prechecks: true\nedge-ip-version: 4\n\
         edge-bind-address: 192.0.2.9\nmetrics-update-freq: 5s\ntag: [a=b]\nloglevel: debug\n\
         warp-routing: {connectTimeout: 2s, tcpKeepAlive: 1m}\n",
        &overrides(),
    )
    .unwrap();
    let edges: Vec<String> = config.edges.iter().map(ToString::to_string).collect();
    assert_eq!(edges, ["192.0.2.1:7844", "edge.example.com:1", "[2001:db8::1]:7844"]);
    assert_eq!(config.grace_period, Duration::from_secs(90));
    assert_eq!((config.retries, config.ha_connections, config.warp_routing.max_active_flows), (3, 2, 7));
    assert_eq!(config.pidfile, Some("/run/adit.pid".into()));
    assert_eq!(config.bind, Some("192.0.2.9".parse().unwrap()));
    assert_eq!(
        (config.warp_routing.connect_timeout, config.warp_routing.tcp_keep_alive),
        (Duration::from_secs(2), Duration::from_mins(1))
    );
    assert_eq!(config.report["__configuration_flags"]["loglevel"], "debug");
    assert_eq!(config.report["warp-routing"]["connectTimeout"], 2);
}

#[test]
fn flags_win_over_the_file() {
    let overrides = Overrides {
        edge: vec!["192.0.2.2:1".into(), "192.0.2.3:1".into()],
        metrics: Some("localhost:".into()),
        grace_period: Some("2s".into()),
        retries: Some(9),
        ..overrides()
    };
    let config = checked("edge: 192.0.2.1:7844\nmetrics: 127.0.0.1:1\nretries: 1\n", &overrides).unwrap();
    assert_eq!(config.edges.len(), 2);
    assert_eq!(config.metrics, MetricsAddress::At(HostPort { host: "localhost".into(), port: 0 }));
    assert_eq!((config.grace_period, config.retries), (Duration::from_secs(2), 9));
}

#[test]
fn a_wrong_value_is_one_line_with_its_place() {
    refused(
        "metrics: [1]",
        "config.yml:1:10: metrics: expected HOST:PORT, such as 0.0.0.0:8081, found a list",
    );
    refused(
        "metrics: 8081",
        "config.yml:1:10: metrics: expected HOST:PORT, such as 0.0.0.0:8081, found 8081",
    );
    refused(
        "\nmetrics: nowhere",
        "config.yml:2:10: metrics: expected HOST:PORT, such as 127.0.0.1:8081 or 0.0.0.0:8081, found \"nowhere\"",
    );
    refused(
        "edge: here",
        "config.yml:1:7: edge: expected HOST:PORT, such as edge.example.com:7844 or [2001:db8::1]:7844, found \"here\"",
    );
    refused("edge: [a:1, 2]", "config.yml:1:13: edge: expected HOST:PORT, or a list of such, found 2");
    refused(
        "grace-period: soon",
        "config.yml:1:15: grace-period: expected a duration such as 30s or 1m30s, found \"soon\"",
    );
    refused("grace-period: 4m", "config.yml:1:15: grace-period: expected at most 3m, found \"4m\"");
    refused(
        "retries: -1",
        "config.yml:1:10: retries: expected a whole number from 0 to 4294967295, found -1",
    );
    refused("ha-connections: 5", "config.yml:1:17: ha-connections: expected 1 to 4, found 5");
    refused(
        "no-autoupdate: maybe",
        "config.yml:1:16: no-autoupdate: expected true or false, found \"maybe\"",
    );
    refused(
        "warp-routing:\n  speed: 1",
        "config.yml:2:10: warp-routing.speed: expected enabled, connectTimeout, maxActiveFlows or tcpKeepAlive",
    );
    refused(
        "ingress:\n  - service: http_status:404\n    originRequest: {access: {required: true}}",
        "config.yml:3:40: ingress.0.originRequest.access.required: is not supported: remove it, and give the host name an access policy at the edge",
    );
    refused(
        "cacert: /nowhere/ca.pem",
        "config.yml:1:9: cacert: cannot read /nowhere/ca.pem: No such file or directory (os error 2)",
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    refused(
        "protocol: carrier-pigeon",
        "config.yml:1:11: protocol: expected auto, quic, http2 or both, found \"carrier-pigeon\"",
    );
    refused(
        "tunel: x",
        "config.yml:1:8: tunel: is no key of a connector's configuration: remove it, or correct it",
    );
}

#[test]
fn what_is_no_yaml_or_no_keys_is_said() {
    for (yaml, line) in [
        ("- a", "config.yml:1:1: expected keys such as `tunnel: ID`, found a list"),
        ("tunnel: [", "config.yml:1:9: expected YAML: unclosed bracket '['"),
        ("a: b: c", "config.yml:1:5: expected YAML: mapping values are not allowed in this context"),
        ("tunnel: a\ntunnel: b", "config.yml:2:1: expected YAML: duplicate mapping key: tunnel"),
    ] {
        let error = ConfigFile::parse(Path::new("config.yml"), yaml).unwrap_err();
        assert_eq!(error.to_string(), line);
    }
}

#[test]
fn what_is_missing_is_said() {
    let file = ConfigFile::default();
    let error = ConnectorConfig::new(&file, &Overrides::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration: no tunnel is named: expected the keys tunnel and credentials-file, or --token"
    );
    let error = ConnectorConfig::new(&file, &overrides()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration: no edge is named: expected the key edge, or --edge, with HOST:PORT"
    );
    let file = ConfigFile::parse(Path::new("config.yml"), "# nothing\n").unwrap();
    let tunnel = Overrides { tunnel: Some(TUNNEL.into()), ..Overrides::default() };
    let error = ConnectorConfig::new(&file, &tunnel).unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.yml: no credentials: expected the key credentials-file, or --credentials-file"
    );
    let named = Overrides { credentials_file: Some("/nowhere.json".into()), ..tunnel };
    let error = ConnectorConfig::new(&file, &named).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--credentials-file: cannot read /nowhere.json: No such file or directory (os error 2)"
    );
}

#[test]
fn credentials_are_found_in_a_directory_by_the_tunnels_id() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(format!("{TUNNEL}.json")), CREDENTIALS).unwrap();
    let overrides = Overrides {
        tunnel: Some(TUNNEL.into()),
        credentials_directories: vec!["/nowhere".into(), directory.path().into()],
        ..Overrides::default()
    };
    assert_eq!(checked("", &overrides).unwrap().tunnel.to_string(), TUNNEL);
}

#[track_caller]
fn credentials_refused(contents: &str, tunnel: &str, line: &str) {
    let overrides = Overrides { credentials_contents: Some(contents.into()), ..Overrides::default() };
    let error = checked(&format!("tunnel: {tunnel}"), &overrides).unwrap_err().to_string();
    assert_eq!(error, line);
}

#[test]
fn wrong_credentials_are_one_line_without_the_secret() {
    credentials_refused(
        "{",
        TUNNEL,
        "--credentials-contents: expected credentials of a tunnel, JSON, at line 1 column 1: make them with `adit tunnel create`",
    );
    credentials_refused(
        r#"{"AccountTag":"a","TunnelSecret":7}"#,
        TUNNEL,
        "--credentials-contents: expected credentials of a tunnel, every member a text, at line 1 column 34: make them with `adit tunnel create`",
    );
    credentials_refused(
        r#"{"AccountTag":"a","TunnelSecret":"not base64!"}"#,
        TUNNEL,
        "--credentials-contents: TunnelSecret: expected the tunnel's secret in base64",
    );
    credentials_refused(
        r#"{"TunnelSecret":"AAAA"}"#,
        TUNNEL,
        "--credentials-contents: AccountTag: expected the account's tag",
    );
    credentials_refused(
        CREDENTIALS,
        "11111111-a087-48ea-825f-9783931ff2a5",
        "config.yml:1:9: tunnel: 11111111-a087-48ea-825f-9783931ff2a5 is not the tunnel of the credentials in --credentials-contents, which are for 8e343b13-a087-48ea-825f-9783931ff2a5",
    );
    credentials_refused(
        r#"{"AccountTag":"a","TunnelSecret":"AAAA"}"#,
        "by-name",
        "config.yml:1:9: tunnel: expected a tunnel's id, since the credentials in --credentials-contents have no TunnelID, found \"by-name\"",
    );
}

#[test]
fn a_missing_tunnel_id_is_filled_from_the_file_and_a_name_from_the_credentials() {
    let bare = Overrides {
        credentials_contents: Some(r#"{"AccountTag":"a","TunnelSecret":"AAAA"}"#.into()),
        ..Overrides::default()
    };
    assert_eq!(checked(&format!("tunnel: {TUNNEL}"), &bare).unwrap().tunnel.to_string(), TUNNEL);
    assert_eq!(checked("tunnel: cluster", &overrides()).unwrap().tunnel.to_string(), TUNNEL);
    assert_eq!(checked("", &overrides()).unwrap().tunnel.to_string(), TUNNEL);
}

#[test]
fn a_secret_shows_nowhere() {
    let config = checked("", &overrides()).unwrap();
    assert!(!format!("{config:?} {:?}", overrides()).contains("AAEC"));
}

/// The token of account `ab` and [`TUNNEL`], keys in another order than ours.
const TOKEN: &str =
    "eyJhIjoiYWIiLCJ0IjoiOGUzNDNiMTMtYTA4Ny00OGVhLTgyNWYtOTc4MzkzMWZmMmE1IiwicyI6IkFBRUMifQ==";

fn said(settings: &[(&'static str, &str)]) -> Overrides {
    let settings = settings.iter().map(|(key, text)| (*key, vec![(*text).to_owned()])).collect();
    Overrides { settings, ..overrides() }
}

#[test]
fn a_token_goes_before_credentials_and_a_flag_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let by_file = format!("token-file: {}", file.display());
    for (yaml, overrides) in [
        ("", said(&[("token", TOKEN)])),
        (&format!("token: {TOKEN}"), overrides()),
        (&by_file, overrides()),
        (&by_file, said(&[("token", TOKEN), ("token-file", "/nowhere")])),
    ] {
        let config = checked(yaml, &overrides).unwrap();
        assert_eq!((config.account_tag.as_str(), config.secret.expose()), ("ab", &[0, 1, 2][..]), "{yaml}");
        assert_eq!(config.tunnel.to_string(), TUNNEL);
        assert!(!format!("{config:?} {overrides:?}").contains(TOKEN), "a token is a secret");
    }
}

#[test]
fn a_wrong_token_is_a_usage_error_that_does_not_repeat_it() {
    for token in ["nonsense", "e30=", "eyJhIjoiYWIiLCJ0IjoibmFtZSIsInMiOiJBQUVDIn0="] {
        let error = checked("", &said(&[("token", token)])).unwrap_err();
        assert_eq!(error.to_string(), "--token: Provided Tunnel token is not valid.");
        assert!(error.is_usage());
    }
    let nothing = ConnectorConfig::new(&ConfigFile::default(), &Overrides::default()).unwrap_err();
    assert!(nothing.is_usage(), "no tunnel was named");
}

#[test]
fn one_rule_comes_from_flags_when_the_file_has_none() {
    let service = |yaml: &str, settings: &[(&'static str, &str)]| {
        let config = checked(yaml, &said(settings))?;
        Ok::<_, ConfigError>(config.ingress.json()[0]["service"].as_str().unwrap().to_owned())
    };
    for (yaml, settings, expected) in [
        ("", &[][..], "http_status:503"),
        ("url: localhost:8080", &[], "http://localhost:8080"),
        ("url: localhost:8080", &[("url", "https://[::1]/path")], "https://[::1]"),
        ("", &[("url", "ssh://host")], "ssh://host:22"),
        ("hello-world: true", &[("url", "localhost:1")], "hello_world"),
        ("hello-world: true", &[("hello-world", "false")], "http_status:503"),
        ("bastion: true", &[], "bastion"),
        ("unix-socket: /run/x", &[], "unix:/run/x"),
    ] {
        assert_eq!(service(yaml, settings).unwrap(), expected, "{yaml} {settings:?}");
    }
    for (yaml, settings, expected) in [
        (
            "url: ftp://a",
            &[][..],
            "config.yml:1:6: url: Error validating origin URL: Currently Cloudflare Tunnel does not support ftp protocol.",
        ),
        ("", &[("hello-world", "maybe")], "--hello-world: expected true or false, found \"maybe\""),
        (
            "url: a\nunix-socket: /b",
            &[],
            "config.yml:2:14: unix-socket: --unix-socket must be used exclusively.",
        ),
        (
            "ingress: [{service: 'http_status:404'}]",
            &[("url", "a")],
            "--url: You can't set the --url flag (or $TUNNEL_URL) when using multiple-origin ingress rules",
        ),
    ] {
        assert_eq!(service(yaml, settings).unwrap_err().to_string(), expected);
    }
}

#[test]
fn rules_are_refused_where_they_stand() {
    refused(
        "ingress:\n  - hostname: a\n    service: http://b\n  - hostname: c\n    service: http://d",
        "config.yml:4:5: ingress.1: The last ingress rule must match all URLs (i.e. it should not have a hostname or path filter)",
    );
    refused(
        "ingress:\n  - service: http_status:404\n    originRequest: {connectTimeout: 30}",
        "config.yml:3:37: ingress.0.originRequest.connectTimeout: expected a duration such as 30s or 1m30s, found 30",
    );
    refused(
        "originRequest: {tlstimeout: 1s}",
        "config.yml:1:29: originRequest.tlstimeout: expected connectTimeout, tlsTimeout, tcpKeepAlive, noHappyEyeballs, keepAliveConnections, keepAliveTimeout, httpHostHeader, originServerName, matchSNItoHost, caPool, noTLSVerify, disableChunkedEncoding, bastionMode, proxyAddress, proxyPort, proxyType, ipRules, http2Origin or access",
    );
    refused(
        "ingress: [{service: 'https://a', originRequest: {caPool: /nowhere/ca.pem}}]",
        "config.yml:1:11: ingress.0: unable to read the file /nowhere/ca.pem for caPool: No such file or directory (os error 2)",
    );
}

#[test]
fn keys_that_would_be_ignored_are_refused_with_what_to_do() {
    refused(
        "region: us",
        "config.yml:1:9: region: is not supported: remove it; name the edges themselves, with the key edge",
    );
    refused(
        "autoupdate-freq: 24h",
        "config.yml:1:18: autoupdate-freq: is not supported: remove it; this connector never updates itself",
    );
}

#[test]
fn networks_and_tags_come_from_the_file_or_from_flags() {
    let yaml = "allow-networks:\n  198.51.100.0/24: [443, 8000-8100]\n  10.0.0.0/8:\ntag: [a=b]";
    let of_file = checked(yaml, &overrides()).unwrap();
    let permits = |config: &ConnectorConfig, address: &str, port| {
        config.allow_networks.permits(address.parse().unwrap(), port)
    };
    assert!(permits(&of_file, "198.51.100.1", 8001) && permits(&of_file, "10.0.0.1", 1));
    assert!(!permits(&of_file, "198.51.100.1", 80));
    assert_eq!(of_file.tags[0].0, "cf-warp-tag-a");
    let of_flag = checked(yaml, &said(&[("allow-networks", "192.0.2.0/24")])).unwrap();
    assert!(permits(&of_flag, "192.0.2.1", 1) && !permits(&of_flag, "10.0.0.1", 1));
    refused(
        "allow-networks: []",
        "config.yml:1:17: allow-networks: expected networks such as 10.0.0.0/8 or 198.51.100.0/24:443,6443, without host bits, or a mapping of networks to ports, found a list",
    );
    refused("tag: a", "config.yml:1:6: tag: expected KEY=VALUE, found \"a\"");
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_one_line(text in "[a-z:\\-\\[\\]{}# \n'\"&*|>0-9]{0,60}|.{0,40}") {
        fuzz_config_file(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_a_token_or_an_error(input: Vec<u8>) {
        fuzz_token(&input);
    }

    #[test]
    fn any_text_is_a_pushed_configuration_or_an_error(
        key in "ingress|originRequest|warp-routing|[a-z]{0,4}",
        value in r#"\[\{"(service|hostname|path)":"[a-z:/.*\[(]{0,12}"\}\]|\{"[a-zA-Z]{0,8}":[0-9tfn"]{0,4}\}|[0-9]{0,3}"#,
    ) {
        fuzz_pushed_configuration(format!("{{\"{key}\":{value}}}").as_bytes());
    }
}
