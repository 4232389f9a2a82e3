//! What it costs that TLS is opened: downloads and new connections over the whole path, opened and passed unopened.
//!
//! Each figure stands beside the same one of flows that pass as they are, in the same run and over the same path: agent, edge,
//! connector, a website with TLS. Rounds of both kinds take turns. Client and website are on the same cores.

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print what it measured")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_testbed::chain::Chain;
use adit_testbed::net::API_V4;
use adit_testbed::website::{self, Browser, whole};
use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use http::{Method, Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// Measures the inspection of TLS.
#[derive(Debug, Parser)]
struct Flags {
    /// Megabytes of a download
    #[arg(long, default_value_t = 1000, value_name = "N")]
    megabytes: u64,
    /// Connections of a round, one after the other
    #[arg(long, default_value_t = 200, value_name = "N")]
    connections: u32,
    /// Rounds
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: u32,
}

const NAME: &str = "www.example.com";
const PORT: u16 = 443;

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench(&flags))
}

async fn bench(flags: &Flags) -> Result<()> {
    let mut chain = Chain::new()?;
    let origin_ca = chain.dir().join("origin-ca.pem");
    let account_ca = chain.dir().join("account-ca.pem");
    let leaf = certificates(chain.dir(), &origin_ca)?;
    chain.edge_flags = ["--origin-roots", &origin_ca.display().to_string(), "--record-stdout", "false"]
        .map(str::to_owned)
        .to_vec();
    chain.start_all().await?;
    let address = SocketAddr::from((API_V4, PORT));
    website::start_tls(&chain.world.cluster, &[address], &leaf)?;
    let found = chain.call(Method::GET, "gateway/certificates", None).await?;
    std::fs::write(&account_ca, found[0]["certificate"].as_str().context("a certificate")?)?;
    let laptop = &chain.world.laptop;
    let unopened = Browser::new(laptop, address, NAME, &origin_ca);
    let opened = Browser::new(laptop, address, NAME, &account_ca);

    println!(
        "{} MB a download, {} connections a round, {} rounds; medians",
        flags.megabytes, flags.connections, flags.rounds
    );
    let mut measured: Vec<Measured> = Vec::new();
    for _ in 0..flags.rounds {
        for (inspects, browser) in [(false, &unopened), (true, &opened)] {
            switch(&chain, inspects, browser).await?;
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let what = format!("download, {version:?}, MB/s");
                measured.push(Measured {
                    what,
                    inspects,
                    figure: download(browser, version, flags.megabytes).await?,
                });
            }
            let figure = connections(browser, flags.connections).await?;
            measured.push(Measured {
                what: "connections with a request, per second".into(),
                inspects,
                figure,
            });
        }
    }
    println!("{:<42} {:>10} {:>10} {:>8}", "", "unopened", "opened", "ratio");
    let mut kinds: Vec<&str> = measured.iter().map(|one| one.what.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for what in kinds {
        let median = |inspects: bool| {
            let of = measured.iter().filter(|one| one.what == what && one.inspects == inspects);
            let mut figures: Vec<f64> = of.map(|one| one.figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        println!(
            "{what:<42} {:>10.0} {:>10.0} {:>8.2}",
            median(false),
            median(true),
            median(true) / median(false)
        );
    }
    Ok(())
}

struct Measured {
    what: String,
    inspects: bool,
    figure: f64,
}

/// Opens TLS, or not, and waits until it is so.
async fn switch(chain: &Chain, on: bool, browser: &Browser) -> Result<()> {
    let body = json!({ "settings": { "tls_decrypt": { "enabled": on } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&body)).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while browser.get(Version::HTTP_11, "/status/200").await.is_err() {
        ensure!(Instant::now() < deadline, "inspection is not {on} after ten seconds");
    }
    Ok(())
}

/// Megabytes a second.
async fn download(browser: &Browser, version: Version, megabytes: u64) -> Result<f64> {
    let bytes = megabytes * 1_000_000;
    let request = Request::builder().uri(format!("/download/{bytes}")).body(whole(""))?;
    let response = browser.send(version, request).await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    let (mut body, began, mut got) = (response.into_body(), Instant::now(), 0);
    while let Some(frame) = body.frame().await {
        got += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    ensure!(got == bytes, "{got} bytes of {bytes}");
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    Ok(megabytes as f64 / began.elapsed().as_secs_f64())
}

/// Connections a second, each with a handshake and a request.
async fn connections(browser: &Browser, count: u32) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..count {
        let (status, _) = browser.get(Version::HTTP_11, "/status/200").await?;
        ensure!(status == StatusCode::OK, "{status}");
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// An authority, written there, and the files of a certificate of its and the key.
fn certificates(dir: &Path, ca_path: &Path) -> Result<(PathBuf, PathBuf)> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(ca_path, ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([NAME.to_owned()])?.signed_by(&key, &issuer)?;
    let files = (dir.join("leaf.pem"), dir.join("leaf-key.pem"));
    std::fs::write(&files.0, certificate.pem())?;
    std::fs::write(&files.1, key.serialize_pem())?;
    Ok(files)
}
