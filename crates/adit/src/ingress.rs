//! `adit tunnel ingress validate|rule` and `adit tunnel ready`: questions about a configuration, and to a running
//! connector, with cloudflared's answers (tunnel protocol, 6.5).

use std::path::Path;
use std::time::Duration;

use adit_connector::{ConfigFile, Rules};
use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::management::Failure;

/// How long a connector may take to say whether it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes.
const MAX_READY_BYTES: usize = 64 << 10;

const NO_FILE: &str = "No configuration file was found. Please create one, or use the --config flag to specify its filepath. You can use the help command to learn more about configuration files";
const NO_RULES: &str = "Validation failed: The config file doesn't contain any ingress rules";

/// Checks the rules of a file: what is printed, and whether they are good.
pub(crate) fn validate(path: Option<&Path>) -> (String, anyhow::Result<()>) {
    let Some(path) = path else { return (String::new(), Err(Failure::new(NO_FILE).into())) };
    let intro = format!("Validating rules from {}\n", path.display());
    match rules(path) {
        Ok(_) => (intro + "OK\n", Ok(())),
        Err(error) => (intro, Err(error)),
    }
}

/// Says which rule a URL matches.
pub(crate) fn rule(path: Option<&Path>, url: &str) -> (String, anyhow::Result<()>) {
    if let Err(error) = Rules::check_url(url) {
        return (String::new(), Err(Failure::new(error.to_string()).into()));
    }
    let shown = path.map(|path| path.display().to_string()).unwrap_or_default();
    let intro = format!("Using rules from {shown}\n");
    let matched = || {
        let rules = path.map_or_else(|| Err(Failure::new(NO_RULES).into()), rules)?;
        let (number, rule) = rules.matching_url(url).map_err(|error| Failure::new(error.to_string()))?;
        anyhow::Ok(format!("Matched rule #{number}\n{rule}\n"))
    };
    match matched() {
        Ok(answer) => (intro + &answer, Ok(())),
        Err(error) => (intro, Err(error)),
    }
}

fn rules(path: &Path) -> anyhow::Result<Rules> {
    let file = ConfigFile::read(path)?;
    let rules = Rules::of_file(&file)
        .map_err(|error| Failure::new(format!("Validation failed: {}", error.problem())))?;
    if rules.are_none() { Err(Failure::new(NO_RULES).into()) } else { Ok(rules) }
}

/// Asks the connector whose metrics are at this address whether it is ready.
pub(crate) async fn ready(metrics: Option<&str>) -> anyhow::Result<()> {
    let address = metrics.ok_or_else(|| Failure::new("--metrics has to be provided"))?;
    let url = format!("http://{address}/ready");
    let asked = tokio::time::timeout(READY_DEADLINE, get(address)).await;
    let (status, body) =
        asked.map_err(|_| anyhow!("no answer")).and_then(|asked| asked).with_context(|| url.clone())?;
    if status == http::StatusCode::OK {
        return Ok(());
    }
    let failure = format!("{url} endpoint returned status code {}\n{body}", status.as_u16());
    Err(Failure::new(failure).into())
}

async fn get(address: &str) -> anyhow::Result<(http::StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asking = async {
        let request = http::Request::get("/ready").header(http::header::HOST, address);
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_READY_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::select! {
        answer = asking => answer,
        ended = connection => {
            ended?;
            Err(anyhow!("the connection ended"))
        }
    }
}
