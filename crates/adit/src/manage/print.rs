//! How objects are printed: tables that fit the terminal, JSON and YAML that are the API's objects.

use std::fmt::Write as _;
use std::io::IsTerminal;

use clap::ValueEnum;
use serde_json::Value;

use super::kind::Kind;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, for people
    Table,
    /// The API's objects
    Json,
    /// The same as YAML
    Yaml,
}

/// Whether what is printed may have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

impl Colour {
    /// Only on a terminal, and not where the person wants none (no-color.org).
    pub(crate) fn of_output() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if unwanted || dumb || !std::io::stdout().is_terminal() { Self::Off } else { Self::On }
    }

    /// A text in a colour, by its code (ECMA-48, 8.3.117).
    pub(crate) fn paint(self, code: u8, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }
}

/// The columns of the terminal, if the output is one.
pub(crate) fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

/// A table of objects.
pub(crate) fn table(kind: &Kind, objects: &[Value], width: Option<usize>, colour: Colour) -> String {
    let titles = kind.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let row = |object: &Value| kind.columns.iter().map(|(_, key)| cell(object, key)).collect();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(objects.iter().map(row)).collect();
    let count = kind.columns.len();
    let mut widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    // The widest column gives way first; none below what says something.
    while let Some(most) = width
        && widths.iter().sum::<usize>() + GAP.len() * (count - 1) > most
    {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > NARROWEST) else { break };
        *widest -= 1;
    }
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| fitted(cell, *width));
        let line = cells.collect::<Vec<_>>().join(GAP);
        let line = line.trim_end();
        text.push_str(&if at == 0 { colour.paint(BOLD, line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}

fn fitted(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length > width {
        return cell.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
    format!("{cell}{}", " ".repeat(width - length))
}

/// What a field says in a column.
fn cell(object: &Value, key: &str) -> String {
    let text = match object.pointer(&format!("/{key}")) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if is_time(text) => format!("{}Z", &text[..19]),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Some(Value::Array(items)) => items.len().to_string(),
        Some(other) => other.to_string(),
    };
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Whether a text is a time of the API's; its fractions of a second say nothing to people.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.is_ascii()
        && text.len() >= 20
        && bytes[4] == b'-'
        && bytes[10] == b'T'
        && bytes[19..].ends_with(b"Z")
}

/// A value as indented JSON.
pub(crate) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A value as YAML in block style.
pub(crate) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

/// A value at an indent; the text is at the start of a line.
fn block(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                text.push_str(&" ".repeat(depth));
                member(text, key, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&" ".repeat(depth));
                text.push_str("- ");
                inside(text, item, depth + 2);
            }
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
}

/// A value behind a dash.
fn inside(text: &mut String, value: &Value, depth: usize) {
    let mut inner = String::new();
    block(&mut inner, value, depth);
    text.push_str(inner.trim_start_matches(' '));
}

/// One member, behind its indent.
pub(crate) fn member(text: &mut String, key: &str, value: &Value, depth: usize) {
    text.push_str(&plain_or_quoted(key));
    match value {
        Value::Object(members) if !members.is_empty() => {
            text.push_str(":\n");
            block(text, value, depth + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push_str(":\n");
            block(text, value, depth + 2);
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            let _infallible = writeln!(text, ": {}", scalar(value));
        }
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), plain_or_quoted)
}

/// A text as it is where YAML reads it as a text, else in double quotes, in which YAML reads what JSON writes.
fn plain_or_quoted(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let lower = text.to_ascii_lowercase();
    let word = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"].contains(&lower.as_str());
    if begins && !word && text.bytes().all(safe) {
        return text.to_owned();
    }
    let mut quoted = String::new();
    for letter in Value::from(text).to_string().chars() {
        // What JSON may have as it is, and YAML may not: control characters, separators, marks of the order of bytes.
        if letter.is_control()
            || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
        {
            let _infallible = write!(quoted, "\\u{:04x}", u32::from(letter));
        } else {
            quoted.push(letter);
        }
    }
    quoted
}

/// Between two columns.
const GAP: &str = "   ";
/// Below this, in characters, no column gives way.
const NARROWEST: usize = 8;
/// The code of bold text.
const BOLD: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn routes() -> Vec<Value> {
        vec![
            json!({ "id": "5c1f", "network": "10.0.0.0/8", "tunnel_name": "k8s", "comment": "a\nb" }),
            json!({ "id": "77aa", "network": "2001:db8::/32", "tunnel_name": "office", "comment": "x".repeat(60) }),
        ]
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let route = Kind::named("route").unwrap();
        insta::assert_snapshot!(table(route, &routes(), Some(80), Colour::Off));
        assert!(table(route, &routes(), None, Colour::Off).contains(&"x".repeat(60)));
        assert!(table(route, &routes(), None, Colour::On).starts_with("\x1b[1mID"));
    }

    #[test]
    fn yaml_reads_back_as_what_it_was() {
        let value = json!({
            "name": "k8s", "off": "off", "number": "12", "empty": "", "list": [], "object": {},
            "items": [{ "value": "192.0.2.0/24", "nested": [[1, 2], ["a: b"]] }, null, 1.5, true],
            "text": "line\nbreak \"quoted\" ü #", "null": null
        });
        let text = yaml(&value);
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, value, "{text}");
    }
}
