//! Virtual networks (contract D, 6.5).

use crate::schema::{Attribute, Body, Changes, Default, Import, Kind, Resource, Step};

const NAME: Attribute =
    Attribute::required("name", Kind::Text, "A name, unique among the account's networks.");
const DEFAULT: Attribute = Attribute::defaulted(
    "is_default_network",
    Kind::Flag,
    Default::Flag(false),
    "Whether routes and devices that name none are in this one.",
);
const COMMENT: &str = "A note.";

const CREATE: &[Step] = &[Step::post("accounts/{account_id}/teamnet/virtual_networks", Body::All)];
const READ: &[Step] = &[Step::get("accounts/{account_id}/teamnet/virtual_networks/{id}")];
const UPDATE: &[Step] = &[Step::patch("accounts/{account_id}/teamnet/virtual_networks/{id}", Body::Changed)];
const DELETE: &[Step] = &[Step::delete("accounts/{account_id}/teamnet/virtual_networks/{id}")];

/// 2022's virtual network.
pub(super) static OLD: Resource = Resource {
    names: &["cloudflare_tunnel_virtual_network"],
    about: "A set of routes of its own, so that addresses may overlap.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        Attribute::optional("comment", Kind::Text, COMMENT).unset(r#""""#),
        DEFAULT,
    ],
    import: Import::Id,
    create: CREATE,
    read: READ,
    update: UPDATE,
    delete: DELETE,
    adopt: &[],
};

/// Today's virtual network.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_tunnel_cloudflared_virtual_network", "adit_virtual_network"],
    about: "A set of routes of its own, so that addresses may overlap.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        Attribute::defaulted("comment", Kind::Text, Default::Text(""), COMMENT),
        DEFAULT,
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("deleted_at", Kind::Text, Changes::Never, "When it was deleted: never, here."),
    ],
    import: Import::Id,
    create: CREATE,
    read: READ,
    update: UPDATE,
    delete: DELETE,
    adopt: &[],
};
