//! `-o json` and `-o yaml`, byte for byte as cloudflared prints its objects (tunnel protocol, 6.5).
//!
//! Both come from one tree: JSON has the API's names, escapes what HTML would read, and is indented by two; YAML has the
//! names of the program's fields and yaml.v3's choice of quotes. Texts with line breaks are the one difference: here they
//! are quoted, there they are literal blocks.

use std::fmt::Write as _;

use ipnet::IpNet;
use time::OffsetDateTime;

use super::failure::Failure;
use super::object::go_time;

/// A value to print.
#[derive(Debug)]
pub(super) enum Shown {
    Text(String),
    Time(Option<OffsetDateTime>),
    Flag(bool),
    Network(IpNet),
    List(Vec<Shown>),
    /// A list that was never filled: `null` in JSON.
    NoList,
    /// A text that is not there: no key in JSON.
    Absent,
    Object(Vec<Member>),
}

/// One member of an object, with its name in JSON and in YAML.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) json: &'static str,
    pub(super) yaml: &'static str,
    pub(super) value: Shown,
}

pub(super) fn member(json: &'static str, yaml: &'static str, value: Shown) -> Member {
    Member { json, yaml, value }
}

/// Prints a value in the format that was asked for.
pub(super) fn render(format: &str, value: &Shown) -> Result<String, Failure> {
    let mut text = String::new();
    match format {
        "json" => {
            json(&mut text, value, 0);
            text.push('\n');
        }
        "yaml" => yaml_document(&mut text, value),
        other => return Err(Failure::new(format!("Unknown output format '{other}'"))),
    }
    Ok(text)
}

fn json(text: &mut String, value: &Shown, depth: usize) {
    match value {
        Shown::Text(value) => json_text(text, value),
        Shown::Time(value) => json_text(text, &go_time(*value)),
        Shown::Flag(value) => text.push_str(if *value { "true" } else { "false" }),
        Shown::Network(value) => json_text(text, &value.to_string()),
        Shown::NoList | Shown::Absent => text.push_str("null"),
        Shown::List(items) => {
            json_lines(text, ('[', ']'), depth, items, |text, item| json(text, item, depth + 1));
        }
        Shown::Object(members) => {
            let present: Vec<&Member> =
                members.iter().filter(|member| !matches!(member.value, Shown::Absent)).collect();
            json_lines(text, ('{', '}'), depth, &present, |text, member| {
                json_text(text, member.json);
                text.push_str(": ");
                json(text, &member.value, depth + 1);
            });
        }
    }
}

fn json_lines<T>(
    text: &mut String,
    (open, close): (char, char),
    depth: usize,
    items: &[T],
    each: impl Fn(&mut String, &T),
) {
    text.push(open);
    for (at, item) in items.iter().enumerate() {
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        indent(text, 2 * (depth + 1));
        each(text, item);
    }
    if !items.is_empty() {
        text.push('\n');
        indent(text, 2 * depth);
    }
    text.push(close);
}

fn json_text(text: &mut String, value: &str) {
    text.push('"');
    for char in value.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _infallible = write!(text, "\\u{:04x}", u32::from(char));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

fn yaml_document(text: &mut String, value: &Shown) {
    match value {
        Shown::Object(members) => yaml_object(text, members, 0, 0),
        Shown::List(items) if !items.is_empty() => yaml_list(text, items, 0),
        other @ (Shown::Text(_)
        | Shown::Time(_)
        | Shown::Flag(_)
        | Shown::Network(_)
        | Shown::List(_)
        | Shown::NoList
        | Shown::Absent) => {
            text.push_str(yaml_scalar(other).trim_start());
            text.push('\n');
        }
    }
}

/// The lines of an object; the first is indented by `first` alone, since it may stand behind a dash.
fn yaml_object(text: &mut String, members: &[Member], first: usize, depth: usize) {
    for (at, member) in members.iter().enumerate() {
        indent(text, if at == 0 { first } else { depth });
        text.push_str(member.yaml);
        text.push(':');
        let inner = 4 * ((depth + 4) / 4);
        match &member.value {
            Shown::List(items) if !items.is_empty() => {
                text.push('\n');
                yaml_list(text, items, inner);
            }
            Shown::Object(members) => {
                text.push('\n');
                yaml_object(text, members, inner, inner);
            }
            Shown::Network(network) => {
                text.push('\n');
                yaml_network(text, *network, inner);
            }
            scalar @ (Shown::Text(_)
            | Shown::Time(_)
            | Shown::Flag(_)
            | Shown::List(_)
            | Shown::NoList
            | Shown::Absent) => {
                text.push_str(&yaml_scalar(scalar));
                text.push('\n');
            }
        }
    }
}

fn yaml_list(text: &mut String, items: &[Shown], depth: usize) {
    for item in items {
        indent(text, depth);
        text.push('-');
        match item {
            Shown::Object(members) => {
                text.push(' ');
                yaml_object(text, members, 0, depth + 2);
            }
            scalar @ (Shown::Text(_)
            | Shown::Time(_)
            | Shown::Flag(_)
            | Shown::Network(_)
            | Shown::List(_)
            | Shown::NoList
            | Shown::Absent) => {
                text.push_str(&yaml_scalar(scalar));
                text.push('\n');
            }
        }
    }
}

/// Address and mask, byte by byte.
fn yaml_network(text: &mut String, network: IpNet, depth: usize) {
    let mask = match network.netmask() {
        std::net::IpAddr::V4(mask) => mask.octets().to_vec(),
        std::net::IpAddr::V6(mask) => mask.octets().to_vec(),
    };
    indent(text, depth);
    let _infallible = writeln!(text, "ip: {}", yaml_text(&network.addr().to_string()));
    indent(text, depth);
    text.push_str("mask:\n");
    for byte in mask {
        indent(text, 4 * ((depth + 4) / 4));
        let _infallible = writeln!(text, "- {byte}");
    }
}

/// What stands behind a key or a dash on its line, a blank first.
fn yaml_scalar(value: &Shown) -> String {
    match value {
        Shown::Text(value) => format!(" {}", yaml_text(value)),
        Shown::Time(value) => format!(" {}", go_time(*value)),
        Shown::Flag(value) => format!(" {value}"),
        Shown::Network(value) => format!(" {}", yaml_text(&value.to_string())),
        Shown::Absent => " null".into(),
        Shown::NoList | Shown::List(_) | Shown::Object(_) => " []".into(),
    }
}

/// A text: plain where it reads back as a text, else quoted.
fn yaml_text(value: &str) -> String {
    if value.chars().any(char::is_control) || reads_as_other(value) {
        let mut quoted = String::new();
        yaml_double(&mut quoted, value);
        return quoted;
    }
    if plain(value) { value.to_owned() } else { format!("'{}'", value.replace('\'', "''")) }
}

/// Whether a parser would take the plain text for something else: nothing, a flag, a number, a time.
fn reads_as_other(value: &str) -> bool {
    const WORDS: [&str; 33] = [
        "", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "y", "Y", "yes",
        "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF", "<<", ".nan",
        ".NaN", ".NAN", ".inf", ".Inf",
    ];
    if WORDS.contains(&value) {
        return true;
    }
    let unsigned = value.strip_prefix(['+', '-']).unwrap_or(value);
    if [".inf", ".Inf", ".INF"].contains(&unsigned) {
        return true;
    }
    if !unsigned.starts_with(|char: char| char.is_ascii_digit() || char == '.') {
        return false;
    }
    let digits = unsigned.replace('_', "");
    let based = [("0x", 16), ("0o", 8), ("0b", 2)];
    let integer = based.iter().any(|(prefix, radix)| {
        digits.strip_prefix(prefix).is_some_and(|rest| u64::from_str_radix(rest, *radix).is_ok())
    });
    integer || float(&digits) || base60(unsigned) || date(unsigned)
}

/// `[0-9]*.[0-9]*` with a digit somewhere, and perhaps an exponent.
fn float(text: &str) -> bool {
    let (mantissa, exponent) =
        text.find(['e', 'E']).map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()) && exponent
}

/// `1:30:00`: a number in YAML 1.1.
fn base60(text: &str) -> bool {
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default();
    let mut rest = parts.peekable();
    let whole =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    rest.peek().is_some()
        && whole(first)
        && rest.all(|part| {
            let part = part.split_once('.').map_or(part, |(whole, _)| whole);
            part.parse::<u8>().is_ok_and(|part| part < 60) && part.len() <= 2
        })
}

/// A date, with or without a time behind it.
fn date(text: &str) -> bool {
    let (date, time) = text.find(['T', 't', ' ']).map_or((text, ""), |at| (&text[..at], &text[at..]));
    let mut parts = date.split('-');
    let year =
        parts.next().is_some_and(|year| year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()));
    let mut two =
        || parts.next().is_some_and(|part| (1..=2).contains(&part.len()) && part.parse::<u8>().is_ok());
    let (month, day) = (two(), two());
    year && month && day && parts.next().is_none() && (time.is_empty() || time.contains(':'))
}

/// Whether a text may stand without quotes (YAML 1.2, 7.3.3, as libyaml has it).
fn plain(value: &str) -> bool {
    let first = value.chars().next().unwrap_or(' ');
    let alone = |rest: Option<char>| rest.is_none_or(|char| char == ' ');
    let starts_badly = ",[]{}#&*!|>'\"%@`".contains(first)
        || ("?:-".contains(first) && alone(value.chars().nth(1)))
        || value.starts_with("---")
        || value.starts_with("...");
    let ends_badly = value.starts_with(' ') || value.ends_with(' ') || value.ends_with(':');
    !starts_badly && !ends_badly && !value.contains(": ") && !value.contains(" #")
}

fn yaml_double(text: &mut String, value: &str) {
    text.push('"');
    for char in value.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            other if other.is_control() => {
                let _infallible = write!(text, "\\x{:02x}", u32::from(other));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

fn indent(text: &mut String, by: usize) {
    text.extend(std::iter::repeat_n(' ', by));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_where_they_would_read_as_something_else() {
        for (given, expected) in [
            ("k8s", "k8s"),
            ("a comment: x", "'a comment: x'"),
            ("2001:db8::", "'2001:db8::'"),
            ("10.0.0.0", "10.0.0.0"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("no", "\"no\""),
            ("12", "\"12\""),
            ("0x1f", "\"0x1f\""),
            ("1e3", "\"1e3\""),
            ("1:30", "\"1:30\""),
            ("2026-01-02", "\"2026-01-02\""),
            ("a\nb", "\"a\\nb\""),
            ("it's", "it's"),
            ("'it", "'''it'"),
            ("- x", "'- x'"),
            ("-x", "-x"),
            ("a #b", "'a #b'"),
            ("a#b", "a#b"),
            ("093c6e89-e6df-40c6-932c-1279b07ba19a", "093c6e89-e6df-40c6-932c-1279b07ba19a"),
        ] {
            assert_eq!(yaml_text(given), expected, "{given:?}");
        }
    }

    #[test]
    fn json_escapes_what_html_would_read() {
        let mut text = String::new();
        json_text(&mut text, "a<b>&\"\\\n\u{1}\u{2028}ü");
        assert_eq!(text, "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\n\\u0001\\u2028ü\"");
    }

    #[test]
    fn empty_lists_differ() {
        let render = |format, value| render(format, &value).unwrap_or_else(|error| error.to_string());
        assert_eq!(render("json", Shown::NoList), "null\n");
        assert_eq!(render("json", Shown::List(vec![])), "[]\n");
        assert_eq!(render("yaml", Shown::NoList), "[]\n");
        assert_eq!(render("yaml", Shown::List(vec![])), "[]\n");
        assert_eq!(render("xml", Shown::NoList), "Unknown output format 'xml'");
    }
}
