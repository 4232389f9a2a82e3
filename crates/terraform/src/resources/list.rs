//! Gateway lists (contract D, 7).

use serde_json::{Map, Value as Json, json};

use crate::schema::{Attribute, Body, Changes, Import, Kind, Resource, Same, Spelling, Step, Take, When};
use crate::value::{Object, Value, of};

const NAME: Attribute = Attribute::required("name", Kind::Text, "A name.");
const TYPE: Attribute = Attribute::required(
    "type",
    Kind::Text,
    "What its items are: `SERIAL`, `URL`, `DOMAIN`, `EMAIL`, `IP`, `CATEGORY`, `LOCATION`, `DEVICE` or `AAGUID`.",
)
.replacing();
const DESCRIPTION: Attribute = Attribute::optional("description", Kind::Text, "A note.").unset(r#""""#);

/// 2022's list: its items are texts, changed by what is added and removed.
pub(super) static OLD: Resource = Resource {
    names: &["cloudflare_teams_list"],
    about: "A list that rules name.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        TYPE,
        DESCRIPTION,
        Attribute::optional("items", Kind::TextSet, "The items.").spelt(Spelling::Values).unset("[]"),
    ],
    import: Import::Id,
    create: &[
        Step::post("accounts/{account_id}/gateway/lists", Body::All),
        Step::get("accounts/{account_id}/gateway/lists/{id}"),
        Step::get("accounts/{account_id}/gateway/lists/{id}/items").take(Take::As("items")),
    ],
    read: &[
        Step::get("accounts/{account_id}/gateway/lists/{id}"),
        Step::get("accounts/{account_id}/gateway/lists/{id}/items").take(Take::As("items")),
    ],
    update: &[
        Step::put(
            "accounts/{account_id}/gateway/lists/{id}",
            Body::Only(&["id", "name", "type", "description"]),
        ),
        Step::patch("accounts/{account_id}/gateway/lists/{id}", Body::Made(difference))
            .when(When::Changed("items")),
        Step::get("accounts/{account_id}/gateway/lists/{id}"),
        Step::get("accounts/{account_id}/gateway/lists/{id}/items").take(Take::As("items")),
    ],
    delete: &[Step::delete("accounts/{account_id}/gateway/lists/{id}")],
    adopt: &[],
};

/// Today's list: its items are objects, replaced as a whole.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_list", "adit_list"],
    about: "A list that rules name.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        TYPE,
        DESCRIPTION,
        Attribute::optional("items", Kind::ObjectSet(ITEM), "The items.").unset("[]"),
        Attribute::computed("list_count", Kind::Number, Changes::With(&["items"]), "How many items it has.")
            .field("count"),
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("updated_at", Kind::Text, Changes::Always, "When it was last changed."),
    ],
    import: Import::Id,
    create: &[Step::post("accounts/{account_id}/gateway/lists", Body::All)],
    read: &[Step::get("accounts/{account_id}/gateway/lists/{id}")],
    update: &[Step::put("accounts/{account_id}/gateway/lists/{id}", Body::All)],
    delete: &[Step::delete("accounts/{account_id}/gateway/lists/{id}")],
    adopt: &[],
};

const ITEM: &[Attribute] = &[
    Attribute::required("value", Kind::Text, "The item, as its type says.").same(Same::Exact),
    Attribute::optional("description", Kind::Text, "A note."),
];

/// What is added to a list, and what is removed from it.
fn difference(_: &'static Resource, planned: &Object, prior: &Object) -> Json {
    let (new, old) = (of(planned, "items").list(), of(prior, "items").list());
    let missing_in = |list: &[Value], other: &[Value]| {
        list.iter().filter(|item| !other.contains(item)).map(Value::to_json).collect::<Vec<Json>>()
    };
    let append: Vec<Json> = missing_in(new, old).into_iter().map(|value| json!({ "value": value })).collect();
    let remove = missing_in(old, new);
    let mut body = Map::from_iter([("id".to_owned(), of(planned, "id").to_json())]);
    if !append.is_empty() {
        body.insert("append".into(), append.into());
    }
    if !remove.is_empty() {
        body.insert("remove".into(), remove.into());
    }
    body.into()
}
