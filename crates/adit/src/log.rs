//! Log lines on standard error: `2026-01-24T22:15:25Z INF message key=value` (tunnel protocol, 6.1), or JSON.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, bail};
use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::command_line::LogFlags;

/// Starts logging as the flags say.
pub(crate) fn start(flags: &LogFlags) -> anyhow::Result<()> {
    start_with_file(flags, None)
}

/// The same, and also into a file, at whose end is written.
pub(crate) fn start_with_file(flags: &LogFlags, file: Option<&Path>) -> anyhow::Result<()> {
    let level = match flags.loglevel.as_deref().unwrap_or("info") {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" => LevelFilter::ERROR,
        other => bail!("loglevel: expected debug, info, warn or error, not {other:?}"),
    };
    // Libraries speak up when something is wrong; what we do is ours to say.
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse_lossy(format!("warn,{}", OURS.map(|name| format!("{name}={level}")).join(",")));
    let opened = file.map(|path| {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("cannot log to {}", path.display()))
    });
    let writer = match opened.transpose()? {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(file) => BoxMakeWriter::new(std::io::stderr.and(Mutex::new(file))),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    match flags.log_output.as_deref().unwrap_or("default") {
        "default" => builder.event_format(Line).init(),
        "json" => builder.event_format(JsonLine).init(),
        other => bail!("log-output: expected default or json, not {other:?}"),
    }
    Ok(())
}

const OURS: [&str; 10] = [
    "adit",
    "adit_agent",
    "adit_connector",
    "adit_control",
    "adit_edge",
    "adit_netstack",
    "adit_policy",
    "adit_store",
    "adit_transport",
    "adit_wire",
];

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let now = OffsetDateTime::now_utc().format(&format).map_err(|_| fmt::Error)?;
        let level = match *event.metadata().level() {
            Level::TRACE => "TRC",
            Level::DEBUG => "DBG",
            Level::INFO => "INF",
            Level::WARN => "WRN",
            Level::ERROR => "ERR",
        };
        write!(writer, "{now} {level} ")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// `{"level":"info","time":"...","message":"...",...}`, as zerolog writes it (tunnel protocol, 6.1).
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let now = OffsetDateTime::now_utc().format(&format).map_err(|_| fmt::Error)?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let mut line = JsonFields(serde_json::Map::new());
        line.0.insert("level".into(), level.into());
        line.0.insert("time".into(), now.into());
        event.record(&mut line);
        writeln!(writer, "{}", serde_json::Value::Object(line.0))
    }
}

struct JsonFields(serde_json::Map<String, serde_json::Value>);

impl Visit for JsonFields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
}
