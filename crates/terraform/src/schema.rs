//! What a resource is, as one table: attributes, how they are planned and spelt, and the calls that make, read, change and
//! delete it. The plugin's schema, the plan, the bodies of calls and what is kept of an answer are all read from it.

use http::Method;
use serde_json::Value as Json;

use crate::protocol as p;
use crate::value::Object;

/// A resource, under each of its names.
#[derive(Debug)]
pub struct Resource {
    /// Its type names: the first is the one that messages use.
    pub names: &'static [&'static str],
    /// One sentence.
    pub about: &'static str,
    /// Its attributes, `id` included.
    pub attributes: &'static [Attribute],
    /// What an import id consists of.
    pub import: Import,
    /// The calls that make one.
    pub create: &'static [Step],
    /// The calls that read one.
    pub read: &'static [Step],
    /// The calls that change one.
    pub update: &'static [Step],
    /// The calls that delete one.
    pub delete: &'static [Step],
    /// The calls that only an import makes, after `read`.
    pub adopt: &'static [Step],
}

/// An attribute of a resource or of an object in one.
#[derive(Debug)]
pub struct Attribute {
    /// Its name in a configuration.
    pub name: &'static str,
    /// Its name in the API; empty for what only the path of a call names.
    pub field: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Who sets it.
    pub mode: Mode,
    /// Whether another value needs another object.
    pub replaces: bool,
    /// Whether it is not shown.
    pub sensitive: bool,
    /// Which texts mean the same.
    pub same: Same,
    /// How the API spells it.
    pub spelling: Spelling,
    /// What is sent (JSON) when it was set and is no longer; empty: nothing.
    pub unset: &'static str,
    /// What the API says (JSON) when it was not set, if that is not something empty; or [`ANY`].
    pub absent: &'static str,
    /// One line for a person.
    pub about: &'static str,
}

/// What an import id consists of, after the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Import {
    /// The object's id.
    Id,
    /// A network, and the id of its virtual network unless that is the default one.
    Network,
}

/// As [`Attribute::absent`]: whatever the API says.
pub(crate) const ANY: &str = "any";

/// The type of an attribute.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// A list of texts.
    Texts,
    /// A set of texts.
    TextSet,
    /// Texts by name.
    TextMap,
    /// Lists of texts by name.
    TextsMap,
    /// One object.
    Object(&'static [Attribute]),
    /// A list of objects.
    Objects(&'static [Attribute]),
    /// A set of objects.
    ObjectSet(&'static [Attribute]),
    /// At most one nested block.
    Block(&'static [Attribute]),
}

/// Who sets an attribute.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// The configuration.
    Required,
    /// The configuration, or nobody.
    Optional,
    /// The configuration, else this.
    Defaulted(Default),
    /// The configuration; else it is what it was, and at first what the API makes it.
    Kept,
    /// The API.
    Computed(Changes),
}

/// What an attribute is when the configuration does not say.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// This text.
    Text(&'static str),
    /// This.
    Flag(bool),
    /// This number.
    Number(i64),
}

/// When an update may give a computed attribute another value.
#[derive(Debug, Clone, Copy)]
pub enum Changes {
    /// Never.
    Never,
    /// With any change.
    Always,
    /// With a change of one of these.
    With(&'static [&'static str]),
}

/// Which texts mean the same, so that neither replaces the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Same {
    /// Equal ones.
    Exact,
    /// Equal durations: `1h` and `60m`.
    Duration,
    /// Equal moments: RFC 3339 in any offset.
    Time,
    /// Equal but for blanks.
    Unspaced,
    /// The same addresses: an address alone is a network of one, and letters of IPv6 have no case.
    Network,
}

/// How the API spells a value that a configuration spells otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Not at all.
    Plain,
    /// A text in an object of this one field, as an element of an array: `[{"value": "x"}]`.
    Values,
    /// Values of a header in one text, separated by commas; an array in the API.
    Commas,
    /// The place of a rule among others: thousands in the API, with the rule's name in the rest.
    Precedence,
}

/// One call.
#[derive(Debug)]
pub struct Step {
    /// Its method.
    pub method: Method,
    /// Its path below the base; `{name}` stands for an attribute's text.
    pub path: &'static str,
    /// What it sends.
    pub body: Body,
    /// What is kept of its answer.
    pub take: Take,
    /// Whether it is made.
    pub when: When,
}

/// What a call sends.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// Every attribute that is set.
    All,
    /// Every attribute that changed.
    Changed,
    /// Those of these fields that are set, in this order.
    Only(&'static [&'static str]),
    /// What this makes of what is planned and what was.
    Made(fn(&'static Resource, &Object, &Object) -> Json),
}

/// What is kept of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Nothing.
    Nothing,
    /// Its fields.
    Fields,
    /// An array, as the field of this name.
    As(&'static str),
    /// The object in an array that is this resource; none: it is gone.
    Match,
    /// A tunnel's token, and the secret in it.
    Token,
}

/// Whether a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Yes.
    Always,
    /// If this attribute changed.
    Changed(&'static str),
    /// If the id in the state is none of the API's: an older provider made it up.
    ForeignId,
    /// If the id in the state is one of the API's, as it is after a call for a foreign one.
    OwnId,
}

impl Attribute {
    const fn new(name: &'static str, kind: Kind, mode: Mode, about: &'static str) -> Self {
        Self {
            name,
            field: name,
            kind,
            mode,
            replaces: false,
            sensitive: false,
            same: Same::Exact,
            spelling: Spelling::Plain,
            unset: "",
            absent: "",
            about,
        }
    }

    pub(crate) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self::new(name, kind, Mode::Required, about)
    }

    pub(crate) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self::new(name, kind, Mode::Optional, about)
    }

    pub(crate) const fn defaulted(
        name: &'static str,
        kind: Kind,
        default: Default,
        about: &'static str,
    ) -> Self {
        Self::new(name, kind, Mode::Defaulted(default), about)
    }

    pub(crate) const fn kept(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self::new(name, kind, Mode::Kept, about)
    }

    pub(crate) const fn computed(
        name: &'static str,
        kind: Kind,
        changes: Changes,
        about: &'static str,
    ) -> Self {
        Self::new(name, kind, Mode::Computed(changes), about)
    }

    /// The account that everything belongs to.
    pub(crate) const fn account() -> Self {
        Self::required("account_id", Kind::Text, "The account.").only_in_path().replacing()
    }

    /// The id that the API gave.
    pub(crate) const fn id() -> Self {
        Self::computed("id", Kind::Text, Changes::Never, "The id.")
    }

    pub(crate) const fn field(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }

    pub(crate) const fn only_in_path(self) -> Self {
        self.field("")
    }

    pub(crate) const fn replacing(mut self) -> Self {
        self.replaces = true;
        self
    }

    pub(crate) const fn sensitive(mut self) -> Self {
        self.sensitive = true;
        self
    }

    pub(crate) const fn same(mut self, same: Same) -> Self {
        self.same = same;
        self
    }

    pub(crate) const fn spelt(mut self, spelling: Spelling) -> Self {
        self.spelling = spelling;
        self
    }

    pub(crate) const fn unset(mut self, json: &'static str) -> Self {
        self.unset = json;
        self
    }

    pub(crate) const fn absent(mut self, json: &'static str) -> Self {
        self.absent = json;
        self
    }

    /// Whether a configuration may set it.
    pub(crate) fn settable(&self) -> bool {
        !matches!(self.mode, Mode::Computed(_))
    }

    /// The type as the protocol has it, in JSON.
    fn type_json(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Text => Some(r#""string""#),
            Kind::Flag => Some(r#""bool""#),
            Kind::Number => Some(r#""number""#),
            Kind::Texts => Some(r#"["list","string"]"#),
            Kind::TextSet => Some(r#"["set","string"]"#),
            Kind::TextMap => Some(r#"["map","string"]"#),
            Kind::TextsMap => Some(r#"["map",["list","string"]]"#),
            Kind::Object(_) | Kind::Objects(_) | Kind::ObjectSet(_) | Kind::Block(_) => None,
        }
    }

    fn schema(&self) -> p::SchemaAttribute {
        let nested = |attributes: &[Self], nesting: p::Nesting| p::SchemaObject {
            attributes: attributes.iter().map(Self::schema).collect(),
            nesting: nesting.into(),
        };
        let nested_type = match self.kind {
            Kind::Object(attributes) => Some(nested(attributes, p::Nesting::Single)),
            Kind::Objects(attributes) => Some(nested(attributes, p::Nesting::List)),
            Kind::ObjectSet(attributes) => Some(nested(attributes, p::Nesting::Set)),
            Kind::Text
            | Kind::Flag
            | Kind::Number
            | Kind::Texts
            | Kind::TextSet
            | Kind::TextMap
            | Kind::TextsMap
            | Kind::Block(_) => None,
        };
        p::SchemaAttribute {
            name: self.name.to_owned(),
            r#type: self.type_json().unwrap_or_default().into(),
            nested_type,
            description: self.about.to_owned(),
            required: matches!(self.mode, Mode::Required),
            optional: matches!(self.mode, Mode::Optional | Mode::Defaulted(_) | Mode::Kept),
            computed: matches!(self.mode, Mode::Defaulted(_) | Mode::Kept | Mode::Computed(_)),
            sensitive: self.sensitive,
        }
    }
}

impl Kind {
    /// Whether the order of what is in it says nothing.
    pub(crate) fn is_set(self) -> bool {
        matches!(self, Self::TextSet | Self::ObjectSet(_))
    }
}

impl Resource {
    /// The attribute of this name.
    pub(crate) fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// The schema that the engine is told.
    pub(crate) fn schema(&self) -> p::Schema {
        p::Schema { version: 0, block: Some(block(self.attributes, self.about)) }
    }
}

/// Attributes and blocks as the protocol has them.
pub(crate) fn block(attributes: &[Attribute], about: &str) -> p::SchemaBlock {
    let mut block = p::SchemaBlock { description: about.to_owned(), ..p::SchemaBlock::default() };
    for attribute in attributes {
        if let Kind::Block(inner) = attribute.kind {
            block.block_types.push(p::SchemaNestedBlock {
                type_name: attribute.name.to_owned(),
                block: Some(self::block(inner, attribute.about)),
                nesting: p::Nesting::List.into(),
                min_items: 0,
                max_items: 1,
            });
        } else {
            block.attributes.push(attribute.schema());
        }
    }
    block
}

impl Step {
    const fn new(method: Method, path: &'static str, body: Body, take: Take) -> Self {
        Self { method, path, body, take, when: When::Always }
    }

    pub(crate) const fn get(path: &'static str) -> Self {
        Self::new(Method::GET, path, Body::None, Take::Fields)
    }

    pub(crate) const fn post(path: &'static str, body: Body) -> Self {
        Self::new(Method::POST, path, body, Take::Fields)
    }

    pub(crate) const fn put(path: &'static str, body: Body) -> Self {
        Self::new(Method::PUT, path, body, Take::Fields)
    }

    pub(crate) const fn patch(path: &'static str, body: Body) -> Self {
        Self::new(Method::PATCH, path, body, Take::Fields)
    }

    pub(crate) const fn delete(path: &'static str) -> Self {
        Self::new(Method::DELETE, path, Body::None, Take::Nothing)
    }

    pub(crate) const fn take(mut self, take: Take) -> Self {
        self.take = take;
        self
    }

    pub(crate) const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}
