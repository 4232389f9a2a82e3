//! Vectors: expressions with facts and the answer that is wanted, one JSON object per line (the contract's section 14).
//!
//! They are how the contract states what an expression means, how this crate is tested, and how an administrator checks
//! an expression before it becomes a rule (`adit policy test`). A line has `e`, and may have `id`, `facts` (a field that
//! is absent is missing), `lists`, `want` (true, false, `"ok"` for accepted, `"error"`), `compat` (what is wanted instead
//! where the strict engine differs), `code` (of the error), `canonical`, `lints`, `filter` and `action`. Lists stand by
//! their ids, each as an array of items or as an object with `type` and `items`; a line with nothing but lists gives them
//! to all lines behind it.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::Expression;
use crate::facts::{Attribute, Fact, Facts, Texts};
use crate::list::{List, ListId, ListKind};
use crate::scheme::{Scheme, Type};

/// One vector.
#[derive(Debug, Clone)]
pub struct Vector {
    /// Its line, from 1.
    pub line: usize,
    /// Its name; without one, its line's.
    pub id: String,
    /// The expression.
    pub expression: String,
    /// Which filter's fields it may name.
    pub filter: Option<String>,
    /// What the rule would do.
    pub action: Option<String>,
    facts: Map<String, Value>,
    lists: HashMap<ListId, ListKind>,
    contents: HashMap<ListId, List>,
    want: Want,
    code: Option<String>,
    canonical: Option<String>,
    lints: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Answer(bool),
    Accepted,
    Refused,
}

/// A line that is no vector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub text: String,
}

/// A vector whose answer was another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The vector's line, from 1.
    pub line: usize,
    /// The vector's name.
    pub id: String,
    /// Its expression.
    pub expression: String,
    /// What was wanted.
    pub wanted: String,
    /// What came.
    pub found: String,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, id, expression, wanted, found } = self;
        write!(f, "line {line}")?;
        if *id != format!("line {line}") {
            write!(f, ", {id}")?;
        }
        write!(f, ": {expression}\n  wanted {wanted}\n  found  {found}")
    }
}

/// Reads a file of vectors. Blank lines are skipped.
pub fn read(text: &str) -> Result<Vec<Vector>, LineError> {
    let mut vectors = Vec::new();
    let mut shared = Map::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |text: String| LineError { line: index + 1, text };
        let Value::Object(object) = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?
        else {
            return Err(wrong("an object was expected".to_owned()));
        };
        if let (None, Some(Value::Object(lists))) = (object.get("e"), object.get("lists")) {
            shared.extend(lists.clone());
            continue;
        }
        vectors.push(Vector::new(index + 1, &object, &shared).map_err(wrong)?);
    }
    Ok(vectors)
}

impl Vector {
    fn new(line: usize, object: &Map<String, Value>, shared: &Map<String, Value>) -> Result<Self, String> {
        const KEYS: [&str; 11] =
            ["id", "e", "facts", "lists", "want", "compat", "code", "canonical", "lints", "filter", "action"];
        if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("unknown key {key}: there are {}", KEYS.join(", ")));
        }
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let map = |key: &str| match object.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => Err(format!("{key}: an object was expected")),
        };
        let want = object.get("compat").or(object.get("want")).ok_or("want is missing")?;
        let want = match want {
            Value::Bool(answer) => Want::Answer(*answer),
            Value::String(word) if word == "error" => Want::Refused,
            Value::String(word) if word == "ok" => Want::Accepted,
            other @ (Value::Null
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_)) => {
                return Err(format!("want: {other}: true, false, \"ok\" or \"error\" was expected"));
            }
        };
        let lints = object.get("lints").map(|lints| {
            let lints = lints.as_array().map(Vec::as_slice).unwrap_or_default();
            lints.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        });
        let mut vector = Self {
            line,
            id: text("id").unwrap_or_else(|| format!("line {line}")),
            expression: text("e").ok_or("e: an expression was expected")?,
            filter: text("filter"),
            action: text("action"),
            facts: map("facts")?,
            lists: HashMap::new(),
            contents: HashMap::new(),
            want,
            code: text("code"),
            canonical: text("canonical"),
            lints,
        };
        for (name, list) in shared.clone().into_iter().chain(map("lists")?) {
            let (id, kind, list) = read_list(&name, &list)?;
            vector.lists.insert(id, kind);
            vector.contents.insert(id, list);
        }
        Ok(vector)
    }

    /// Runs it with a scheme's fields: a miss if the answer is not the wanted one, an error if its facts do not fit.
    pub fn run(&self, scheme: &Scheme) -> Result<Option<Miss>, LineError> {
        let miss = |wanted: String, found: String| {
            let (id, expression) = (self.id.clone(), self.expression.clone());
            Ok(Some(Miss { line: self.line, id, expression, wanted, found }))
        };
        let expression = match Expression::new(&self.expression, scheme, &self.lists) {
            Ok(expression) => expression,
            Err(error) => {
                let found = format!("{error} [{}]", error.code);
                return match (&self.want, &self.code) {
                    (Want::Refused, None) => Ok(None),
                    (Want::Refused, Some(code)) if *code == error.code.as_str() => Ok(None),
                    (Want::Refused, Some(code)) => miss(format!("the error {code}"), found),
                    (Want::Answer(answer), _) => miss(answer.to_string(), found),
                    (Want::Accepted, _) => miss("to be accepted".to_owned(), found),
                };
            }
        };
        let canonical = expression.as_ref().map(Expression::canonical).unwrap_or_default().to_owned();
        if self.want == Want::Refused {
            return miss("an error".to_owned(), format!("accepted as {canonical}"));
        }
        if let Some(wanted) = self.canonical.as_ref().filter(|wanted| **wanted != canonical) {
            return miss(wanted.clone(), canonical);
        }
        if let Some(lints) = &self.lints {
            let lint = |lint: &crate::Lint| lint.code.as_str().to_owned();
            let found: Vec<String> = expression.iter().flat_map(Expression::lints).map(lint).collect();
            if found != *lints {
                return miss(format!("the remarks {lints:?}"), format!("{found:?}"));
            }
        }
        let Want::Answer(answer) = self.want else { return Ok(None) };
        let owned = self.owned_facts(scheme)?;
        let mut facts = Facts::default();
        for (slot, owned) in &owned {
            facts.set(*slot, owned.fact());
        }
        let found = expression.is_none_or(|expression| expression.compile().matches(&facts, &self.contents));
        if found == answer { Ok(None) } else { miss(answer.to_string(), found.to_string()) }
    }

    fn owned_facts(&self, scheme: &Scheme) -> Result<Vec<(crate::Slot, Owned)>, LineError> {
        let fact = |(name, value): (&String, &Value)| {
            let wrong = |text: String| LineError { line: self.line, text: format!("facts: {name}: {text}") };
            let field = scheme.field(name).ok_or_else(|| wrong("no such field".to_owned()))?;
            let owned = Owned::new(field.kind, value)
                .ok_or_else(|| wrong(format!("{value} is not {}", field.kind)))?;
            Ok((field.slot, owned))
        };
        self.facts.iter().filter(|(_, value)| !value.is_null()).map(fact).collect()
    }
}

/// Reads a list by its id, with or without `$` and dashes.
fn read_list(name: &str, list: &Value) -> Result<(ListId, ListKind, List), String> {
    let id = name.trim_start_matches('$').replace('-', "");
    let id = ListId::from_hex(&id).ok_or_else(|| format!("lists: {name}: the id of a list was expected"))?;
    let items = list.get("items").unwrap_or(list).as_array();
    let items = items.ok_or_else(|| format!("lists: {name}: an array of items was expected"))?;
    let item = |item: &Value| match item.get("value").unwrap_or(item) {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let items: Vec<String> = items
        .iter()
        .map(|value| item(value).ok_or_else(|| format!("lists: {name}: {value} is no item")))
        .collect::<Result<_, _>>()?;
    let kind = match list.get("type").or(list.get("kind")).and_then(Value::as_str) {
        Some(kind) => {
            ListKind::from_name(kind).ok_or_else(|| format!("lists: {name}: unknown type {kind}"))?
        }
        None if items.iter().all(|item| item.parse::<i64>().is_ok()) => ListKind::Category,
        None if items
            .iter()
            .all(|item| item.split('/').next().is_some_and(|a| a.parse::<IpAddr>().is_ok())) =>
        {
            ListKind::Ip
        }
        None => ListKind::Domain,
    };
    let list = List::new(kind, items.iter().map(String::as_str))
        .map_err(|error| format!("lists: {name}: {error}"))?;
    Ok((id, kind, list))
}

/// A fact that owns what it holds.
#[derive(Debug, Clone)]
enum Owned {
    Bool(bool),
    Int(i64),
    Ip(IpAddr),
    Bytes(String),
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Ips(Vec<IpAddr>),
    Texts(Vec<String>),
    Map(Vec<Attribute>),
}

impl Owned {
    fn new(kind: Type, value: &Value) -> Option<Self> {
        let one = std::slice::from_ref(value);
        let elements = value.as_array().map_or(one, Vec::as_slice).iter();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let ip = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
        Some(match kind {
            Type::Bool => Self::Bool(value.as_bool()?),
            Type::Int => Self::Int(value.as_i64()?),
            Type::Ip => Self::Ip(ip(value)?),
            Type::Bytes => Self::Bytes(text(value)?),
            Type::Array(Type::Bool) => Self::Bools(elements.map(Value::as_bool).collect::<Option<_>>()?),
            Type::Array(Type::Int) => Self::Ints(elements.map(Value::as_i64).collect::<Option<_>>()?),
            Type::Array(Type::Ip) => Self::Ips(elements.map(ip).collect::<Option<_>>()?),
            Type::Array(Type::Bytes) => Self::Texts(elements.map(text).collect::<Option<_>>()?),
            Type::Map(Type::Array(Type::Bytes)) => {
                let attribute = |(name, values): (&String, &Value)| {
                    let one = std::slice::from_ref(values);
                    let values = values.as_array().map_or(one, Vec::as_slice).iter().map(text);
                    Some(Attribute { name: name.clone(), values: values.collect::<Option<_>>()? })
                };
                let mut attributes = value.as_object()?.iter().map(attribute).collect::<Option<Vec<_>>>()?;
                attributes.sort_by(|a, b| a.name.cmp(&b.name));
                Self::Map(attributes)
            }
            Type::Array(_) | Type::Map(_) => return None,
        })
    }

    fn fact(&self) -> Fact<'_> {
        match self {
            Self::Bool(value) => Fact::Bool(*value),
            Self::Int(value) => Fact::Int(*value),
            Self::Ip(value) => Fact::Ip(*value),
            Self::Bytes(value) => Fact::Bytes(value.as_bytes()),
            Self::Bools(values) => Fact::Bools(values),
            Self::Ints(values) => Fact::Ints(values),
            Self::Ips(values) => Fact::Ips(values),
            Self::Texts(values) => Fact::Texts(Texts::Strings(values)),
            Self::Map(attributes) => Fact::Map(attributes),
        }
    }
}
