//! `hello_world`: a page that shows what arrived, for trying a tunnel out (contract, 6.2).

use std::fmt::Write;

use adit_transport::stream::WriteChunk;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::exchange::ExchangeError;
use super::{Answer, AnswerWriter, OriginRequest};
use crate::process::Process;

/// Answers a request; its body is not looked at.
pub(super) async fn serve<A: Answer>(
    process: &Process,
    request: &OriginRequest,
    answer: A,
) -> Result<(), ExchangeError> {
    let (status, content_type, body) = match request.uri.path() {
        "/_health" => (StatusCode::OK, TEXT, "ok".to_owned()),
        "/uptime" => (StatusCode::OK, JSON, uptime(process)),
        _ => (StatusCode::OK, HTML, page(request)),
    };
    process.metrics.response(status);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    let mut writer = answer.respond(status, &headers).await?;
    if request.method != Method::HEAD {
        writer.write_chunk(body.into()).await?;
    }
    writer.finish_with(&HeaderMap::new()).await?;
    writer.delivered().await;
    Ok(())
}

fn uptime(process: &Process) -> String {
    format!(r#"{{"uptime":"{}s"}}"#, process.started.elapsed().as_secs())
}

fn page(request: &OriginRequest) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html>\n<head><title>adit</title></head>\n<body>\n<h1>Congrats! You created a tunnel!</h1>\n<dl>\n",
    );
    let mut line = |name: &str, value: &str| {
        writeln!(page, "<dd>{name}: {}</dd>", escaped(value)).expect("a string takes all that is written");
    };
    line("Method", request.method.as_str());
    line("Request URL", &request.uri.to_string());
    line("Host", &request.host);
    for (name, value) in &request.headers {
        line(&format!("Header {name}"), &String::from_utf8_lossy(value.as_bytes()));
    }
    page.push_str("</dl>\n</body>\n</html>\n");
    page
}

/// Text that is nothing but text in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
