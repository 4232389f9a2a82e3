//! Gateway rules (contract D, 8).
//!
//! 2022's rule has a place among others that a person gives; the API is told a thousand times that, and in the rest a
//! number made of the rule's name, so that rules at one place have an order. Today's tells the API its number as it is.

mod settings;

use serde_json::{Map, Value as Json, json};

use crate::convert;
use crate::schema::{Attribute, Body, Changes, Default, Import, Kind, Resource, Same, Spelling, Step};
use crate::value::Object;

const NAME: Attribute = Attribute::required("name", Kind::Text, "A name.");
const ACTION: Attribute = Attribute::required("action", Kind::Text, "What happens to what matches.");
const ENABLED: Attribute =
    Attribute::defaulted("enabled", Kind::Flag, Default::Flag(false), "Whether it is in force.");
const FILTERS: Attribute = Attribute::kept(
    "filters",
    Kind::Texts,
    "What it looks at: one of `dns`, `http`, `l4`, `egress`, `dns_resolver`.",
);
const TRAFFIC: Attribute =
    Attribute::defaulted("traffic", Kind::Text, Default::Text(""), "The expression that traffic matches.");
const IDENTITY: Attribute =
    Attribute::defaulted("identity", Kind::Text, Default::Text(""), "The expression that a person matches.");
const POSTURE: Attribute = Attribute::defaulted(
    "device_posture",
    Kind::Text,
    Default::Text(""),
    "The expression that a device matches.",
);
const PLACE: &str = "Its place among the rules of its filter: lower goes first.";
const VERSION: Attribute =
    Attribute::computed("version", Kind::Number, Changes::Always, "How often it was changed.");

/// 2022's rule.
pub(super) static OLD: Resource = Resource {
    names: &["cloudflare_teams_rule"],
    about: "A rule of the gateway.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        Attribute::required("description", Kind::Text, "A note."),
        Attribute::required("precedence", Kind::Number, PLACE).spelt(Spelling::Precedence),
        ENABLED,
        ACTION,
        FILTERS,
        TRAFFIC,
        IDENTITY,
        POSTURE,
        Attribute::optional("rule_settings", Kind::Block(settings::OLD), "What the action needs to know."),
        VERSION,
    ],
    import: Import::Id,
    create: &[
        Step::post("accounts/{account_id}/gateway/rules", Body::Made(whole)),
        Step::get("accounts/{account_id}/gateway/rules/{id}"),
    ],
    read: &[Step::get("accounts/{account_id}/gateway/rules/{id}")],
    update: &[
        Step::put("accounts/{account_id}/gateway/rules/{id}", Body::Made(whole)),
        Step::get("accounts/{account_id}/gateway/rules/{id}"),
    ],
    delete: &[Step::delete("accounts/{account_id}/gateway/rules/{id}")],
    adopt: &[],
};

/// Today's rule.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_gateway_policy", "adit_rule"],
    about: "A rule of the gateway.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        Attribute::defaulted("description", Kind::Text, Default::Text(""), "A note."),
        Attribute::kept("precedence", Kind::Number, PLACE),
        ENABLED,
        ACTION,
        FILTERS,
        TRAFFIC,
        IDENTITY,
        POSTURE,
        Attribute::optional("rule_settings", Kind::Object(settings::NEW), "What the action needs to know."),
        Attribute::optional("schedule", Kind::Object(SCHEDULE), "When it is in force; always if left out."),
        Attribute::optional("expiration", Kind::Object(EXPIRATION), "Until when it is in force."),
        VERSION,
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("updated_at", Kind::Text, Changes::Always, "When it was last changed."),
        Attribute::computed("deleted_at", Kind::Text, Changes::Never, "When it was deleted: never, here."),
        Attribute::computed("read_only", Kind::Flag, Changes::Never, "Whether it cannot be changed."),
        Attribute::computed("sharable", Kind::Flag, Changes::Never, "Whether other accounts may have it."),
        Attribute::computed("source_account", Kind::Text, Changes::Never, "The account that shares it."),
        Attribute::computed(
            "warning_status",
            Kind::Text,
            Changes::Always,
            "What is wrong with it, if anything.",
        ),
    ],
    import: Import::Id,
    create: &[Step::post("accounts/{account_id}/gateway/rules", Body::All)],
    read: &[Step::get("accounts/{account_id}/gateway/rules/{id}")],
    update: &[Step::put("accounts/{account_id}/gateway/rules/{id}", Body::All)],
    delete: &[Step::delete("accounts/{account_id}/gateway/rules/{id}")],
    adopt: &[],
};

const DAY: &str = "Spans such as `08:00-12:30,13:30-17:00`.";

const fn day(name: &'static str) -> Attribute {
    Attribute::optional(name, Kind::Text, DAY).same(Same::Unspaced)
}

const SCHEDULE: &[Attribute] = &[
    day("mon"),
    day("tue"),
    day("wed"),
    day("thu"),
    day("fri"),
    day("sat"),
    day("sun"),
    Attribute::optional(
        "time_zone",
        Kind::Text,
        "A name of the IANA database; the device's own if left out.",
    ),
];

const EXPIRATION: &[Attribute] = &[
    Attribute::required("expires_at", Kind::Text, "The moment, in RFC 3339.").same(Same::Time),
    Attribute::optional("duration", Kind::Number, "Minutes that a reset adds."),
    Attribute::computed("expired", Kind::Flag, Changes::Always, "Whether that moment is past."),
];

/// A rule as 2022's client writes it: every field, set or not, of the settings too.
fn whole(resource: &'static Resource, planned: &Object, prior: &Object) -> Json {
    let mut body = convert::fields(resource.attributes, planned);
    if let Some(id) = prior.get("id") {
        body.insert("id".into(), id.to_json());
    }
    for key in ["created_at", "updated_at", "deleted_at"] {
        body.insert(key.into(), Json::Null);
    }
    body.entry("filters").or_insert(Json::Null);
    body.insert("version".into(), prior.get("version").map_or(json!(0), crate::value::Value::to_json));
    let set = body.remove("rule_settings");
    let mut settings: Map<String, Json> = settings::zero();
    if let Some(Json::Object(set)) = set {
        settings.extend(set);
    }
    body.insert("rule_settings".into(), settings.into());
    body.into()
}
