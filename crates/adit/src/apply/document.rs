//! Files as objects: YAML documents with their places, checked whole against the table of kinds.
//!
//! What holds: every error names file, line, column and key; all that is wrong is found in one go; nothing is asked of an
//! installation here. Names that lead to other objects are kept as they are written ([`super::plan`] follows them).

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use crate::manage::kind::{Field, KINDS, Kind, Shape};
use crate::manage::objects::nearest;
use crate::manage::problem::{Code, Problem};

/// An object as a file has it.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) kind: &'static Kind,
    pub(super) name: String,
    /// By the API's names; references and expressions as they are written.
    pub(super) fields: BTreeMap<&'static str, Given>,
    pub(super) place: Place,
}

/// A field's value and where it stands.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A place in a file, as editors take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The documents of files and directories.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Document>, Problem> {
    let mut documents = Vec::new();
    let mut flaws = Vec::new();
    for path in files(paths)? {
        let name = path.display().to_string();
        let text =
            if path == Path::new("-") { text_of(&mut std::io::stdin().lock(), &name) } else { open(&path) }?;
        match parse(&name, &text) {
            Ok(more) => documents.extend(more),
            Err(more) => flaws.extend(more),
        }
        if documents.len() > MAX_DOCUMENTS {
            return Err(Problem::usage(format!("{name}: more than {MAX_DOCUMENTS} objects at once")));
        }
    }
    if flaws.is_empty() { Ok(documents) } else { Err(summary(flaws)) }
}

/// All flaws, a line each, up to as many as people read.
pub(super) fn summary(mut flaws: Vec<String>) -> Problem {
    let more = flaws.len().saturating_sub(MAX_FLAWS);
    flaws.truncate(MAX_FLAWS);
    if more > 0 {
        flaws.push(format!("and {more} more"));
    }
    Problem::usage(flaws.join("\nadit: "))
}

/// The files themselves; those of a directory by their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |error| Problem::usage(format!("cannot read {}: {error}", path.display()));
        if path == Path::new("-") || !std::fs::metadata(path).map_err(failed)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            let is_yaml =
                entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            if is_yaml && entry.is_file() {
                inside.push(entry);
            }
        }
        if inside.is_empty() {
            return Err(Problem::usage(format!("{}: expected *.yaml or *.yml files in it", path.display())));
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

fn open(path: &Path) -> Result<String, Problem> {
    let file = std::fs::File::open(path);
    let mut file =
        file.map_err(|error| Problem::usage(format!("cannot read {}: {error}", path.display())))?;
    text_of(&mut file, &path.display().to_string())
}

fn text_of(source: &mut dyn std::io::Read, name: &str) -> Result<String, Problem> {
    let mut text = String::new();
    let read = source.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Problem::new(Code::Usage, format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::usage(format!("{name}: larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(text)
}

/// The documents of one file, or all that is wrong with it.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Document>, Vec<String>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_documents: MAX_YAML_DOCUMENTS,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
        },
    };
    let nodes: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place = error.location().map_or_else(String::new, |at| format!(":{}:{}", at.line(), at.column()));
        let error = error.to_string();
        let line = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
        vec![format!("{file}{place}: {line}")]
    })?;
    let mut reader = Reader { file, flaws: Vec::new() };
    let documents: Vec<Document> = nodes.iter().filter_map(|node| reader.document(node)).collect();
    if reader.flaws.is_empty() { Ok(documents) } else { Err(reader.flaws) }
}

/// A value with its place.
#[derive(Debug)]
struct Node {
    tree: Tree,
    line: u64,
    column: u64,
}

#[derive(Debug)]
enum Tree {
    Leaf(Value),
    List(Vec<Node>),
    Members(Vec<(Node, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { tree: spanned.value, line, column })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(member) = members.next_entry()? {
            list.push(member);
        }
        Ok(Tree::Members(list))
    }
}

impl Node {
    fn text(&self) -> Option<&str> {
        match &self.tree {
            Tree::Leaf(value) => value.as_str(),
            Tree::List(_) | Tree::Members(_) => None,
        }
    }

    /// What it is, in words, to say what was found.
    fn what(&self) -> String {
        match &self.tree {
            Tree::Leaf(Value::Null) => "nothing".to_owned(),
            Tree::Leaf(value) => value.to_string(),
            Tree::List(_) => "a list".to_owned(),
            Tree::Members(_) => "keys with values".to_owned(),
        }
    }

    fn value(&self) -> Result<Value, (&Self, &'static str)> {
        Ok(match &self.tree {
            Tree::Leaf(value) => value.clone(),
            Tree::List(items) => items.iter().map(Self::value).collect::<Result<_, _>>()?,
            Tree::Members(members) => {
                let mut object = Map::new();
                for (key, value) in members {
                    let name = key.text().ok_or((key, "a text as key"))?;
                    object.insert(name.to_owned(), value.value()?);
                }
                object.into()
            }
        })
    }
}

/// Reads the documents of one file, and collects what is wrong.
struct Reader<'a> {
    file: &'a str,
    flaws: Vec<String>,
}

impl Reader<'_> {
    fn place(&self, node: &Node) -> Place {
        Place { file: self.file.to_owned(), line: node.line, column: node.column }
    }

    fn flaw(&mut self, node: &Node, text: impl fmt::Display) {
        let place = self.place(node);
        self.flaws.push(format!("{place}: {text}"));
    }

    fn document(&mut self, node: &Node) -> Option<Document> {
        let Tree::Members(members) = &node.tree else {
            // Nothing between two separators is nothing.
            if !matches!(node.tree, Tree::Leaf(Value::Null)) {
                self.flaw(node, "expected an object with `kind` and its keys");
            }
            return None;
        };
        let Some((_, written)) = members.iter().find(|(key, _)| key.text() == Some("kind")) else {
            self.flaw(node, format_args!("kind: missing; expected {}", kinds()));
            return None;
        };
        let kind = written.text().and_then(Kind::named).filter(|kind| kind.can_apply());
        let Some(kind) = kind else {
            self.flaw(written, format_args!("kind: expected {}, not {}", kinds(), written.what()));
            return None;
        };
        let mut document =
            Document { kind, name: String::new(), fields: BTreeMap::new(), place: self.place(node) };
        for (key, value) in members {
            self.member(&mut document, key, value);
        }
        if document.name.is_empty() && !members.iter().any(|(key, _)| key.text() == Some(kind.key)) {
            self.flaw(node, format_args!("{}: missing in this {}; expected its {0}", kind.key, kind.name));
        }
        for field in kind.fields.iter().filter(|field| field.when.is_required()) {
            if !members
                .iter()
                .any(|(key, _)| key.text().is_some_and(|key| key == field.key || key == field.api))
            {
                let text = format!(
                    "{}: missing in this {}; expected {}",
                    field.key,
                    kind.name,
                    expected(field.shape)
                );
                self.flaw(node, text);
            }
        }
        Some(document)
    }

    fn member(&mut self, document: &mut Document, key: &Node, value: &Node) {
        let kind = document.kind;
        let Some(name) = key.text() else {
            self.flaw(key, format_args!("expected a text as key, not {}", key.what()));
            return;
        };
        if name == "kind" {
            return;
        }
        if name == kind.key {
            match value.text().filter(|text| !text.is_empty()) {
                Some(text) => text.clone_into(&mut document.name),
                None => {
                    self.flaw(
                        value,
                        format_args!("{name}: expected a text, not {}{}", value.what(), quote_hint(value)),
                    );
                }
            }
            return;
        }
        let Some(field) = kind.field(name) else {
            let keys = || kind.fields.iter().map(|field| field.key).chain([kind.key, "kind"]);
            let hint = match nearest(name, keys()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it has {}", keys().collect::<Vec<_>>().join(", ")),
            };
            self.flaw(key, format_args!("{name}: a {} has no such key; {hint}", kind.name));
            return;
        };
        let Some(found) = self.field(field, value) else { return };
        let place = self.place(value);
        if document.fields.insert(field.api, Given { value: found, place }).is_some() {
            self.flaw(key, format_args!("{name}: is there twice"));
        }
    }

    /// The value of a field, in the API's form.
    fn field(&mut self, field: &Field, node: &Node) -> Option<Value> {
        let good = match (field.shape, &node.tree) {
            (Shape::Text | Shape::Reference(_) | Shape::Expression, Tree::Leaf(Value::String(text))) => {
                Some(text.clone().into())
            }
            // Nothing behind the colon is an empty text, as YAML's writers have it.
            (Shape::Text | Shape::Expression, Tree::Leaf(Value::Null)) => Some("".into()),
            (Shape::Flag, Tree::Leaf(Value::Bool(flag))) => Some((*flag).into()),
            (Shape::Number, Tree::Leaf(Value::Number(number))) if number.is_u64() => {
                Some(number.clone().into())
            }
            (Shape::Texts, Tree::List(items)) => items
                .iter()
                .map(|item| item.text().map(Value::from))
                .collect::<Option<Vec<_>>>()
                .map(Value::from),
            (Shape::Items, Tree::List(items)) => {
                let items: Vec<_> = items.iter().map(|item| self.item(field, item)).collect();
                return items.into_iter().collect::<Option<Vec<_>>>().map(Value::from);
            }
            (Shape::Object, Tree::Members(_)) => match node.value() {
                Ok(value) => Some(value),
                Err((inner, wanted)) => {
                    self.flaw(inner, format_args!("{}: expected {wanted}, not {}", field.key, inner.what()));
                    return None;
                }
            },
            _ => None,
        };
        if good.is_none() {
            let hint =
                if matches!(field.shape, Shape::Text | Shape::Reference(_)) { quote_hint(node) } else { "" };
            let text =
                format!("{}: expected {}, not {}{hint}", field.key, expected(field.shape), node.what());
            self.flaw(node, text);
        }
        good
    }

    /// An element of a list: a value, or a value with its description.
    fn item(&mut self, field: &Field, node: &Node) -> Option<Value> {
        if let Some(text) = node.text() {
            return Some(json!({ "value": text }));
        }
        let value = node.value().ok().filter(|value| {
            let known = value.as_object().is_some_and(|members| {
                members.iter().all(|(key, value)| {
                    (key == "value" && value.is_string())
                        || (key == "description" && (value.is_string() || value.is_null()))
                })
            });
            known && value["value"].is_string()
        });
        if value.is_none() {
            let text = format!(
                "{}: expected a text, or value and description, not {}{}",
                field.key,
                node.what(),
                quote_hint(node)
            );
            self.flaw(node, text);
        }
        value
    }
}

/// What a shape wants, in words.
const fn expected(shape: Shape) -> &'static str {
    match shape {
        Shape::Text => "a text",
        Shape::Flag => "true or false",
        Shape::Number => "a whole number from 0",
        Shape::Reference(_) => "the name or id of another object",
        Shape::Expression => "an expression, as a text",
        Shape::Texts => "a list of texts",
        Shape::Items => "a list of values",
        Shape::Object => "keys with values",
    }
}

/// What makes a text of what YAML takes for something else.
fn quote_hint(node: &Node) -> &'static str {
    match &node.tree {
        Tree::Leaf(Value::Bool(_) | Value::Number(_)) => "; put it in quotes",
        Tree::Leaf(_) | Tree::List(_) | Tree::Members(_) => "",
    }
}

fn kinds() -> String {
    let names: Vec<String> = KINDS.iter().filter(|kind| kind.can_apply()).map(Kind::in_files).collect();
    names.join(", ")
}

/// Feeds any bytes to the parser.
#[cfg(test)]
pub(super) fn fuzz_documents(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        match parse("f", text) {
            Ok(documents) => {
                assert!(documents.iter().all(|document| !document.name.is_empty()), "an object has a name");
            }
            Err(flaws) => assert!(flaws.iter().all(|flaw| flaw.starts_with('f')), "a flaw names its file"),
        }
    }
}

/// Objects that are applied at once: as many as one transaction takes.
const MAX_DOCUMENTS: usize = 10_000;
/// Documents of one file: an empty one between two others counts too.
const MAX_YAML_DOCUMENTS: usize = 2 * MAX_DOCUMENTS;
/// Keys, values and lists of one file: a list of 100,000 items with descriptions has 500,000.
const MAX_NODES: usize = 1_000_000;
/// How deep values may stand in one another: reading them takes stack.
const MAX_DEPTH: usize = 32;
/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Flaws that are printed.
const MAX_FLAWS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_objects_with_their_places() {
        let text =
            "# comment\nkind: tunnel\nname: k8s\n---\n---\nkind: route\nnetwork: 10.0.0.0/8\ntunnel: k8s\n";
        let documents = parse("a.yaml", text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!((documents[1].kind.name, documents[1].name.as_str()), ("route", "10.0.0.0/8"));
        let tunnel = &documents[1].fields["tunnel_id"];
        assert_eq!((tunnel.value.as_str(), tunnel.place.to_string().as_str()), (Some("k8s"), "a.yaml:8:9"));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_place() {
        let text = "kind: pod\n---\nkind: route\nnetwork: 10.0.0.0/8\ntunel: k8s\ncomment: 5\n---\n- a\n---\nname: x\n---\n\
                    kind: list\nname: 7\ntype: IP\nitems: [a, {value: b, note: c}, 5]\n---\nkind: rule\nname: r\n\
                    enabled: maybe\nprecedence: -1\naction: block\n";
        insta::assert_snapshot!(parse("a.yaml", text).unwrap_err().join("\n"));
        let flaws = parse("a.yaml", "kind: [\n").unwrap_err();
        assert!(flaws.len() == 1 && flaws[0].starts_with("a.yaml:"), "{flaws:?}");
    }

    #[test]
    fn a_file_may_have_as_many_objects_as_one_apply_and_values_so_deep_and_no_more() {
        let many: Vec<_> = (0..MAX_DOCUMENTS).map(|n| format!("kind: tunnel\nname: n{n}\n---\n")).collect();
        let many = many.concat();
        assert_eq!(parse("a.yaml", &many).unwrap().len(), MAX_DOCUMENTS);
        let items: Vec<_> = (0..100_000).map(|n| format!(" - {{value: a{n}, description: d}}\n")).collect();
        let items = items.concat();
        let list = format!("kind: list\nname: l\ntype: SERIAL\nitems:\n{items}");
        assert_eq!(parse("a.yaml", &list).unwrap().len(), 1);
        let deep = |depth: usize| {
            let config = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            parse("a.yaml", &format!("kind: tunnel_configuration\ntunnel: t\nconfig: {{a: {config}}}\n"))
        };
        assert!(deep(20).is_ok());
        let flaws = deep(10_000).unwrap_err();
        assert!(flaws.len() == 1 && flaws[0].starts_with("a.yaml:"), "{flaws:?}");
    }

    #[test]
    fn aliases_do_not_multiply_without_end() {
        let mut text =
            "kind: tunnel_configuration\ntunnel: t\nconfig:\n a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 8].join(", ");
            text.extend([" a", &level.to_string(), ": &a", &level.to_string(), " [", &inner, "]\n"]);
        }
        assert!(parse("a.yaml", &text).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_text_is_documents_or_flaws(text in "\\PC{0,200}") {
            fuzz_documents(text.as_bytes());
        }

        /// Lines of the kind that files have, in any order and at any depth.
        #[test]
        fn lines_in_any_order_are_documents_or_flaws(
            lines in proptest::collection::vec(
                (0..4_usize, proptest::sample::select(vec![
                    "kind: route", "kind: list", "kind: rule", "kind: tunnel_configuration", "name: a", "network: 10.0.0.0/8",
                    "tunnel: t", "- a", "items:", "items: [a, {value: b, description: c}]", "config:", "enabled: yes", "type: IP",
                    "precedence: 5", "filters: [l4]", "action: block", "---", "{}", "? x", "&a b", "*a", "<<: *a", "\"", "# x", "traffic: |",
                ])),
                0..24,
            ),
        ) {
            let lines: Vec<_> =
                lines.iter().map(|(depth, line)| format!("{}{line}\n", " ".repeat(*depth))).collect();
            let text = lines.concat();
            fuzz_documents(text.as_bytes());
        }

        /// What is printed as an object's member is read as what it was.
        #[test]
        fn what_is_exported_is_read_back(name in "\\PC{1,40}", comment in "[\\PC\n\r\t\u{7f}\u{85}\u{9f}]{0,60}") {
            let mut text = "kind: virtual_network\n".to_owned();
            crate::manage::print::member(&mut text, "name", &name.clone().into(), 0);
            crate::manage::print::member(&mut text, "comment", &comment.clone().into(), 0);
            let documents = parse("a.yaml", &text).unwrap_or_else(|flaws| panic!("{text}: {flaws:?}"));
            proptest::prop_assert_eq!(&documents[0].name, &name);
            proptest::prop_assert_eq!(documents[0].fields["comment"].value.as_str(), Some(comment.as_str()));
        }
    }

    #[test]
    fn any_bytes_are_documents_or_flaws() {
        for text in [
            "",
            "---\n",
            "&a [*a]",
            "{}",
            "kind: tunnel\nname: \"\"\n",
            "? [a]\n: b",
            "!!binary x",
            "kind: tunnel\n<<: 5",
        ] {
            fuzz_documents(text.as_bytes());
        }
    }
}
