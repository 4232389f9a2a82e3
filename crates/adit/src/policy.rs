//! `adit policy …`: what can be said of rules before they are in force.
//!
//! `plan` asks an installation what a change would do ([`plan`]).
//!
//! `test` runs vectors (policy language, section 14): an expression, facts, lists and the answer that is wanted, one JSON
//! object per line. It asks the engine that decides, with the fields that rules have, and neither reads nor changes an
//! installation.

mod plan;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use adit_expr::vector;
use adit_policy::scheme;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use plan::PlanCommand;

/// The largest file of vectors, in bytes: a line is some hundred.
const MAX_FILE: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct PolicyCommand {
    #[command(subcommand)]
    action: PolicyAction,
}

#[derive(Debug, Subcommand)]
enum PolicyAction {
    /// Evaluate expressions on given facts, and compare the answers with those that are wanted
    ///
    /// A line of FILE is a JSON object: "e" is the expression, "facts" the values of fields (one that is absent is
    /// missing), "lists" the lists by their ids, "want" is true, false, "ok" (accepted) or "error". "filter" and "action"
    /// say what kind of rule it is meant for; without them every field is known. A line with only "lists" gives them to
    /// all lines behind it.
    #[command(after_help = TEST_EXAMPLES)]
    Test {
        /// File of vectors, one JSON object per line; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Tell which recorded flows a change of rules and lists would decide otherwise, and change nothing
    #[command(after_help = plan::EXAMPLES)]
    Plan(Box<PlanCommand>),
}

const TEST_EXAMPLES: &str = r#"Examples:
  adit policy test vectors.jsonl
  echo '{"e": "net.dst.port in {22 443}", "facts": {"net.dst.port": 22}, "want": true}' | adit policy test -"#;

pub(crate) fn run(command: PolicyCommand) -> anyhow::Result<()> {
    let file = match command.action {
        PolicyAction::Test { file } => file,
        PolicyAction::Plan(command) => return plan::run(*command),
    };
    let text = read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (report, missed) = test(&text).with_context(|| file.display().to_string())?;
    // A reader that has seen enough (`| head`) is no error.
    let _read = io::stdout().lock().write_all(report.as_bytes());
    if missed > 0 {
        bail!("{}: {missed} {} missed", file.display(), if missed == 1 { "vector" } else { "vectors" });
    }
    Ok(())
}

fn read(file: &Path) -> io::Result<String> {
    let mut source: Box<dyn Read> =
        if file == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(fs::File::open(file)?) };
    let mut text = String::new();
    source.by_ref().take(MAX_FILE).read_to_string(&mut text)?;
    if source.read(&mut [0])? > 0 {
        let text = format!("larger than {} MiB", MAX_FILE / 1024 / 1024);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(text)
}

/// The misses and the count, as they are printed; and how many misses there are.
fn test(text: &str) -> anyhow::Result<(String, usize)> {
    let vectors = vector::read(text)?;
    let mut lines = Vec::new();
    for vector in &vectors {
        let (filter, action) = (vector.filter.as_deref(), vector.action.as_deref());
        let Some(scheme) = scheme::of_vector(filter, action) else {
            bail!("line {}: filter: there is no {}", vector.line, filter.unwrap_or_default());
        };
        if let Some(miss) = vector.run(scheme)? {
            lines.push(miss.to_string());
        }
    }
    let missed = lines.len();
    lines.push(format!("{} of {} vectors hold\n", vectors.len() - missed, vectors.len()));
    Ok((lines.join("\n"), missed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, report: &str, missed: usize) {
        assert_eq!(test(text).unwrap(), (report.to_owned(), missed));
    }

    #[test]
    fn vectors_that_hold_are_counted() {
        check(
            r#"{"lists": {"11111111-1111-1111-1111-111111111111": {"type": "IP", "items": ["10.0.0.0/8"]}}}

{"e": "any(http.conn.dst_ip[*] in $11111111111111111111111111111111)", "facts": {"http.conn.dst_ip": ["10.1.2.3"]}, "want": true}
{"e": "net.dst.ip in $22222222222222222222222222222222", "lists": {"22222222222222222222222222222222": ["::1"]}, "facts": {"net.dst.ip": "::2"}, "want": false}
{"e": "http.request.method == \"GET\"", "filter": "http", "action": "off", "want": "error", "code": "field_phase_not_allowed"}"#,
            "3 of 3 vectors hold\n",
            0,
        );
    }

    #[test]
    fn a_miss_says_what_was_wanted_and_what_came() {
        check(
            "{\"id\": \"a\", \"e\": \"net.dst.port == 22\", \"facts\": {\"net.dst.port\": 22}, \"want\": false}\n\
             {\"e\": \"net.dst.prot == 22\", \"want\": true}",
            "line 1, a: net.dst.port == 22\n  wanted false\n  found  true\n\
             line 2: net.dst.prot == 22\n  wanted true\n  found  filter parsing error (1:1): unknown identifier \
             net.dst.prot: did you mean net.dst.port? [unknown_identifier]\n\
             0 of 2 vectors hold\n",
            2,
        );
    }

    #[test]
    fn what_is_no_vector_is_an_error_with_its_line() {
        for (text, error) in [
            ("\n[]", "line 2: an object was expected"),
            ("{\"e\": \"\"}", "line 1: want is missing"),
            ("{\"e\": \"\", \"want\": true, \"fact\": {}}", "line 1: unknown key fact: there are"),
            ("{\"e\": \"\", \"want\": true, \"filter\": \"x\"}", "line 1: filter: there is no x"),
            (
                "{\"e\": \"flags\", \"want\": true, \"facts\": {\"net.dst.port\": \"a\"}}",
                "line 1: facts: net.dst.port: \"a\" is not int",
            ),
        ] {
            let found = test(text).unwrap_err().to_string();
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }
}
