//! `adit policy plan`: which recorded flows would be decided otherwise, before a change of rules and lists is made.
//!
//! The files are those of `adit apply`, and what they would change is worked out by it; the installation decides recorded
//! flows twice and answers what differs. Nothing is changed.

use std::path::PathBuf;
use std::time::Duration;

use adit_model::GoDuration;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::apply;
use crate::manage::block_on;
use crate::manage::commands::FileFlags;
use crate::manage::problem::{Code, Problem};
use crate::manage::session::InstallationFlags;
use crate::table;

pub(super) const EXAMPLES: &str = "Examples:
  adit policy plan rules.yaml
  adit policy plan rules/ --since 24h
  adit policy plan rules.yaml --prune --output json";

/// Groups that are printed as lines.
const MAX_LINES: usize = 50;

#[derive(Debug, Args)]
pub(super) struct PlanCommand {
    /// YAML files with rules and lists as for `adit apply`, or directories of such; - is standard input
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
    /// Also delete the rules and lists that the files do not have, of the kinds that they have
    #[arg(long)]
    prune: bool,
    /// How far back recorded flows are looked at, such as 24h
    #[arg(long, value_name = "DURATION", default_value = "168h")]
    since: String,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value = "text", value_name = "FORMAT")]
    output: Printed,
    #[command(flatten)]
    installation: InstallationFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Printed {
    Text,
    Json,
}

pub(super) fn run(command: PlanCommand) -> anyhow::Result<()> {
    block_on(async {
        let since = since(&command.since, OffsetDateTime::now_utc())?;
        let files = FileFlags { files: command.files, prune: command.prune };
        let (session, operations) =
            apply::operations(&files, &command.installation, &["rule", "list"]).await?;
        if operations.is_empty() {
            return Ok("the files change nothing\n".to_owned());
        }
        let body = json!({ "operations": operations, "since": since });
        let plan = session.call("POST", &session.of_account("x/policy/plan"), Some(&body)).await?;
        Ok(match command.output {
            Printed::Text => told(&plan),
            Printed::Json => serde_json::to_string_pretty(&plan).unwrap_or_default() + "\n",
        })
    })
}

fn since(text: &str, now: OffsetDateTime) -> Result<String, Problem> {
    let wrong = || Problem::usage(format!("--since: expected a duration such as 24h, not {text:?}"));
    let back: Duration = text.parse::<GoDuration>().map_err(|_| wrong())?.get();
    let since = now.checked_sub(back.try_into().map_err(|_| wrong())?).ok_or_else(wrong)?;
    since.format(&Rfc3339).map_err(|_| Problem::new(Code::Failed, "there is no such time"))
}

fn told(plan: &Value) -> String {
    let count = |key: &str| plan[key].as_u64().unwrap_or_default();
    let groups = plan["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines = Vec::new();
    if !groups.is_empty() {
        let rows: Vec<Vec<String>> = groups.iter().take(MAX_LINES).map(row).collect();
        let header = ["FLOWS", "BEFORE", "AFTER", "DEVICE", "DESTINATION", "FOR EXAMPLE"];
        lines.push(table::lines(&header, &rows).trim_end_matches('\n').to_owned());
    }
    if groups.len() > MAX_LINES {
        lines.push(format!("and {} groups more: --output json has them", groups.len() - MAX_LINES));
    }
    lines.push(format!(
        "{} of {} recorded flows since {} would be decided otherwise",
        count("different"),
        count("looked_at"),
        plan["since"].as_str().unwrap_or_default()
    ));
    for (reason, count) in plan["unknown"].as_object().into_iter().flatten() {
        lines.push(format!("not known of {count} flows: {reason}"));
    }
    let messages = plan["messages"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(messages.map(str::to_owned));
    lines.join("\n") + "\n"
}

fn row(group: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let outcome = |outcome: &Value| match outcome["rule_name"].as_str() {
        Some(name) => format!("{} by {name:?}", text(&outcome["effect"])),
        None => text(&outcome["effect"]),
    };
    let address = text(&group["destination_ip"]);
    let address = if address.contains(':') { format!("[{address}]") } else { address };
    let device = group["device_name"].as_str().or(group["device_id"].as_str()).unwrap_or("-");
    vec![
        group["count"].to_string(),
        outcome(&group["before"]),
        outcome(&group["after"]),
        device.to_owned(),
        format!("{} {address}:{}", text(&group["protocol"]), group["destination_port"]),
        text(&group["examples"][0]["at"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_in_lines() {
        let outcome = |effect: &str, rule: Option<&str>| json!({ "effect": effect, "rule_name": rule });
        let plan = json!({
            "since": "2026-11-24T00:00:00Z", "looked_at": 12, "different": 3, "complete": true,
            "unknown": { "the record does not say whose flow it was": 2 },
            "messages": [],
            "groups": [{
                "before": outcome("allow", None), "after": outcome("block", Some("no ssh")), "device_name": "laptop",
                "destination_ip": "2001:db8::1", "destination_port": 22, "protocol": "tcp", "count": 3,
                "examples": [{ "at": "2026-11-30T10:00:00Z" }],
            }],
        });
        let expected = "FLOWS BEFORE AFTER             DEVICE DESTINATION          FOR EXAMPLE          \n\
                        3     allow  block by \"no ssh\" laptop tcp [2001:db8::1]:22 2026-11-30T10:00:00Z \n\
                        3 of 12 recorded flows since 2026-11-24T00:00:00Z would be decided otherwise\n\
                        not known of 2 flows: the record does not say whose flow it was\n";
        assert_eq!(told(&plan), expected);
    }

    #[test]
    fn since_is_a_duration_back_from_now() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        assert_eq!(since("24h", now).unwrap(), "2027-01-14T08:00:00Z");
        assert!(since("yesterday", now).unwrap_err().text.contains("--since: expected a duration"));
    }
}
